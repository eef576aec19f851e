"""Run a model in ONNX Runtime for verification: in float64 as far as it goes, one thread, one session for many runs."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from ...equivalence import Precision
from ...errors import ExampleInputsError, GraphPruneError, VerifyError
from .widen import NARROW, Widened, island_names, prepare, widened

Feeds = Mapping[str, NDArray[Any]]

LARGEST = 900 * 2**20
"""Bytes of floats, counted in float32, above which a model runs as it is stored."""

SMALL = 1024
"""Bytes of a tensor that is sent to ONNX Runtime inside the model; larger ones are shared."""

_HALVES = ("float16", "bfloat16")


class Runner:
    """A model in a session of ONNX Runtime, to be called with inputs by name.

    `feeds` tell the shapes for which it is built, `expose` names further values that a run returns after the outputs.
    `precision` says in what it computes.

    ```python
    import numpy as np, onnx, onnx_ir
    from graphprune.frontends.onnx.run import Runner

    text = '<ir_version: 9, opset_import: ["": 17]> net (float[1, 4] x) => (float[1, 4] y) { y = Erf(x) }'
    run = Runner(onnx_ir.from_proto(onnx.parser.parse_model(text)), {"x": np.ones((1, 4))})
    assert run({"x": np.zeros((1, 4))})[0].dtype == np.float64 and run.precision.tolerance == 1e-9
    ```
    """

    def __init__(self, model: ir.Model, feeds: Feeds, expose: Iterable[str] = (), threads: int = 1) -> None:
        shapes = {name: tuple(np.shape(array)) for name, array in feeds.items()}
        if is_large(model):
            ready, self.precision = prepare(model, shapes, {}), _stored_precision(model)
        else:
            wide = widened(model, shapes)
            if wide.unknown:
                wide = widened(model, shapes, _observed(model, feeds, wide.unknown))
            ready, self.precision = wide.model, _precision(wide)
        self.outputs = [value.name or "" for value in ready.graph.outputs]
        self.exposed = _expose(ready, expose)
        self._dtypes = {value.name: value.dtype for value in ready.graph.inputs}
        self._session = _session(ready, threads)

    def __call__(self, feeds: Feeds) -> list[NDArray[Any]]:
        """The outputs, then the exposed values. Raises `VerifyError` where an operator fails."""
        missing = sorted(set(self._dtypes) - set(feeds), key=str)
        if missing:
            raise ExampleInputsError(f"the model reads the inputs {missing}, which were not given")
        given = {name: _fed(feeds[str(name)], dtype) for name, dtype in self._dtypes.items()}
        try:
            found = self._session.run([*self.outputs, *self.exposed], given)
        except Exception as error:
            sizes = {name: array.shape for name, array in given.items()}
            raise VerifyError(
                f"ONNX Runtime cannot run this model with inputs of sizes {sizes}, so it cannot be verified: {error}. "
                "Pass example_inputs of sizes that it takes, or verify=False."
            ) from error
        return [array if isinstance(array, np.ndarray) else np.asarray(array) for array in found]


def outputs(model: ir.Model, feeds: Feeds, expose: Iterable[str] = (), threads: int = 1) -> list[NDArray[Any]]:
    """What one run of a model gives; see `Runner` for many."""
    return Runner(model, feeds, expose, threads)(feeds)


def is_large(model: ir.Model) -> bool:
    """Whether the floats of a model are too many to hold them in float64."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.size * 4 for tensor in tensors if tensor is not None and tensor.dtype in NARROW) > LARGEST


def _precision(wide: Widened) -> Precision:
    if not wide.islands:
        return Precision()
    lost = {dtype for _, dtype, _ in wide.islands}
    ran = "; ".join(
        f"{', '.join(island_names(one for one in wide.islands if one[1] == dtype))} in {dtype}"
        for dtype in sorted(lost)
    )
    name = f"float64, but {ran}"
    return Precision(name, 1e-2, 1e-4) if lost & set(_HALVES) else Precision(name, 1e-5, 1e-7)


def _stored_precision(model: ir.Model) -> Precision:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    half = any(tensor is not None and tensor.dtype in NARROW[1:] for tensor in tensors)
    name = f"as stored: more than {LARGEST >> 20} MB of weights are not widened"
    return Precision(f"half precision, {name}", 2e-2, 1e-3) if half else Precision(f"float32, {name}", 1e-4, 1e-7)


def _observed(model: ir.Model, feeds: Feeds, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The shapes that values have in a run of the model as it is; nothing where it does not run."""
    shapes = {name: tuple(np.shape(array)) for name, array in feeds.items()}
    plain = prepare(model, shapes, {})
    exposed = _expose(plain, names)
    try:
        session = _session(plain, 1)
        dtypes = {value.name: value.dtype for value in plain.graph.inputs}
        found = session.run(exposed, {name: _fed(feeds[str(name)], dtype) for name, dtype in dtypes.items()})
    except Exception:
        return {}
    return {name: tuple(array.shape) for name, array in zip(exposed, found, strict=True) if hasattr(array, "shape")}


def _expose(model: ir.Model, names: Iterable[str]) -> list[str]:
    """Make values of the main graph outputs; returns the names of those that are there and are tensors."""
    wanted, outputs = set(names), {value.name for value in model.graph.outputs}
    computed = [value for node in model.graph for value in node.outputs if value.name in wanted]
    tensors = [value for value in computed if value.type is None or isinstance(value.type, ir.TensorType)]
    model.graph.outputs.extend(value for value in tensors if value.name not in outputs)
    return [value.name or "" for value in tensors]


def _fed(array: Any, dtype: ir.DataType | None) -> NDArray[Any]:
    """An input in the dtype that the model takes."""
    return (
        np.asarray(array)
        if dtype is None
        else np.ascontiguousarray(array).astype(dtype.numpy()).reshape(np.shape(array))
    )


def _session(model: ir.Model, threads: int) -> onnxruntime.InferenceSession:
    try:
        return session_of(model, threads)
    except GraphPruneError:
        raise
    except Exception as error:
        raise VerifyError(
            f"ONNX Runtime cannot load this model, so it cannot be verified: {error}. Pass verify=False."
        ) from error


def session_of(model: ir.Model, threads: int, optimised: bool = False) -> onnxruntime.InferenceSession:
    """A session for a model of ours, whose large tensors it shares with us; the model is used up.

    Raises whatever ONNX Runtime raises where it cannot load the model.
    """
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.log_severity_level = 4
    names, values = [], []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= SMALL or tensor.dtype.bitwidth < 8 or tensor.dtype == ir.DataType.STRING:
            continue
        names.append(value.name)
        values.append(_shared(tensor.numpy(), tensor.dtype))
        value.const_value = ir.ExternalTensor(
            "shared", None, None, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=value.name or "", base_dir=""
        )
    options.add_external_initializers(names, values)
    for value in model.graph.outputs:
        if isinstance(value.type, ir.TensorType):
            value.shape = None
    text = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])


def _shared(array: NDArray[Any], dtype: ir.DataType) -> onnxruntime.OrtValue:
    array = np.ascontiguousarray(array)
    if dtype in (ir.DataType.BFLOAT16, *_EIGHTS):
        bits = array.view(np.uint16 if dtype == ir.DataType.BFLOAT16 else np.uint8)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, int(dtype))
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


_EIGHTS = tuple(dtype for dtype in ir.DataType if dtype.name.startswith("FLOAT8"))
