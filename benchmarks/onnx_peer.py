"""The structured pruning of onnxsim, and what its result is worth: it keeps no record of what it dropped."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

NAME = "onnxsim"
ENTRIES = ("apply_structured_pruning", "apply_structured_pruning_cpp", "apply_structured_pruning_qdq")
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
WEIGHTS = {*FLOATS, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}

Kept = dict[str, dict[int, NDArray[np.int64]]]


def prune(
    model: onnx.ModelProto, sparsity: float, feed: dict[str, NDArray[Any]]
) -> tuple[str, onnx.ModelProto, onnx.ModelProto]:
    """The smallest result that is valid and runs, of all entry points, of the model as it is and simplified.

    Returns what was called, the model that was given to it, and its result. `sparsity` is a share of the channels of
    the chains that it finds.
    """
    found, errors = [], []
    for given, source in _sources(model):
        for entry in ENTRIES:
            try:
                import onnxsim

                result = getattr(onnxsim, entry)(source, sparsity=sparsity)
            except Exception as error:  # of any kind: it is a figure of the table
                errors.append(f"{entry}: {type(error).__name__}: {error}".splitlines()[0])
                continue
            found.append((defect(result, feed) is not None, elements(result), f"{given}{entry}", source, result))
    if not found:
        raise RuntimeError(errors[0])
    return min(found, key=lambda item: item[:2])[2:]


def at_most(model: onnx.ModelProto, share: float, feed: dict[str, NDArray[Any]]) -> onnx.ModelProto | None:
    """Its result with just no more than this share of the parameters; None where it cannot go as far."""
    low, high, best = 0.0, 0.98, None
    for _ in range(7):
        middle = (low + high) / 2
        _, _, result = prune(model, middle, feed)
        if elements(result) <= share * elements(model) and defect(result, feed) is None:
            high, best = middle, result
        else:
            low = middle
    return best


def _sources(model: onnx.ModelProto) -> list[tuple[str, onnx.ModelProto]]:
    import onnxsim

    sources = [("", model)]
    try:
        sources.append(("simplify, ", onnxsim.simplify(model)[0]))
    except Exception:  # then it is judged by the model as it is
        pass
    return sources


def elements(model: onnx.ModelProto) -> int:
    """The number of stored weights, in initializers and in Constant nodes."""
    return sum(int(np.prod(tensor.dims)) for tensor in tensors(model).values() if tensor.data_type in WEIGHTS)


def tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Stored tensors by name, those of the model itself."""
    constants = (node for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].name == "value")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return stored | {node.output[0]: node.attribute[0].t for node in constants}


def defect(model: onnx.ModelProto, feed: dict[str, NDArray[Any]]) -> str | None:
    """Why a model is no good, or None: the checker, strict shape inference, loading and a run in ONNX Runtime."""
    from onnx_runs import session

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        session(model).run(None, feed)
    except Exception as error:  # the three have no common class
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return None


def kept_of(source: onnx.ModelProto, result: onnx.ModelProto) -> Kept | None:
    """What is left of every tensor that shrank, found by its numbers; None where they are no part of the original."""
    before, kept = tensors(source), {}
    for name, tensor in tensors(result).items():
        if name not in before:
            return None
        old, new = numpy_helper.to_array(before[name]), numpy_helper.to_array(tensor)
        if old.shape == new.shape:
            continue
        axes = _matched(old, new)
        if axes is None:
            return None
        kept[name] = axes
    return kept


def _matched(old: NDArray[Any], new: NDArray[Any]) -> dict[int, NDArray[np.int64]] | None:
    """The indices of every axis of which `new` is the part of `old`; None where it is none."""
    if old.ndim != new.ndim or any(a < b for a, b in zip(old.shape, new.shape, strict=True)):
        return None
    kept = {axis: np.arange(size) for axis, size in enumerate(old.shape)}
    shrunk = [axis for axis in kept if old.shape[axis] != new.shape[axis]]
    numbers = np.sort(old, axis=None)
    order = np.argsort(old, axis=None)
    places = np.unravel_index(order[np.searchsorted(numbers, new.ravel()).clip(max=old.size - 1)], old.shape)
    for axis in shrunk:
        # every number of a row of the result votes for the row of the original that it stands in
        votes = np.moveaxis(places[axis].reshape(new.shape), axis, 0).reshape(new.shape[axis], -1)
        kept[axis] = np.array([np.bincount(row).argmax() for row in votes], dtype=np.int64)
    same = np.array_equal(old[np.ix_(*kept.values())], new)
    return {axis: kept[axis] for axis in shrunk} if same else None


def masked(source: onnx.ModelProto, kept: Kept) -> onnx.ModelProto:
    """The original with zeros where `kept` leaves something out."""
    result = onnx.ModelProto()
    result.CopyFrom(source)
    stored = tensors(result)
    for name, axes in kept.items():
        tensor = stored[name]
        if tensor.data_type not in FLOATS:
            continue
        array = numpy_helper.to_array(tensor).copy()
        for axis, index in axes.items():
            gone = np.setdiff1d(np.arange(array.shape[axis]), index)
            np.moveaxis(array, axis, 0)[gone] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return result
