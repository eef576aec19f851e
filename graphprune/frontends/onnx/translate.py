"""Translations: what an ONNX node is in the canonical vocabulary, family by family."""

from collections.abc import Callable

from ...graph import Value
from ...translation import broadcast as broadcast
from .calls import Call, Translated, Unsupported, axis_of

Translation = Callable[[Call], Translated]

# ---- element-wise ----------------------------------------------------------------------------------------


def unary(name: str) -> Translation:
    return lambda call: (name, (call.x,), {})


def binary(name: str) -> Translation:
    """Two tensors, or a tensor and a number."""

    def translate(call: Call) -> Translated:
        for place, other in ((1, 0), (0, 1)):
            number = call.number(place)
            if number is None or call.tensor(other).name in call.trace.plain or not _is_wide(call, other):
                continue
            if name == "div" and place == 0:
                return "scalar_rdiv", (call.tensor(other),), {"value": number}
            if name in ("mul", "div") or number == 0:
                return "identity", (call.tensor(other),), {"value": number}
            return name, (call.tensor(other),), {"scalar": True, "value": number}
        return name, (call.tensor(0), call.tensor(1)), {}

    return translate


def _is_wide(call: Call, position: int) -> bool:
    """Whether an operand has the size of the result, so that the other one only brings a number."""
    return call.tensor(position).shape == call.shapes[0]


def many(name: str) -> Translation:
    """Any number of operands, two at a time."""

    def translate(call: Call) -> Translated:
        operands = [value for value in call.inputs if value is not None]
        if len(operands) == 1:
            return "identity", (operands[0],), {}
        left = operands[0]
        for right in operands[1:-1]:
            left = call.emit(name, (left, right), {}, broadcast(left.shape, right.shape))
        return name, (left, operands[-1]), {}

    return translate


def power(call: Call) -> Translated:
    exponent = call.number(1)
    if exponent is None:
        return compare(call)
    return ("power" if exponent > 0 else "reciprocal"), (call.x,), {"value": exponent}


def compare(call: Call) -> Translated:
    operands = tuple(value for value in call.inputs if value is not None)
    numbers = [call.number(place) for place in range(len(call.inputs)) if call.number(place) is not None]
    tensors = tuple(value for value in operands if value.name not in call.trace.plain or value.shape)
    return "compare", tensors or operands[:1], {"value": numbers}


def where(call: Call) -> Translated:
    return "where", tuple(value for value in call.inputs if value is not None), {}


def clip(call: Call) -> Translated:
    if call.attr("min") is not None or call.attr("max") is not None:
        return "clamp", (call.x,), {"low": call.attr("min"), "high": call.attr("max")}
    bounds = [call.number(place) for place in (1, 2)]
    given = [call.get(place) for place in (1, 2)]
    if any(bound is None and value is not None for bound, value in zip(bounds, given, strict=True)):
        return "clamp", (call.x, *(value for value in given if value is not None)), {}
    return "clamp", (call.x,), {"low": bounds[0], "high": bounds[1]}


def prelu(call: Call) -> Translated:
    return "mul", (call.x, call.tensor(1)), {}


def same(call: Call) -> Translated:
    return "identity", (call.x,), {}


# ---- contractions ----------------------------------------------------------------------------------------


def conv(call: Call) -> Translated:
    attrs = {"groups": convolved(call, call.tensor(1)), "transposed": call.name == "ConvTranspose"}
    return "conv", (call.x, call.tensor(1), call.get(2)), attrs


def convolved(call: Call, weight: Value) -> int:
    """The number of groups of a convolution; its input has to have the channels that the weight expects."""
    groups, channels = int(call.attr("group", 1)), call.x.shape[1]
    expected = weight.shape[0] if call.name == "ConvTranspose" else weight.shape[1] * groups
    if groups < 1 or channels != expected or weight.shape[0] % groups:
        raise Unsupported(f"a weight of sizes {weight.shape} for {channels} channels in {groups} groups")
    return groups


def matmul(call: Call) -> Translated:
    return "matmul", (call.x, call.tensor(1)), {}


def gemm(call: Call) -> Translated:
    """alpha * A B + beta * C with A, B transposed as the attributes say."""
    a, b, c = call.x, call.tensor(1), call.get(2)
    if call.attr("transA", 0):
        a = transposed(call, a)
    if call.attr("transB", 0) and (c is None or len(c.shape) == 1):
        return "linear", (a, b, c), {}
    if call.attr("transB", 0):
        b = transposed(call, b)
    return ("matmul", (a, b), {}) if c is None else ("addmm", (c, a, b), {})


def transposed(call: Call, value: Value) -> Value:
    """The value with its last two axes exchanged."""
    rank = len(value.shape)
    order = [*range(rank - 2), rank - 1, rank - 2]
    return call.emit("permute", (value,), {"order": order}, tuple(value.shape[axis] for axis in order))


def einsum(call: Call) -> Translated:
    operands = tuple(value for value in call.inputs if value is not None)
    return "einsum", operands, {"equation": call.attr("equation")}


# ---- norms -----------------------------------------------------------------------------------------------


def batch_norm(call: Call) -> Translated:
    if call.attr("spatial", 1) != 1:
        raise Unsupported("batch norm with statistics of every position (spatial=0)")
    return "batch_norm", call.inputs[:5], {"training": bool(call.attr("training_mode", 0))}


def instance_norm(call: Call) -> Translated:
    return "instance_norm", (call.x, call.tensor(1), call.tensor(2)), {}


def layer_norm(call: Call) -> Translated:
    dims = len(call.x.shape) - axis_of(call.x.shape, call.attr("axis", -1))
    return "layer_norm", (call.x, call.get(1), call.get(2)), {"dims": dims}


def rms_norm(call: Call) -> Translated:
    dims = len(call.x.shape) - axis_of(call.x.shape, call.attr("axis", -1))
    return "rms_norm", (call.x, call.get(1)), {"dims": dims, "eps": float(call.attr("epsilon", 1e-5))}


def group_norm(call: Call) -> Translated:
    """Scale and bias per channel, before opset 21 per group."""
    groups = int(call.attr("num_groups"))
    scale, bias = call.tensor(1), call.tensor(2)
    if call.version >= 21:
        return "group_norm", (call.x, scale, bias), {"groups": groups}
    reason = {"reason": "holds one number per group, and groups stay", "unlock": "prune within groups"}
    call.emit("unknown", (scale, bias), reason, ())
    return "group_norm", (call.x, None, None), {"groups": groups}


# ---- reductions and operations along axes ----------------------------------------------------------------


def reduce(name: str) -> Translation:
    def translate(call: Call) -> Translated:
        axes = call.known(1, "axes")
        rank = len(call.x.shape)
        if not axes:
            if call.attr("noop_with_empty_axes", 0):
                return "identity", (call.x,), {}
            axes = list(range(rank))
        axes = sorted({axis_of(call.x.shape, axis) for axis in axes})
        return name, (call.x,), {"axes": axes, "keepdims": bool(call.attr("keepdims", 1))}

    return translate


def softmax(call: Call) -> Translated:
    """Before opset 13 it runs over all axes from `axis` on."""
    shape = call.x.shape
    axis = axis_of(shape, call.attr("axis", -1 if call.version >= 13 else 1))
    if call.version < 13 and any(size > 1 for size in shape[axis + 1 :]):
        wide = [other for other in range(axis, len(shape)) if shape[other] > 1]
        if len(wide) > 1:
            raise Unsupported("softmax over several axes (before opset 13)", "convert the model to opset 13 or later")
        axis = wide[0]
    return "softmax", (call.x,), {"axis": axis}


def along(name: str, default: int | None = -1) -> Translation:
    def translate(call: Call) -> Translated:
        axis = call.attr("axis", default)
        return name, (call.x,), {"axis": None if axis is None else axis_of(call.x.shape, axis)}

    return translate


def cumsum(call: Call) -> Translated:
    axis = call.number(1)
    return "cumsum", (call.x,), {"axis": None if axis is None else axis_of(call.x.shape, int(axis))}


def pool(call: Call) -> Translated:
    return "pool", (call.x,), {"dims": len(call.x.shape) - 2}


def resize(call: Call) -> Translated:
    """All axes from the third on; the first two keep their sizes."""
    if call.x.shape[:2] != call.shapes[0][:2]:
        raise Unsupported("resizes the batch or the channels")
    return "interpolate", (call.x,), {"dims": len(call.x.shape) - 2}


def roi_align(call: Call) -> Translated:
    return "regions", (call.x, call.tensor(1)), {}


def fill(call: Call) -> Translated:
    value = call.attr("value")
    return "fill", (), {"value": 0 if value is None else value.numpy().reshape(-1)[0].item()}


def made(call: Call) -> Translated:
    return "constant", (), {}
