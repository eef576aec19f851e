"""An oracle for ONNX models that knows nothing of graphprune's rules.

It masks the original by hand, runs both models in float64 with the reference evaluator of the onnx package, and
compares. What stays as it was (names, signatures, metadata, nodes that nobody may touch) is compared too.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import graphprune
from onnx_masked import BYTES, FLOATS, copied, masked, stored, unshared
from onnx_wide import OPERATIONS, widened

Feeds = dict[str, np.ndarray]

OWN_KEY = "graphprune.plan"
TOLERANCE = 1e-9
REPAIRED = 1e-6
"""A repaired norm has its scale and eps rounded to float32."""
SINGLE = 1e-5
"""Where only ONNX Runtime knows the operations, in float32."""
HALF = 2e-2
LITTLE = 1e-6


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
        equal(masked(unshared(model, slim, plan), plan), slim, feeds, REPAIRED if plan.repairs else TOLERANCE)


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
    """These nodes are in both models, with all that is in them."""
    for name in names:
        found = [[text_of(node) for node in one.graph.node if node.name == name] for one in (model, slim)]
        assert found[0], f"there is no node {name}"
        assert found[0] == found[1], f"node {name} changed"


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Metadata other than our own entry."""
    return {item.key: item.value for item in model.metadata_props if item.key != OWN_KEY}


def text_of(node: onnx.NodeProto) -> str:
    """A node as text: an empty domain that is written out is as good as none."""
    return "\n".join(line for line in str(node).splitlines() if line.strip() != 'domain: ""')


def bytes_of(message) -> bytes:
    """A message in bytes that can be compared."""
    return message.SerializeToString(deterministic=True)


def elements(model: onnx.ModelProto) -> int:
    """Stored numbers that are no indices or shapes."""
    kinds = FLOATS | BYTES
    return sum(int(np.prod(tensor.dims)) for tensor in stored(copied(model)).values() if tensor.data_type in kinds)


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


def numbers(model: onnx.ModelProto, name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A random input of a shape."""
    kind = next(value.type.tensor_type.elem_type for value in model.graph.input if value.name == name)
    return _numbers(np.random.default_rng(seed), kind, list(shape), 2)


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
        return np.asarray(generator.standard_normal(shape)).astype(dtype)
    if kind in BYTES:
        return np.asarray(generator.integers(0, 100, shape)).astype(dtype)
    return np.asarray(generator.integers(0, highest, shape)).astype(dtype)


def _other(feed: Feeds) -> Feeds:
    generator = np.random.default_rng(99)
    moved = {}
    for name, array in feed.items():
        if _is_float(array):
            array = generator.standard_normal(array.shape).astype(array.dtype)
        elif array.size and array.dtype.kind in "iu":
            array = np.asarray(array.max() - array).astype(array.dtype)
        moved[name] = array
    return moved


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _coarseness(model: onnx.ModelProto) -> float:
    """How many times coarser than float32 the types of a model are."""
    tensors = stored(copied(model)).values()
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
