"""Quantisation in float64: dividing, rounding and clipping as the standard defines them."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .builder import Builder, CannotExpand

_RANGES = {
    dtype: (float(-(2 ** (bits - 1)) if signed else 0), float(2 ** (bits - signed) - 1))
    for dtype, bits, signed in [
        (ir.DataType.INT4, 4, True),
        (ir.DataType.UINT4, 4, False),
        (ir.DataType.INT8, 8, True),
        (ir.DataType.UINT8, 8, False),
        (ir.DataType.INT16, 16, True),
        (ir.DataType.UINT16, 16, False),
    ]
}


def _spread(b: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """A scale or a zero point of one number, of one per channel, or of one per block, fit to meet a tensor."""
    sizes = b.shape(value)
    if int(np.prod(sizes)) == 1 and len(sizes) <= 1:
        return b.reshape(value, [])
    shape = b.shape(like)
    axis = b.attr("axis", 1) % len(shape)
    block = b.attr("block_size", 0)
    if block:
        return b("Gather", value, b.ints(np.arange(shape[axis]) // block), axis=axis)
    return b.reshape(value, _along(axis, sizes[0], len(shape)))


def _along(axis: int, size: int, rank: int) -> Sequence[int]:
    return [size if place == axis else 1 for place in range(rank)]


def dequantize(b: Builder) -> ir.Value:
    """(x - zero point) * scale."""
    x, scale, zero = b.input(0), b.input(1), b.inputs[2]
    wide = b.cast(x, ir.DataType.DOUBLE)
    if zero is not None:
        wide = b("Sub", wide, b.cast(_spread(b, zero, x), ir.DataType.DOUBLE))
    return b("Mul", wide, _spread(b, scale, x))


def quantize(b: Builder) -> ir.Value:
    """round(x / scale) + zero point, within the range of the integers."""
    x, scale, zero = b.input(0), b.input(1), b.inputs[2]
    dtype = zero.dtype if zero is not None else ir.DataType(b.attr("output_dtype", 0) or ir.DataType.UINT8)
    if dtype not in _RANGES or b.opset < 11:
        raise CannotExpand("floats of 8 bits, or an opset that cannot round")
    steps = b("Round", b("Div", x, _spread(b, scale, x)))
    if zero is not None:
        steps = b("Add", steps, b.cast(_spread(b, zero, x), ir.DataType.DOUBLE))
    return b.cast(b.clip(steps, *_RANGES[dtype]), dtype)


def quantize_dynamically(b: Builder) -> list[ir.Value]:
    """To 8 bits without sign, with the scale that the largest and the least number ask for."""
    if b.opset < 11:
        raise CannotExpand("an opset that cannot round")
    x = b.input(0)
    flat, zero = b.reshape(x, [-1]), b.const(0.0)
    low = b("Min", b.reduce("ReduceMin", flat, [0], keepdims=False), zero)
    high = b("Max", b.reduce("ReduceMax", flat, [0], keepdims=False), zero)
    scale = b("Div", b("Sub", high, low), b.const(255.0))
    point = b("Round", b.clip(b("Sub", zero, b("Div", low, scale)), 0.0, 255.0))
    steps = b("Add", b("Round", b("Div", x, scale)), point)
    byte = ir.DataType.UINT8
    return [b.cast(b.clip(steps, 0.0, 255.0), byte), scale, b.cast(point, byte)]
