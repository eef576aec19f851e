"""ONNX operators that TVM's importer lacks, gets wrong, or turns into something slow.

A converter is a function `(node) -> relax.Expr`. All shapes are static. `node.tvm()` is what TVM's importer makes of
the node; converters that only mend attributes end in it. To add an operator, write a function and put it in
`CONVERTERS`, under its name or, outside the domain of ONNX itself, under `domain.name`.
"""

import numpy as np
from tvm import relax, topi

from ..errors import CompileError
from .onnx_node import Converter, Node
from .onnx_quantised import CONVERTERS as _QUANTISED
from .onnx_recurrent import CONVERTERS as _RECURRENT
from .onnx_resize import resize, upsample
from .onnx_windows import CONVERTERS as _WINDOWS
from .rewriting import dtype_of, shape_of

_FLOATS = ("float16", "float32", "float64", "bfloat16")


def _bound(node: Node, index: int, name: str) -> relax.Expr | None:
    """A bound of Clip: an attribute before opset 11, an input since."""
    if node.opset >= 11:
        return node.input(index)
    return node.scalar(node.attributes[name]) if name in node.attributes else None


def _clip(node: Node) -> relax.Expr:
    data, bounds = node.data, [_bound(node, 1, "min"), _bound(node, 2, "max")]
    numbers = [None if bound is None else node.value(bound) for bound in bounds]
    if dtype_of(data) == "float32" and all(number is not None for number in numbers):
        low, high = (float(number.reshape(())) for number in numbers)
        return relax.op.clip(data, low, high)
    for bound, op in zip(bounds, (relax.op.maximum, relax.op.minimum), strict=True):
        data = data if bound is None else op(data, node.emit(relax.op.reshape(bound, ())))
    return data


def _gemm(node: Node) -> relax.Expr:
    left, right, addend = node.input(0), node.input(1), node.input(2)
    left = node.emit(relax.op.permute_dims(left)) if node.attributes.get("transA", 0) else left
    right = node.emit(relax.op.permute_dims(right)) if node.attributes.get("transB", 0) else right
    result = _scaled(node, node.emit(relax.op.matmul(left, right)), node.attributes.get("alpha", 1.0))
    if addend is None:
        return result
    return relax.op.add(result, _scaled(node, addend, node.attributes.get("beta", 1.0)))


def _scaled(node: Node, value: relax.Expr, factor: float) -> relax.Expr:
    return value if factor == 1 else node.emit(relax.op.multiply(value, relax.const(factor, dtype_of(value))))


def _batch_norm(node: Node) -> relax.Expr:
    if node.attributes.get("training_mode", 0) or len(node.names) > 1 or not node.attributes.get("spatial", 1):
        raise CompileError("it is in training mode; export the model for inference")
    return node.tvm()


def _dropout(node: Node) -> relax.Expr:
    training = node.constant(2)
    if node.input(2) is not None and (training is None or training.any()):
        raise CompileError("it is in training mode; export the model for inference")
    if len(node.names) == 1:
        return node.data
    return relax.Tuple([node.data, relax.const(np.ones(shape_of(node.data), bool))])


def _is_inf(node: Node) -> relax.Expr:
    wanted = [
        relax.op.equal(node.data, node.scalar(sign * np.inf))
        for name, sign in (("detect_negative", -1), ("detect_positive", 1))
        if node.attributes.get(name, 1)
    ]
    if not wanted:
        return relax.const(np.zeros(shape_of(node.data), bool))
    return wanted[0] if len(wanted) == 1 else relax.op.logical_or(*map(node.emit, wanted))


def _gather(node: Node) -> relax.Expr:
    """Neighbours at constant places are a slice; other places are clipped into the tensor."""
    data, shape = node.data, shape_of(node.data)
    axis = node.attributes.get("axis", 0) % len(shape)
    places = node.constant(1)
    if places is None:
        return relax.op.take(data, _wrapped(node, node.input(1), shape[axis]), axis, mode="clip")
    flat = np.where(places < 0, places + shape[axis], places).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= shape[axis]):
        raise CompileError(f"it reads place {places.min()}..{places.max()} of an axis of size {shape[axis]}")
    steps = np.unique(np.diff(flat))
    if flat.size and places.ndim <= 1 and (flat.size == 1 or (steps.size == 1 and steps[0] > 0)):
        step = int(steps[0]) if flat.size > 1 else 1
        part = node.emit(relax.op.strided_slice(data, [axis], [int(flat[0])], [int(flat[-1]) + 1], [step]))
        return part if places.ndim else relax.op.squeeze(part, [axis])
    kept = relax.const(np.where(places < 0, places + shape[axis], places).astype("int64"))
    return relax.op.take(data, kept, axis, mode="clip")


def _wrapped(node: Node, places: relax.Expr, size: int) -> relax.Expr:
    """Negative places count from the end."""
    if dtype_of(places).startswith("uint"):
        return places
    behind = node.emit(relax.op.add(places, relax.const(size, dtype_of(places))))
    negative = node.emit(relax.op.less(places, relax.const(0, dtype_of(places))))
    return node.emit(relax.op.where(negative, behind, places))


def _prelu(node: Node) -> relax.Expr:
    """Four elementwise operators that stay in the blocked layout."""
    slope, zero = node.input(1), node.scalar(0)
    positive = node.emit(relax.op.maximum(node.data, zero))
    negative = node.emit(relax.op.minimum(node.data, zero))
    return relax.op.add(positive, node.emit(relax.op.multiply(negative, slope)))


def _layer_norm(node: Node) -> relax.Expr:
    shape = shape_of(node.data)
    axis = node.attributes.get("axis", -1) % len(shape)
    inner = shape[axis:]
    scale = node.emit(relax.op.broadcast_to(node.input(1), inner))
    shift = node.input(2)
    shift = relax.const(np.zeros(inner, "float32")) if shift is None else relax.op.broadcast_to(shift, inner)
    axes = list(range(axis, len(shape)))
    epsilon = node.attributes.get("epsilon", 1e-5)
    return relax.op.nn.layer_norm(node.data, scale, node.emit(shift), axes, epsilon)


def _power(node: Node) -> relax.Expr:
    """The result has the type of the base, whatever the exponent is."""
    base, exponent = node.data, node.input(1)
    kinds = dtype_of(base), dtype_of(exponent)
    if kinds[0] == kinds[1]:
        number = node.constant(1)
        if number is not None and number.size == 1 and number.reshape(()) == 2:
            return relax.op.multiply(base, base)
        return node.tvm()
    common = next((kind for kind in kinds if kind in _FLOATS), kinds[0])
    raised = relax.op.power(*(node.emit(relax.op.astype(value, common)) for value in (base, exponent)))
    return relax.op.astype(node.emit(raised), kinds[0])


def _mod(node: Node) -> relax.Expr:
    if dtype_of(node.data) in _FLOATS and not node.attributes.get("fmod", 0):
        raise CompileError("the remainder of floats is only compiled with fmod=1")
    return node.tvm()


def _roi_align(node: Node) -> relax.Expr:
    if node.text("mode", "avg") != "avg":
        raise CompileError("only averages are compiled, not maxima")
    return node.tvm()


def _einsum(node: Node) -> relax.Expr:
    """A contraction of two tensors is a matrix product between two transpositions."""
    equation = node.text("equation", "").replace(" ", "")
    terms, _, result = equation.partition("->")
    operands = terms.split(",")
    plain = "->" in equation and "." not in equation and len(operands) == 2
    if not plain or any(len(set(term)) != len(term) for term in (*operands, result)):
        return node.builder.emit_te(topi.einsum, equation, *node.inputs)
    left, right = operands
    batch = [a for a in left if a in right and a in result]
    inner = [a for a in left if a in right and a not in result]
    rows, columns = [a for a in left if a not in right], [a for a in right if a not in left]
    if not inner or any(a not in result for a in rows + columns):
        return node.builder.emit_te(topi.einsum, equation, *node.inputs)
    sizes = {
        a: n
        for term, value in zip(operands, node.inputs, strict=True)
        for a, n in zip(term, shape_of(value), strict=True)
    }
    count = {
        key: int(np.prod([sizes[a] for a in axes])) for key, axes in zip("rck", (rows, columns, inner), strict=True)
    }
    lead = [sizes[a] for a in batch]

    def arranged(value: relax.Expr, term: str, order: list[str], shape: list[int]) -> relax.Expr:
        moved = node.emit(relax.op.permute_dims(value, [term.index(a) for a in order]))
        return node.emit(relax.op.reshape(moved, shape))

    first = arranged(node.inputs[0], left, batch + rows + inner, [*lead, count["r"], count["k"]])
    second = arranged(node.inputs[1], right, batch + inner + columns, [*lead, count["k"], count["c"]])
    product = node.emit(relax.op.matmul(first, second))
    order = batch + rows + columns
    spread = node.emit(relax.op.reshape(product, [sizes[a] for a in order]))
    return relax.op.permute_dims(spread, [order.index(a) for a in result])


def _lp_normalization(node: Node) -> relax.Expr:
    axis = node.attributes.get("axis", -1)
    if node.attributes.get("p", 2) == 1:
        norm = relax.op.sum(node.emit(relax.op.abs(node.data)), axis, keepdims=True)
    else:
        squares = node.emit(relax.op.multiply(node.data, node.data))
        norm = relax.op.sqrt(node.emit(relax.op.sum(squares, axis, keepdims=True)))
    norm = node.emit(norm)
    empty = node.emit(relax.op.equal(norm, node.scalar(0)))
    return relax.op.divide(node.data, node.emit(relax.op.where(empty, node.scalar(1), norm)))


def _skip_layer_norm(node: Node) -> relax.Expr:
    """The sum of two streams, normalised; the fourth result is the sum itself."""
    total = node.emit(relax.op.add(node.data, node.input(1)))
    if node.input(4) is not None:
        total = node.emit(relax.op.add(total, node.input(4)))
    size = shape_of(total)[-1]
    shift = node.input(3) or relax.const(np.zeros(size, "float32"))
    epsilon = node.attributes.get("epsilon", 1e-12)
    normal = node.emit(relax.op.nn.layer_norm(total, node.input(2), shift, -1, epsilon))
    if any(node.names[1:3]):
        raise CompileError("its mean and variance are not compiled as results")
    return relax.Tuple([normal, normal, normal, total]) if len(node.names) > 3 else normal


def _quick_gelu(node: Node) -> relax.Expr:
    scaled = _scaled(node, node.data, node.attributes.get("alpha", 1.702))
    return relax.op.multiply(node.data, node.emit(relax.op.sigmoid(scaled)))


def _fused_matmul(node: Node) -> relax.Expr:
    def turned(value: relax.Expr, name: str) -> relax.Expr:
        if node.attributes.get(f"transBatch{name}", 0):
            raise CompileError(f"transBatch{name} is not compiled")
        if not node.attributes.get(f"trans{name}", 0):
            return value
        order = list(range(len(shape_of(value))))
        return node.emit(relax.op.permute_dims(value, [*order[:-2], order[-1], order[-2]]))

    product = relax.op.matmul(turned(node.inputs[0], "A"), turned(node.inputs[1], "B"))
    return _scaled(node, node.emit(product), node.attributes.get("alpha", 1.0))


def _instance_norm(node: Node) -> relax.Expr:
    """Every channel is a group of its own."""
    return _grouped(node, shape_of(node.data)[1])


def _group_norm(node: Node) -> relax.Expr:
    """Before opset 21 scale and shift belong to groups instead of channels."""
    groups, channels = int(node.attributes["num_groups"]), shape_of(node.data)[1]
    if node.opset >= 21:
        return _grouped(node, groups)
    repeat = [
        None if value is None else node.emit(relax.op.repeat(value, channels // groups, 0)) for value in node.inputs[1:]
    ]
    return _grouped(node, groups, *repeat)


def _grouped(node: Node, groups: int, *parameters: relax.Expr) -> relax.Expr:
    scale, shift = parameters or node.inputs[1:3]
    axes = list(range(2, len(shape_of(node.data))))
    return relax.op.nn.group_norm(node.data, scale, shift, groups, 1, axes, float(node.attributes.get("epsilon", 1e-5)))


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Gather": _gather,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "Identity": lambda node: node.data,
    "InstanceNormalization": _instance_norm,
    "IsInf": _is_inf,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_normalization,
    "Mod": _mod,
    "PRelu": _prelu,
    "Pow": _power,
    "Resize": resize,
    "RoiAlign": _roi_align,
    "Upsample": upsample,
    **_WINDOWS,
    **_QUANTISED,
    **_RECURRENT,
    "com.microsoft.BiasGelu": lambda node: relax.op.nn.gelu(node.emit(relax.op.add(node.data, node.input(1)))),
    "com.microsoft.FastGelu": lambda node: relax.op.nn.gelu_tanh(
        node.data if node.input(1) is None else node.emit(relax.op.add(node.data, node.input(1)))
    ),
    "com.microsoft.FusedMatMul": _fused_matmul,
    "com.microsoft.Gelu": lambda node: relax.op.nn.gelu(node.data),
    "com.microsoft.QuickGelu": _quick_gelu,
    "com.microsoft.SkipLayerNormalization": _skip_layer_norm,
}

# Operators of ONNX that TVM's importer would take but that do not come out right, and why.
_SEQUENCES = "sequences and optional values are not tensors"
_SIZES = "the size of its result depends on the numbers that go in"
REFUSED: dict[str, str] = {
    "BitShift": "shifts by more than the width of the type have no agreed result",
    "Compress": _SIZES,
    "NonMaxSuppression": _SIZES,
    "NonZero": _SIZES,
    "Unique": _SIZES,
    **dict.fromkeys(("If", "Loop", "Scan"), "control flow that depends on data is not compiled"),
    **dict.fromkeys(
        ("Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
         "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence", "ConcatFromSequence"),
        _SEQUENCES,
    ),
}  # fmt: skip

# Operators that ONNX defines by others, where that definition is right and TVM's importer is not.
SPELLED_OUT = {"Attention", "MeanVarianceNormalization", "RMSNormalization"}
