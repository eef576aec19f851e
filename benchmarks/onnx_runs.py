"""Running ONNX models for the benchmark: sessions of one thread, inputs, differences, accuracy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Feed = dict[str, NDArray[Any]]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def drawn(model: onnx.ModelProto, given: "dict[str, Any] | None" = None, seed: int = 0) -> Feed:
    """Random inputs of batch 1; `given` are shapes of inputs with dynamic axes, or their values."""
    generator, feed = np.random.default_rng(seed), {}
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        shape = (given or {}).get(value.name, tuple(axis.dim_value or 1 for axis in kind.shape.dim))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if isinstance(shape, np.ndarray):
            feed[value.name] = shape
        elif dtype.kind == "f":
            feed[value.name] = generator.standard_normal(shape).astype(dtype)
        else:
            feed[value.name] = generator.integers(0, 2, shape).astype(dtype)
    return feed


def runner(model: onnx.ModelProto, feed: Feed) -> Callable[[], list[NDArray[Any]]]:
    """A call that runs the model once."""
    loaded = session(model)
    return lambda: loaded.run(None, feed)


def difference(expected: list[NDArray[Any]], found: list[NDArray[Any]]) -> float:
    """The largest difference relative to the largest number of each output; infinite where shapes differ."""
    worst = 0.0
    for left, right in zip(expected, found, strict=True):
        if left.shape != right.shape:
            return float("inf")
        if left.size:
            left, right = left.astype(np.float64), right.astype(np.float64)
            worst = max(worst, float(np.abs(left - right).max() / max(np.abs(left).max(), 1e-30)))
    return worst


def first(model: onnx.ModelProto, images: NDArray[Any]) -> Feed:
    """The first image as inputs, in the type that the model takes."""
    given = session(model).get_inputs()[0]
    return {given.name: images[:1].astype(np.float16 if "float16" in given.type else np.float32)}


def accuracy(model: onnx.ModelProto, images: NDArray[Any], labels: NDArray[Any]) -> float:
    """The share of images that are recognised, in the batch size that the model takes."""
    loaded = session(model)
    given = loaded.get_inputs()[0]
    dtype = np.float16 if "float16" in given.type else np.float32
    batch = given.shape[0] if isinstance(given.shape[0], int) else 100
    hits = 0
    for start in range(0, len(images) // batch * batch, batch):
        scores = loaded.run(None, {given.name: images[start : start + batch].astype(dtype)})[0]
        hits += int((scores.reshape(batch, -1).argmax(1) == labels[start : start + batch]).sum())
    return hits / (len(images) // batch * batch)
