"""Translations: what a call of a Relax operator is in the canonical vocabulary, family by family."""

from collections.abc import Callable

import numpy as np

from ...graph import Value
from ...translation import broadcast
from .calls import Call, Translated, Unsupported, axis_of

Translation = Callable[[Call], Translated]

# ---- element-wise ----------------------------------------------------------------------------------------


def unary(name: str) -> Translation:
    return lambda call: (name, (call.x,), {})


def binary(name: str) -> Translation:
    """Two tensors, or a tensor and a number."""

    def translate(call: Call) -> Translated:
        for place, other in ((1, 0), (0, 1)):
            number, wide = call.number(place), call.tensor(other)
            if number is None or wide.shape != call.shape or wide in call.numbers:
                continue
            if name == "div" and place == 0:
                return "scalar_rdiv", (wide,), {"value": number}
            if name in ("mul", "div") or number == 0:
                return "identity", (wide,), {"value": number}
            return name, (wide,), {"scalar": True, "value": number}
        return name, (call.x, call.tensor(1)), {}

    return translate


def power(call: Call) -> Translated:
    exponent = call.number(1)
    if exponent is None:
        return compare(call)
    return ("power" if exponent > 0 else "reciprocal"), (call.x,), {"value": exponent}


def compare(call: Call) -> Translated:
    operands = tuple(value for value in call.args if isinstance(value, Value))
    numbers = [call.number(place) for place in range(len(operands)) if call.number(place) is not None]
    return "compare", operands, {"value": numbers}


def where(call: Call) -> Translated:
    return "where", (call.x, call.tensor(1), call.tensor(2)), {}


def multiply_add(call: Call) -> Translated:
    a, b, c = (call.tensor(place) for place in range(3))
    return "add", (call.emit("mul", (a, b), {}, broadcast(a.shape, b.shape)), c), {}


def clip(call: Call) -> Translated:
    low, high = call.number(1), call.number(2)
    if low is None or high is None:
        raise Unsupported("is clipped between bounds that are not known")
    return "clamp", (call.x,), {"low": low, "high": high}


def prelu(call: Call) -> Translated:
    slope, axis = call.tensor(1), call.axis("axis", 1)
    assert axis is not None
    if len(slope.shape) == 1:
        shape = tuple(slope.shape[0] if place == axis else 1 for place in range(len(call.x.shape)))
        slope = call.emit("reshape", (slope,), {}, shape)
    return "mul", (call.x, slope), {}


def same(call: Call) -> Translated:
    return "identity", (call.x,), {}


# ---- contractions ----------------------------------------------------------------------------------------


def order_of(layout: str, wanted: str) -> list[int]:
    """Where the axes of one layout lie in another one: ("NHWC", "NCHW") -> [0, 3, 1, 2]."""
    if sorted(layout) != sorted(wanted):
        raise Unsupported(f"layout {layout}", f"prune before layouts are changed: axes as in {wanted} in any order")
    return [layout.index(letter) for letter in wanted]


_SPATIAL = {3: "W", 4: "HW", 5: "DHW"}


def layouts(call: Call, rank: int) -> tuple[list[int], list[int]]:
    """The orders that bring data to N, C, ... and a result of that form to its own layout."""
    usual = "NC" + _SPATIAL[rank]
    data = call.attr("data_layout") or call.attr("layout") or usual
    return order_of(data, usual), order_of(usual, call.attr("out_layout") or data)


def conv(transposed: bool) -> Translation:
    """Any order of axes; kernels are (out, in, ...), or (in, out, ...) where it is transposed."""

    def translate(call: Call) -> Translated:
        rank = len(call.x.shape)
        there, back = layouts(call, rank)
        usual = ("IO" if transposed else "OI") + _SPATIAL[rank]
        data = call.permuted(call.x, there)
        weight = call.permuted(call.tensor(1), order_of(call.attr("kernel_layout") or usual, usual))
        groups = int(call.attr("groups", 1))
        expected = weight.shape[0] if transposed else weight.shape[1] * groups
        if data.shape[1] != expected:
            raise Unsupported(f"a weight of sizes {weight.shape} for {data.shape[1]} channels in {groups} groups")
        return call.returned("conv", (data, weight, None), {"groups": groups, "transposed": transposed}, back)

    return translate


def matmul(call: Call) -> Translated:
    return "matmul", (call.x, call.tensor(1)), {}


def einsum(call: Call) -> Translated:
    return "einsum", call.tensors(0), {"equation": call.attr("subscripts")}


def attention(call: Call) -> Translated:
    """(batch, length, heads, width), as many heads of keys and values as of queries; a bias is (batch, heads, m, n)."""
    q, k, v = (call.permuted(call.tensor(place), [0, 2, 1, 3]) for place in range(3))
    if q.shape[1] != k.shape[1] or k.shape[1] != v.shape[1]:
        raise Unsupported(f"attention of {q.shape[1]} heads of queries and {k.shape[1]} of keys", "repeat the keys")
    scale = call.attr("scale")
    attrs = {"scale": q.shape[-1] ** -0.5 if scale is None else float(scale)}
    return call.returned("attention", (q, k, v, *filter(None, (call.get(3),))), attrs, [0, 2, 1, 3])


# ---- norms -----------------------------------------------------------------------------------------------


def _channels_first(call: Call, axis: int) -> tuple[list[int], list[int]]:
    """The orders that bring an axis to the second place, and back."""
    rest = [other for other in range(len(call.x.shape)) if other != axis]
    there = [*rest[:1], axis, *rest[1:]]
    return there, [there.index(place) for place in range(len(there))]


def batch_norm(call: Call) -> Translated:
    axis = call.axis("axis", 1)
    assert axis is not None
    attrs = {"training": bool(call.attr("training", False))}
    if axis == 1:
        return "batch_norm", (call.x, *map(call.get, range(1, 5))), attrs
    there, back = _channels_first(call, axis)
    inputs = (call.permuted(call.x, there), *map(call.get, range(1, 5)))
    return call.returned("batch_norm", inputs, attrs, back)


def group_norm(call: Call) -> Translated:
    return _norm_of_channels(call, "group_norm", {"groups": int(call.attr("num_groups"))})


def instance_norm(call: Call) -> Translated:
    return _norm_of_channels(call, "instance_norm", {})


def _norm_of_channels(call: Call, name: str, attrs: dict[str, int]) -> Translated:
    """Statistics have to be those of every sample."""
    axis, axes, shape = call.axis("channel_axis", 1), set(call.axes("axes")), call.x.shape
    assert axis is not None
    there, back = _channels_first(call, axis)
    wide = {other for other in range(len(shape)) if shape[other] > 1} - {axis, there[0]}
    if not wide <= axes or axes & ({there[0]} if shape[there[0]] > 1 else set()):
        raise Unsupported(f"{call.name} with statistics over axes {sorted(axes)} of {shape}")
    inputs = (call.permuted(call.x, there), call.tensor(1), call.tensor(2))
    return call.returned(name, inputs, attrs, back)


def layer_norm(name: str) -> Translation:
    """Over the last axes; `rms_norm` has a scale and no shift."""

    def translate(call: Call) -> Translated:
        axes, rank = call.axes("axes"), len(call.x.shape)
        if axes != list(range(rank - len(axes), rank)):
            raise Unsupported(f"{call.name} over axes {axes} of {rank}", "bring these axes to the end")
        if name == "rms_norm":
            return name, (call.x, call.get(1)), {"dims": len(axes), "eps": float(call.attr("epsilon"))}
        return name, (call.x, call.get(1), call.get(2)), {"dims": len(axes)}

    return translate


# ---- reductions and operations along axes ----------------------------------------------------------------


def reduce(name: str) -> Translation:
    return lambda call: (name, (call.x,), {"axes": call.axes(), "keepdims": bool(call.attr("keepdims", False))})


def along(name: str, default: int | None = -1) -> Translation:
    return lambda call: (name, (call.x,), {"axis": call.axis("axis", default)})


def pool(call: Call) -> Translated:
    rank = len(call.x.shape)
    there, back = layouts(call, rank)
    return call.returned("pool", (call.permuted(call.x, there),), {"dims": rank - 2}, back)


def resize(call: Call) -> Translated:
    rank = len(call.x.shape)
    there, _ = layouts(call, rank)
    back = [there.index(place) for place in range(rank)]
    return call.returned("interpolate", (call.permuted(call.x, there),), {"dims": rank - 2}, back)


def regions(call: Call) -> Translated:
    if call.attr("layout") != "NCHW":
        raise Unsupported(f"regions of layout {call.attr('layout')}")
    return "regions", (call.x, call.tensor(1)), {}


def sample(call: Call) -> Translated:
    if call.attr("layout") not in ("NCHW", "NCDHW"):
        raise Unsupported(f"a grid of layout {call.attr('layout')}")
    return "sample", (call.x, call.tensor(1)), {}


# ---- quantised numbers -----------------------------------------------------------------------------------


def quantised(call: Call) -> Translated:
    """Numbers times scales: one for all, or one per position of an axis. Zero points are zero where zero stays."""
    axis, x, zero = axis_of(call.x.shape, int(call.attr("axis", -1))), call.x, call.get(2)
    if x.is_leaf and zero is not None and (call.stored(zero) is None or np.any(call.stored(zero))):
        raise Unsupported("holds weights around a zero point that is not 0", "prune before weights are quantised")
    for place in (1, 2):
        scale = call.get(place)
        if scale is not None and len(scale.shape) == 1 and scale.shape[0] > 1:
            shape = tuple(scale.shape[0] if other == axis else 1 for other in range(len(x.shape)))
            x = call.emit("mul", (x, call.emit("reshape", (scale,), {}, shape)), {}, x.shape)
        elif scale is not None and scale.shape not in ((), (1,)):
            raise Unsupported("is quantised with scales of several axes", "dequantise the weights first")
    return "identity", (x,), {}


# ---- tensors that are made -------------------------------------------------------------------------------


def filled(value: float | None, like: bool) -> Translation:
    """One number everywhere, in a shape that is given or in that of a tensor."""

    def translate(call: Call) -> Translated:
        number = call.number(1) if value is None else value
        if number is None:
            raise Unsupported("is filled with a number that is not known")
        return ("fill_like", (call.x,), {"value": number}) if like else ("fill", (), {"value": number})

    return translate


def made(call: Call) -> Translated:
    if any(isinstance(item, (Value, list)) for item in call.args):
        raise Unsupported(f"{call.name} of tensors")
    return "constant", (), {}
