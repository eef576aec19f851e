"""An oracle for ONNX models that knows nothing of graphprune's rules.

It masks the original by hand, runs both models in float64 with the reference evaluator of the onnx package, and
compares. What stays as it was (names, signatures, metadata, nodes that nobody may touch) is compared too.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphprune
from onnx_wide import NARROW, OPERATIONS, plain_constant, widened

Feeds = dict[str, np.ndarray]

OWN_KEY = "graphprune.plan"
TOLERANCE = 1e-9
REPAIRED = 1e-6
"""A repaired norm has its scale and eps rounded to float32."""
SINGLE = 1e-5
"""Where only ONNX Runtime knows the operations, in float32."""
HALF = 2e-2
LITTLE = 1e-6
FLOATS = {*NARROW, TensorProto.DOUBLE}
BYTES = {TensorProto.INT8, TensorProto.UINT8}


def check(
    model: onnx.ModelProto,
    sparsity: float = 0.5,
    feeds: "list[Feeds] | None" = None,
    inexact: bool = False,
    untouched: Iterable[str] = (),
    example_inputs: "Feeds | None" = None,
    **options,
) -> onnx.ModelProto:
    """Prune and prove: something went, inputs move outputs, pruned equals masked, the rest is as it was.

    `feeds` are the inputs of several runs, drawn for two sizes of every dynamic axis where left out; `inexact` allows
    groups whose removal is not masking, which only the library's own verification can judge; `untouched` names nodes
    that must be in the result byte for byte.
    """
    before = model.SerializeToString(deterministic=True)
    slim = graphprune.optimize(model, sparsity, verify=False, example_inputs=example_inputs, **options)
    assert model.SerializeToString(deterministic=True) == before, "the original changed"
    judge(model, slim, sparsity, feeds or draw(model), inexact, options.get("budget", "params"))
    same_nodes(model, slim, untouched)
    return slim


def judge(
    model: onnx.ModelProto,
    slim: onnx.ModelProto,
    sparsity: float,
    feeds: list[Feeds],
    inexact: bool = False,
    budget: str = "params",
) -> None:
    """Everything that a pruned model must be."""
    plan = graphprune.plan_of(slim)
    assert plan is not None and plan.kept, "nothing was pruned"
    assert elements(slim) < elements(model), "the result has as many parameters as the original"
    total, left = plan.report[budget]
    assert left <= total * (1 - sparsity) + 1e-6, f"{left} of {total} left at sparsity {sparsity}"
    if is_valid(model):
        valid(slim)
    same_outside(model, slim)
    if inexact:
        graphprune.verify(model, slim, plan, feeds[0])
    else:
        assert plan.exact, "dropping is not masking here, which was not asked for"
        equal(masked(unshared(model, slim), plan), slim, feeds, REPAIRED if plan.repairs else TOLERANCE)


def equal(expected: onnx.ModelProto, slim: onnx.ModelProto, feeds: list[Feeds], tolerance: float = TOLERANCE) -> None:
    """Both give the same numbers, which the inputs move; ONNX Runtime agrees in the types that are written down."""
    first, second = Runner(expected), Runner(slim)
    results = []
    for feed in feeds:
        wanted, found = first(feed), second(feed)
        assert first.wide == second.wide
        tolerance = tolerance if first.wide else max(tolerance, SINGLE * first.coarse)
        error = difference(wanted, found)
        assert error <= tolerance, f"the pruned model differs from the masked one by {error:.1e}"
        assert all(np.isfinite(array).all() for array in wanted if array.dtype.kind == "f"), "not finite"
        results.append((feed, found))
    moved = max(difference(found, second(_other(feed))) for feed, found in results)
    assert moved > max(LITTLE, 5 * tolerance), f"inputs move outputs by {moved:.1e} only"
    if first.wide and session(expected) is not None:
        runtime = session(slim)
        assert runtime is not None, "ONNX Runtime runs the original and not the pruned model"
        for feed, found in results:
            error = difference(found, runtime.run(None, feed))
            coarse = 10 * SINGLE * first.coarse
            assert error <= coarse, f"ONNX Runtime differs from the reference by {error:.1e}"


class Runner:
    """Runs a model in float64 with the reference evaluator, or in ONNX Runtime where that one lacks an operation."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.coarse = _coarseness(model)
        self._model, self._session = model, None
        try:
            self._reference = ReferenceEvaluator(widened(model), new_ops=OPERATIONS)
            self.wide = not any(map(_evaluated_wrongly, model.graph.node))
        except Exception:  # it says in many ways that it lacks an operation
            self.wide = False

    def __call__(self, feed: Feeds) -> list[np.ndarray]:
        """All outputs of one run."""
        if self.wide:
            doubles = {name: array.astype(np.float64) if _is_float(array) else array for name, array in feed.items()}
            try:
                return self._reference.run(None, doubles)
            except Exception:  # a few operations are not complete there
                self.wide = False
        self._session = self._session or session(self._model)
        assert self._session is not None, "neither the reference evaluator nor ONNX Runtime runs this model"
        return self._session.run(None, feed)


def _evaluated_wrongly(node: onnx.NodeProto) -> bool:
    """Operations that the reference evaluator does differently from what their specification says."""
    lengths = node.op_type in ("LSTM", "GRU", "RNN") and len(node.input) > 4 and node.input[4]
    return bool(lengths) or node.op_type == "LRN"


def masked(model: onnx.ModelProto, plan: graphprune.Plan) -> onnx.ModelProto:
    """The original with every dropped position of every stored tensor set to what means zero there."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    places = stored(result)
    zeros = zero_points(result)
    for name, axes in plan.kept.items():
        tensor = places[name]
        array = numpy_helper.to_array(tensor).copy()
        if tensor.data_type in FLOATS:
            zero = np.zeros(array.shape, dtype=array.dtype)
        elif name in zeros:
            zero = np.broadcast_to(zeros[name], array.shape)
        else:
            continue  # an index looks dropped positions up, and finds zeros there; scales of zeros do not matter
        if name in _scales(result):
            continue
        for axis, kept in axes.items():
            dropped = _dropped(array.shape, axis, kept)
            array[dropped] = zero[dropped]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return result


def unshared(model: onnx.ModelProto, slim: onnx.ModelProto) -> onnx.ModelProto:
    """The original with a tensor of its own wherever the slim model has one: `b/1` is a copy of `b` for one reader."""
    result = _copy(model)
    tensors, readers = stored(result), {node.output[0]: node for node in result.graph.node}
    for name, tensor in stored(_copy(slim)).items():
        source = name.rpartition("/")[0]
        if name in tensors or source not in tensors:
            continue
        copy = result.graph.initializer.add()
        copy.CopyFrom(tensors[source])
        copy.name = name
        for node in slim.graph.node:
            for place in (place for place, read in enumerate(node.input) if read == name):
                assert readers[node.output[0]].input[place] == source
                readers[node.output[0]].input[place] = name
    return result


def _dropped(shape: tuple[int, ...], axis: int, kept: np.ndarray) -> np.ndarray:
    """True where positions of an axis go; `kept` has one row per block of axis 0, or is one row."""
    rows = np.atleast_2d(kept)
    gone = np.ones((len(rows), shape[axis]), dtype=bool)
    for row, own in zip(gone, rows, strict=True):
        row[own] = False
    gone = np.repeat(gone, shape[0] // len(rows) if kept.ndim == 2 else 1, axis=0)
    spread = [1] * len(shape)
    spread[axis] = shape[axis]
    if kept.ndim == 2:
        spread[0] = shape[0]
    return np.broadcast_to(gone.reshape(spread), shape)


def stored(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Initializers and what Constant nodes hold, by name; the tensors are those of the model, to be written into."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        constant = plain_constant(node)
        if constant is None:
            continue
        if node.attribute[0].name != "value":
            tensor = TensorProto()
            tensor.CopyFrom(constant)
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", tensor))
        found[node.output[0]] = node.attribute[0].t
    return found


_QUANTISED = {  # operation: {input that holds integers: input that holds their zero point, or None}
    "DequantizeLinear": {0: 2},
    "QLinearConv": {0: 2, 3: 5, 8: None},
    "QLinearMatMul": {0: 2, 3: 5},
    "ConvInteger": {0: 2, 1: 3},
    "MatMulInteger": {0: 2, 1: 3},
}
_SCALES = {"DequantizeLinear": (1,), "QuantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6)}


def zero_points(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """For stored integers that stand for real numbers: the integer that stands for zero, ready to be broadcast."""
    tensors = stored(model)
    found = {}
    for node in model.graph.node:
        for place, beside in _QUANTISED.get(node.op_type, {}).items():
            name = node.input[place] if place < len(node.input) else ""
            if name not in tensors:
                continue
            zero = node.input[beside] if beside is not None and beside < len(node.input) else ""
            point = numpy_helper.to_array(tensors[zero]) if zero in tensors else np.zeros((), dtype=np.int8)
            if point.ndim == 1 and point.size > 1:  # one per channel
                spread = [1] * len(tensors[name].dims)
                spread[_channel_axis(node, len(spread))] = point.size
                point = point.reshape(spread)
            found[name] = point.reshape(()) if point.size == 1 else point
    return found


def _channel_axis(node: onnx.NodeProto, rank: int) -> int:
    if node.op_type == "DequantizeLinear":
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        return axis % rank
    return 0 if "Conv" in node.op_type else rank - 1


def _scales(model: onnx.ModelProto) -> set[str]:
    places = ((node, place) for node in model.graph.node for place in _SCALES.get(node.op_type, ()))
    return {node.input[place] for node, place in places if place < len(node.input)}


def valid(model: onnx.ModelProto) -> None:
    """The checker and strict shape inference have nothing to say."""
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def is_valid(model: onnx.ModelProto) -> bool:
    """Whether the checker takes a model; some that run well use deprecated operations."""
    try:
        valid(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def same_outside(model: onnx.ModelProto, slim: onnx.ModelProto) -> None:
    """Whatever a reader of the model relies on, other than sizes inside, is as it was."""
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(model, field) == getattr(slim, field), f"{field} changed"
    assert _opsets(model) == _opsets(slim), "the opset changed"
    assert metadata(model) == metadata(slim), "metadata_props changed"
    assert model.graph.name == slim.graph.name and model.graph.doc_string == slim.graph.doc_string
    stored_names = {tensor.name for tensor in model.graph.initializer}
    for which in ("input", "output"):
        given, found = getattr(model.graph, which), getattr(slim.graph, which)
        assert [item.name for item in given] == [item.name for item in found], f"names of {which}s changed"
        for left, right in zip(given, found, strict=True):
            same = left == right or left.name in stored_names
            assert same, f"{which} {left.name} was {left.type} and is {right.type}"
    assert [bytes_of(item) for item in model.functions] == [bytes_of(item) for item in slim.functions]
    named = {(node.op_type, node.name): node.doc_string for node in slim.graph.node}
    for node in model.graph.node:
        if node.doc_string and (node.op_type, node.name) in named:
            assert named[node.op_type, node.name] == node.doc_string


def same_nodes(model: onnx.ModelProto, slim: onnx.ModelProto, names: Iterable[str]) -> None:
    """These nodes are in both models, byte for byte."""
    for name in names:
        found = [[bytes_of(node) for node in one.graph.node if node.name == name] for one in (model, slim)]
        assert found[0], f"there is no node {name}"
        assert found[0] == found[1], f"node {name} changed"


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Metadata other than our own entry."""
    return {item.key: item.value for item in model.metadata_props if item.key != OWN_KEY}


def bytes_of(message) -> bytes:
    """A message in bytes that can be compared."""
    return message.SerializeToString(deterministic=True)


def elements(model: onnx.ModelProto) -> int:
    """Stored numbers that are no indices or shapes."""
    kinds = FLOATS | BYTES
    return sum(int(np.prod(tensor.dims)) for tensor in stored(_copy(model)).values() if tensor.data_type in kinds)


def draw(
    model: onnx.ModelProto, sizes: "Mapping[str, tuple[int, int]] | None" = None, highest: int = 2, seed: int = 0
) -> list[Feeds]:
    """Random inputs for two runs: axes without a number take a smaller and a larger size."""
    generator = np.random.default_rng(seed)
    stored_names = {tensor.name for tensor in model.graph.initializer}
    runs = []
    for run in range(2):
        feed = {}
        for value in model.graph.input:
            if value.name in stored_names:
                continue
            kind = value.type.tensor_type
            shape = [_size(axis, run, sizes or {}) for axis in kind.shape.dim]
            feed[value.name] = _numbers(generator, kind.elem_type, shape, highest)
        runs.append(feed)
    return runs


def difference(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """The largest difference relative to the largest number of each output."""
    assert len(expected) == len(found)
    worst = 0.0
    for left, right in zip(expected, found, strict=True):
        if left.shape != right.shape:
            return np.inf
        if left.size:
            left, right = left.astype(np.float64), right.astype(np.float64)
            worst = max(worst, float(np.abs(left - right).max() / max(np.abs(left).max(), 1e-30)))
    return worst


def _size(axis: onnx.TensorShapeProto.Dimension, run: int, sizes: Mapping[str, tuple[int, int]]) -> int:
    if axis.WhichOneof("value") == "dim_value":
        return axis.dim_value
    return sizes.get(axis.dim_param, (2, 3))[run]


def _numbers(generator: np.random.Generator, kind: int, shape: list[int], highest: int) -> np.ndarray:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if kind in FLOATS:
        return generator.standard_normal(shape).astype(dtype)
    if kind in BYTES:
        return generator.integers(0, 100, shape).astype(dtype)
    return generator.integers(0, highest, shape).astype(dtype)


def _other(feed: Feeds) -> Feeds:
    generator = np.random.default_rng(99)
    moved = {}
    for name, array in feed.items():
        if _is_float(array):
            array = generator.standard_normal(array.shape).astype(array.dtype)
        elif array.size and array.dtype.kind in "iu":
            array = (array.max() - array).astype(array.dtype)
        moved[name] = array
    return moved


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _coarseness(model: onnx.ModelProto) -> float:
    """How many times coarser than float32 the types of a model are."""
    tensors = stored(_copy(model)).values()
    kinds = {tensor.data_type for tensor in tensors if tensor.data_type in FLOATS | BYTES}
    return 1.0 if kinds <= {TensorProto.FLOAT, TensorProto.DOUBLE} else HALF / SINGLE


def session(model: onnx.ModelProto) -> "onnxruntime.InferenceSession | None":
    """An ONNX Runtime session, or None where it cannot load the model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its exceptions have no common class; what it cannot load, the reference must run
        return None


def _domains(model: onnx.ModelProto) -> set[str]:
    return {node.domain for node in model.graph.node}


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {item.domain: item.version for item in model.opset_import}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other
