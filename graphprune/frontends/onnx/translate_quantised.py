"""Translations of quantised operators: they compute what their counterparts do, with scales and zero points beside.

A position that is zero is stored as the zero point, so zero stays zero. Scales and zero points of single channels are
tied with these channels.
"""

from ...graph import Value
from .calls import Call, Translated, Unsupported, axis_of
from .translate import Translation, broadcast, convolved, unary


def linear_quantised(call: Call) -> Translated:
    """QuantizeLinear, DequantizeLinear: x, scale, zero point; one for all, or one per position of `axis`."""
    axis = call.attr("axis", 1)
    if int(call.attr("block_size", 0)):
        return "", (_in_blocks(call, axis_of(call.x.shape, axis), int(call.attr("block_size"))),), {}
    return "", (scaled(call, call.x, (1, 2), axis),), {}


def _in_blocks(call: Call, axis: int, size: int) -> Value:
    """One scale per block of positions of an axis: a block is dropped as a whole."""
    shape = call.x.shape
    if shape[axis] % size:
        raise Unsupported(f"is quantised in blocks of {size}, which {shape[axis]} positions do not fill")
    split = (*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :])
    result = call.emit("reshape", (call.x,), {}, split)
    for value in (call.tensor(1), call.get(2)):
        if value is not None:
            rows = call.emit("reshape", (value,), {}, (*split[: axis + 1], 1, *split[axis + 2 :]))
            result = call.emit("mul", (result, rows), {}, split)
    return call.emit("reshape", (result,), {}, shape)


def scaled(call: Call, x: Value, places: tuple[int, ...], axis: int) -> Value:
    """A value with its scale and zero point, which are tied with the positions of an axis where they are many."""
    for place in places:
        value = call.get(place)
        if value is None or value.shape in ((), (1,)):
            continue
        if len(value.shape) != 1:
            raise Unsupported("is quantised with scales of several axes", "dequantise the weights first")
        where = axis_of(x.shape, axis)
        spread = tuple(-1 if other == where else 1 for other in range(len(x.shape)))
        shape = tuple(value.shape[0] if size == -1 else 1 for size in spread)
        x = call.emit("mul", (x, call.emit("reshape", (value,), {}, shape)), {}, x.shape)
    return x


def conv_quantised(call: Call) -> Translated:
    """QLinearConv: x, its scale and zero point, w, its scales and zero points, those of y, bias."""
    x, weight = call.x, scaled(call, call.tensor(3), (4, 5), 0)
    attrs = {"groups": convolved(call, weight), "transposed": False}
    return "conv", (x, weight, call.get(8)), attrs


def conv_integer(call: Call) -> Translated:
    weight = scaled(call, call.tensor(1), (3,), 0)
    return "conv", (call.x, weight, None), {"groups": convolved(call, weight), "transposed": False}


def matmul_quantised(call: Call) -> Translated:
    """QLinearMatMul: a, its scale and zero point, b, its scales and zero points, those of y."""
    return "matmul", (call.x, scaled(call, call.tensor(3), (4, 5), -1)), {}


def matmul_integer(*places: int) -> Translation:
    """Integer products: a, b, then zero points (and scales, and a bias) of b at `places`."""

    def translate(call: Call) -> Translated:
        return "matmul", (call.x, scaled(call, call.tensor(1), places, -1)), {}

    return translate


def matmul_dequantised(bias: int, *places: int) -> Translation:
    """As `matmul_integer`, with a bias in real numbers."""

    def translate(call: Call) -> Translated:
        weight = scaled(call, call.tensor(1), places, -1)
        if call.get(bias) is None:
            return "matmul", (call.x, weight), {}
        product = call.emit("matmul", (call.x, weight), {}, call.shapes[0])
        return "add", (product, call.tensor(bias)), {}

    return translate


def quantised_dynamically(call: Call) -> Translated:
    """DynamicQuantizeLinear: the range that it takes always holds zero, so dropped zeros do not move it."""
    if any(out.uses() for out in call.node.outputs[1:]) and len(call.emitted) == 0:
        scale = call.emit("norm", (call.x,), {"axes": list(range(len(call.x.shape))), "keepdims": False}, ())
        return "", (call.x, scale, scale), {}
    return "", (call.x, None, None), {}


def binary_quantised(name: str) -> Translation:
    """QLinearAdd, QLinearMul: a, scale, zero point, b, scale, zero point, scale and zero point of the result."""

    def translate(call: Call) -> Translated:
        first, second = call.x, call.tensor(3)
        assert broadcast(first.shape, second.shape) == call.shapes[0]
        return name, (first, second), {}

    return translate


def concat_quantised(call: Call) -> Translated:
    """QLinearConcat: scale and zero point of the result, then value, scale, zero point of every part."""
    parts = tuple(call.tensor(place) for place in range(2, len(call.inputs), 3))
    return "cat", parts, {"axis": axis_of(call.shapes[0], call.attr("axis", 1))}


def pool_quantised(call: Call) -> Translated:
    if call.attr("channels_last", 0):
        raise Unsupported("pools with channels last")
    return "pool", (call.x,), {"dims": len(call.x.shape) - 2}


UNARY = {"QLinearLeakyRelu": unary("leaky_relu"), "QLinearSigmoid": unary("sigmoid")}
