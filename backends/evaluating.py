"""What operators compute, for constants: numpy in, numpy out.

To add one, put a function `(call, *arrays) -> array` in `EVALUATE`; the arrays are the arguments that are tensors.
Results are cast to the element type of the call.
"""

from collections.abc import Callable

import numpy as np
from tvm import relax

from .rewriting import shape_of

Array = np.ndarray


def _reshape(call: relax.Call, data: Array) -> Array:
    return data.reshape(shape_of(call))


def _permute(call: relax.Call, data: Array) -> Array:
    return np.transpose(data, [int(i) for i in call.attrs.axes] if call.attrs.axes else None)


def _filled(value: float) -> Callable[[relax.Call], Array]:
    return lambda call: np.full(shape_of(call), value, str(call.ty.dtype))


def _arange(call: relax.Call) -> Array:
    start, _, step = (_number(argument) for argument in call.args)
    return start + step * np.arange(shape_of(call)[0])


def _number(expr: relax.Expr) -> float:
    return expr.value


def _slice(call: relax.Call, data: Array) -> Array:
    _, axes, begins, ends, *steps = call.args
    where = [slice(None)] * data.ndim
    steps = [int(step) for step in steps[0].fields] if steps else [1] * len(axes.fields)
    for axis, begin, end, step in zip(axes.fields, begins.fields, ends.fields, steps, strict=True):
        where[int(axis)] = slice(int(begin), int(end), step)
    return data[tuple(where)]


def _slice_scatter(call: relax.Call, data: Array, part: Array) -> Array:
    begin, end, step = (int(argument) for argument in call.args[2:])
    where = [slice(None)] * data.ndim
    where[int(call.attrs.axis)] = slice(begin, end, step)
    result = data.copy()
    result[tuple(where)] = part
    return result


def _take(call: relax.Call, data: Array, index: Array) -> Array:
    axis = None if call.attrs.axis is None else int(call.attrs.axis)
    extent = data.size if axis is None else data.shape[axis]
    if index.size and not (0 <= index.min() and index.max() < extent):
        raise IndexError
    return np.take(data, index, axis)


def _mod(call: relax.Call, left: Array, right: Array) -> Array:
    if (left < 0).any() or (right <= 0).any():
        raise ValueError
    return left % right


def _maximum(call: relax.Call, data: Array) -> Array:
    axes = tuple(int(axis) for axis in call.attrs.axis) if call.attrs.axis is not None else None
    return data.max(axis=axes, keepdims=bool(call.attrs.keepdims))


def dequantized(call: relax.Call, data: Array, scale: Array, zero: Array) -> tuple[Array, Array]:
    """A constant of quantised integers as integers around zero, and the scale of each."""
    if not np.issubdtype(data.dtype, np.integer):
        raise ValueError
    axis = int(call.attrs.axis)

    def spread(parameter: Array) -> Array:
        shape = [1] * data.ndim
        if parameter.size > 1:
            shape[axis] = parameter.size
        return np.broadcast_to(parameter.reshape(shape), data.shape)

    return data.astype(np.int64) - spread(zero).astype(np.int64), spread(scale).astype(np.float32)


def _dequantize(call: relax.Call, data: Array, scale: Array, zero: Array) -> Array:
    numbers, scales = dequantized(call, data, scale, zero)
    return numbers.astype(np.float32) * scales


EVALUATE: dict[str, Callable[..., Array]] = {
    "relax.add": lambda call, a, b: a + b,
    "relax.subtract": lambda call, a, b: a - b,
    "relax.multiply": lambda call, a, b: a * b,
    "relax.divide": lambda call, a, b: a / b,
    "relax.dequantize": _dequantize,
    "relax.mod": _mod,
    "relax.sqrt": lambda call, a: np.sqrt(a),
    "relax.rsqrt": lambda call, a: 1 / np.sqrt(a),
    "relax.negative": lambda call, a: -a,
    "relax.equal": lambda call, a, b: a == b,
    "relax.not_equal": lambda call, a, b: a != b,
    "relax.less": lambda call, a, b: a < b,
    "relax.less_equal": lambda call, a, b: a <= b,
    "relax.greater": lambda call, a, b: a > b,
    "relax.greater_equal": lambda call, a, b: a >= b,
    "relax.logical_and": lambda call, a, b: a & b,
    "relax.logical_or": lambda call, a, b: a | b,
    "relax.logical_not": lambda call, a: np.logical_not(a),
    "relax.where": lambda call, mask, a, b: np.where(mask, a, b),
    "relax.astype": lambda call, a: a.astype(str(call.attrs.dtype)),
    "relax.broadcast_to": lambda call, a: np.broadcast_to(a, shape_of(call)),
    "relax.reshape": _reshape,
    "relax.expand_dims": _reshape,
    "relax.squeeze": _reshape,
    "relax.flatten": _reshape,
    "relax.permute_dims": _permute,
    "relax.full": lambda call, value: np.broadcast_to(value, shape_of(call)),
    "relax.zeros": _filled(0),
    "relax.ones": _filled(1),
    "relax.arange": _arange,
    "relax.strided_slice": _slice,
    "relax.slice_scatter": _slice_scatter,
    "relax.take": _take,
    "relax.max": _maximum,
}
