"""Lowers convolutions and products of bytes: unsigned activations by int8 weights, with int32 sums.

Where the target's instruction takes signed bytes, each activation is lowered by 128, and the sums of the weights times
128 are added behind the product.
"""

from math import prod

import numpy as np
from tvm import relax

from . import convolution, lower_convolution, lower_matmul, matmul, window
from .dots import INSTRUCTIONS, QUAD, in_quads
from .filters import in_order, pack_filters
from .layout import Blocked, as_image, count_blocks, pack, pack_constant
from .lower_convolution import border_of, pair
from .lowering import Lowering, Value
from .rewriting import dtype_of, op_name, shape_of

_DATA, _WEIGHTS, _SHIFT = "uint8", "int8", 128
# Sums that stay below this are exact in float32, too.
_EXACT = 1 << 24


def convolve(lowering: Lowering, call: relax.Call) -> Value | None:
    """A convolution of bytes; of floats, what becomes of those."""
    if dtype_of(call.args[0]) != _DATA:
        return lower_convolution.lower(lowering, call)
    weight, attrs = lowering.constant(call.args[1]), call.attrs
    if weight is None or weight.dtype != np.int8 or weight.ndim != 4 or not lowering.target.dots:
        return None
    source, border, zero = _with_border(lowering, call)
    shape, out_shape, groups = shape_of(source), shape_of(call), int(attrs.groups)
    if groups > 1 and weight.shape[:2] == (groups, 1) and shape[1] == groups:
        return _depthwise(lowering, call, source, weight, border, zero)
    data = lowering.value(source)
    if shape[1] <= QUAD and not isinstance(data, Blocked):
        data = pack(lowering.builder, data, (shape[1],), QUAD)
    data = data if isinstance(data, Blocked) else lowering.blocked(data)
    kind = INSTRUCTIONS[lowering.target.dots].data
    per_group = (weight.shape[0] // groups, weight.shape[1])
    packed, first = pack_filters(weight, groups, data.segments, data.lanes, lowering.lanes)
    last = count_blocks(data.segments, data.lanes) - packed.shape[1]
    if first.any() and not in_order(first, per_group, lowering.lanes, data.lanes, last):
        packed, first = pack_filters(_dense(weight, groups), 1, data.segments, data.lanes, lowering.lanes)
    numbers = lower_convolution.numbers_of(
        lowering, attrs, shape, data.segments, data.lanes, packed, first,
        padding=border, weights=_WEIGHTS, data=kind, zero=zero if kind == _DATA else zero - _SHIFT, per_group=per_group,
    )  # fmt: skip
    numbers = lowering.choose(numbers.candidates())
    packed = in_quads(np.pad(packed, [(0, numbers.blocks - len(packed)), *[(0, 0)] * 5]))
    source = data.expr if kind == _DATA else _signed(lowering, data.expr)
    result = lowering.kernel(
        "convolution", lambda d, w: convolution.compute(numbers, d, w, None), source, relax.const(packed)
    )
    if kind != _DATA:
        sums = _SHIFT * weight.sum(axis=(1, 2, 3), dtype=np.int32)
        shift = pack_constant(sums.reshape(1, -1, 1, 1), (len(sums),), lowering.lanes)
        result = lowering.builder.emit(relax.op.add(result, relax.const(shift)))
    return lowering.wrap(result, out_shape)


def _signed(lowering: Lowering, data: relax.Expr) -> relax.Expr:
    """Unsigned bytes lowered by 128, as signed ones; made part of the kernel that the bytes come from."""
    wide = lowering.builder.emit(relax.op.astype(data, "int16"))
    lowered = lowering.builder.emit(relax.op.subtract(wide, relax.const(_SHIFT, "int16")))
    return lowering.builder.emit(relax.op.astype(lowered, "int8"))


def _dense(weight: np.ndarray, groups: int) -> np.ndarray:
    """Weights of groups as those of a convolution without groups, with zeros between them."""
    out, per_group = weight.shape[:2]
    dense = np.zeros((out, per_group * groups, *weight.shape[2:]), weight.dtype)
    for row in range(out):
        start = row // (out // groups) * per_group
        dense[row, start : start + per_group] = weight[row]
    return dense


def _with_border(lowering: Lowering, call: relax.Call) -> tuple[relax.Expr, tuple[int, int, int, int], int]:
    """What a convolution reads, its border, and the number that fills the border."""
    source, border = call.args[0], border_of(call.attrs.padding)
    made = lowering.definitions.get(source)
    if op_name(made) != "relax.nn.pad" or any(border) or made.attrs.pad_mode != "constant":
        return source, border, 0
    widths = [int(width) for width in made.attrs.pad_width]
    if any(widths[:4]) or len(widths) != 8:
        return source, border, 0
    top, bottom, left, right = widths[4:]
    return made.args[0], (top, left, bottom, right), int(made.attrs.pad_value)


def _depthwise(
    lowering: Lowering, call: relax.Call, source: relax.Expr, weight: np.ndarray, border: tuple, zero: int
) -> Value | None:
    """One filter per channel: so few products that their sum is exact in float32."""
    if weight[0].size * 255 * 128 >= _EXACT:
        return None
    data, attrs, out_shape = lowering.blocked(lowering.value(source)), call.attrs, shape_of(call)
    batch, _, height, width = as_image(data.shape)
    numbers = window.Window(
        kind="depthwise",
        size=(batch, data.blocks, height, width, lowering.lanes),
        kernel=tuple(weight.shape[2:]),
        stride=pair(attrs.strides, 1),
        dilation=pair(attrs.dilation, 1),
        before=border[:2],
        out_size=as_image(out_shape)[2:],
        registers=lowering.target.accumulators,
        data=_DATA,
        zero=zero,
        core=lowering.target.core,
    )
    numbers = lowering.choose(numbers.candidates())
    packed = window.pack_weights(weight.astype(np.float32), data.segments, lowering.lanes)
    sums = lowering.kernel("depthwise", lambda d, w: window.compute(numbers, d, w), data.expr, relax.const(packed))
    return lowering.wrap(lowering.builder.emit(relax.op.astype(sums, "int32")), out_shape, data.segments)


def multiply(lowering: Lowering, call: relax.Call) -> Value | None:
    """A product of bytes with constant weights; of floats, what becomes of those."""
    if dtype_of(call.args[0]) != _DATA:
        return lower_matmul.lower(lowering, call)
    weight, left, out = lowering.constant(call.args[1]), shape_of(call.args[0]), shape_of(call)
    if weight is None or weight.dtype != np.int8 or weight.ndim != 2 or len(left) < 2 or not lowering.target.dots:
        return None
    rows, inner, columns = prod(left[:-1]), *weight.shape
    data, missing, kind = lowering.expression(call.args[0]), -inner % QUAD, INSTRUCTIONS[lowering.target.dots].data
    sums = weight.sum(axis=0, dtype=np.int32)
    data = data if kind == _DATA else _signed(lowering, data)
    if missing:
        weight = np.pad(weight, [(0, missing), (0, 0)])
        widths = [0, 0] * (len(left) - 1) + [0, missing]
        data = lowering.builder.emit(relax.op.nn.pad(data, widths, "constant", 0.0))
    registers = lowering.target.accumulators
    numbers = matmul.MatMul(1, rows, inner + missing, columns, lowering.lanes, registers, _WEIGHTS, kind)
    numbers = lowering.choose(numbers.candidates())
    packed = relax.const(in_quads(matmul.pack_weights(weight, numbers)))
    result = lower_matmul.linear(lowering, numbers, data, packed, out)
    return result if kind == _DATA else lowering.builder.emit(relax.op.add(result, relax.const(_SHIFT * sums)))


HANDLERS = {"relax.nn.conv2d": convolve, "relax.matmul": multiply}
