"""Operators in simpler ones, for those that TVM compiles for float32 only, or not at all."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import relax

WIDE = "float64"

Spelling = Callable[[list[Any], Any], Any]
"""From the arguments of a call and its attributes to an expression."""


def sizes(expr: Any) -> list[Any]:
    """The shape of an operand."""
    return list(expr.ty.shape.values)


def _standardised(x: Any, axes: Sequence[int], epsilon: float) -> Any:
    """(x - mean) / sqrt(variance + eps) over some axes."""
    op = relax.op
    apart = op.subtract(x, op.mean(x, list(axes), keepdims=True))
    variance = op.mean(op.square(apart), list(axes), keepdims=True)
    return op.divide(apart, op.sqrt(op.add(variance, relax.const(epsilon, WIDE))))


def _along(parameter: Any, axis: int, rank: int) -> Any:
    """A vector as a tensor that has its size along one axis."""
    return relax.op.reshape(parameter, [sizes(parameter)[0] if place == axis else 1 for place in range(rank)])


def _affine(x: Any, args: list[Any], attrs: Any, shaped: Callable[[Any], Any]) -> Any:
    if attrs.scale:
        x = relax.op.multiply(x, shaped(args[1]))
    return relax.op.add(x, shaped(args[2])) if attrs.center else x


def layer_norm(args: list[Any], attrs: Any) -> Any:
    return _affine(_standardised(args[0], attrs.axes, attrs.epsilon), args, attrs, lambda parameter: parameter)


def rms_norm(args: list[Any], attrs: Any) -> Any:
    op, (x, scale) = relax.op, args
    mean = op.mean(op.square(x), list(attrs.axes), keepdims=True)
    return op.multiply(op.divide(x, op.sqrt(op.add(mean, relax.const(attrs.epsilon, WIDE)))), scale)


def instance_norm(args: list[Any], attrs: Any) -> Any:
    rank = len(sizes(args[0]))
    normed = _standardised(args[0], attrs.axes, attrs.epsilon)
    return _affine(normed, args, attrs, lambda parameter: _along(parameter, int(attrs.channel_axis) % rank, rank))


def group_norm(args: list[Any], attrs: Any) -> Any:
    """Channels are split into groups, over which statistics run as well."""
    shape, groups = sizes(args[0]), int(attrs.num_groups)
    rank = len(shape)
    axis = int(attrs.channel_axis) % rank
    split = [*shape[:axis], groups, int(shape[axis]) // groups, *shape[axis + 1 :]]
    axes = [axis + 1, *(a + (a > axis) for a in (int(a) % rank for a in attrs.axes))]
    normed = relax.op.reshape(_standardised(relax.op.reshape(args[0], split), axes, attrs.epsilon), shape)
    return _affine(normed, args, attrs, lambda parameter: _along(parameter, axis, rank))


def pixel_shuffle(args: list[Any], attrs: Any) -> Any:
    *batch, channels, height, width = sizes(args[0])
    r, b = int(attrs.upscale_factor), len(batch)
    split = relax.op.reshape(args[0], [*batch, int(channels) // (r * r), r, r, height, width])
    moved = relax.op.permute_dims(split, [*range(b + 1), b + 3, b + 1, b + 4, b + 2])
    return relax.op.reshape(moved, [*batch, int(channels) // (r * r), height * r, width * r])


def _spread(parameter: Any, x: Any, attrs: Any) -> Any:
    rank, single = len(sizes(x)), prod(map(int, sizes(parameter))) == 1
    return relax.op.astype(parameter if single else _along(parameter, int(attrs.axis) % rank, rank), WIDE)


def quantize(args: list[Any], attrs: Any) -> Any:
    op, (x, scale, zero) = relax.op, args
    bounds = np.iinfo(str(attrs.out_dtype))
    number = op.add(op.round(op.divide(x, _spread(scale, x, attrs))), _spread(zero, x, attrs))
    return op.astype(op.clip(number, int(bounds.min), int(bounds.max)), str(attrs.out_dtype))


def dequantize(args: list[Any], attrs: Any) -> Any:
    op, (x, scale, zero) = relax.op, args
    return op.multiply(op.subtract(op.astype(x, WIDE), _spread(zero, x, attrs)), _spread(scale, x, attrs))


SPELLED: dict[str, Spelling] = {
    "relax.nn.layer_norm": layer_norm,
    "relax.nn.rms_norm": rms_norm,
    "relax.nn.instance_norm": instance_norm,
    "relax.nn.group_norm": group_norm,
    "relax.nn.pixel_shuffle": pixel_shuffle,
    "relax.quantize": quantize,
    "relax.dequantize": dequantize,
}
