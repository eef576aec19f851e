"""Lowers softmax and its logarithm over any axis, norms over the last one, and norms of groups of channels."""

from functools import partial
from math import prod

from tvm import relax

from . import columns, group_norm, rows
from .lowering import Lowering, Value
from .rewriting import dtype_of, shape_of

# How to compute them over the last axis, and over the middle one of three.
_TEMPLATES = {
    "softmax": (rows.softmax, columns.softmax),
    "log_softmax": (rows.log_softmax, columns.log_softmax),
}


def _softmax(lowering: Lowering, call: relax.Call) -> Value | None:
    shape = shape_of(call)
    if dtype_of(call) != "float32" or not shape or 0 in shape:
        return None
    name = call.op.name.rpartition(".")[2]
    axis, data = int(call.attrs.axis) % len(shape), lowering.expression(call.args[0])
    by_rows, by_columns = _TEMPLATES[name]
    outer, inner = prod(shape[:axis]), prod(shape[axis + 1 :])
    if axis == len(shape) - 1:
        return lowering.kernel(name, lambda d: by_rows(d, lowering.lanes), data)
    if inner == 1:
        flat = lowering.builder.emit(relax.op.reshape(data, (outer, shape[axis])))
        result = lowering.kernel(name, lambda d: by_rows(d, lowering.lanes), flat)
    else:
        flat = lowering.builder.emit(relax.op.reshape(data, (outer, shape[axis], inner)))
        result = lowering.kernel(name, by_columns, flat)
    return lowering.builder.emit(relax.op.reshape(result, shape))


def _layer_norm(lowering: Lowering, call: relax.Call) -> Value | None:
    shape, attrs = shape_of(call), call.attrs
    axes = [int(axis) % len(shape) for axis in attrs.axes] if shape else []
    if dtype_of(call) != "float32" or 0 in shape or axes != [len(shape) - 1] or not (attrs.scale and attrs.center):
        return None
    data, scale, shift = (lowering.expression(argument) for argument in call.args)
    epsilon = float(attrs.epsilon)
    compute = partial(rows.layer_norm, epsilon=epsilon, lanes=lowering.lanes)
    return lowering.kernel("layer_norm", compute, data, scale, shift)


def _rms_norm(lowering: Lowering, call: relax.Call) -> Value | None:
    shape = shape_of(call)
    axes = [int(axis) % len(shape) for axis in call.attrs.axes] if shape else []
    if dtype_of(call) != "float32" or not shape or 0 in shape or axes != [len(shape) - 1]:
        return None
    data, scale = (lowering.expression(argument) for argument in call.args)
    compute = partial(rows.rms_norm, epsilon=float(call.attrs.epsilon), lanes=lowering.lanes)
    return lowering.kernel("rms_norm", compute, data, scale)


def _group_norm(lowering: Lowering, call: relax.Call) -> Value | None:
    """Groups of the second axis: their moments by a kernel, the rest in elementwise operators, which fuse."""
    shape, attrs = shape_of(call), call.attrs
    spatial = list(range(2, len(shape)))
    plain = int(attrs.channel_axis) == 1 and [int(axis) % len(shape) for axis in attrs.axes] == spatial
    if dtype_of(call) != "float32" or 0 in shape or not (plain and attrs.scale and attrs.center):
        return None
    data, scale, shift = (lowering.expression(argument) for argument in call.args)
    emit, groups = lowering.builder.emit, int(attrs.num_groups)
    count, channels = shape[0] * groups, shape[1] // groups
    compute = partial(group_norm.moments, epsilon=float(attrs.epsilon), lanes=lowering.lanes)
    pair = lowering.kernel("moments", compute, emit(relax.op.reshape(data, (count, prod(shape[1:]) // groups))))
    ones = (1,) * len(spatial)
    mean, inverse = (
        emit(relax.op.reshape(emit(relax.TupleGetItem(pair, index)), (shape[0], groups, 1, *ones))) for index in (0, 1)
    )
    parts = emit(relax.op.reshape(data, (shape[0], groups, channels, *shape[2:])))
    factors, offsets = (emit(relax.op.reshape(value, (1, groups, channels, *ones))) for value in (scale, shift))
    centred = emit(relax.op.subtract(parts, mean))
    scaled = emit(relax.op.multiply(centred, emit(relax.op.multiply(inverse, factors))))
    return emit(relax.op.reshape(emit(relax.op.add(scaled, offsets)), shape))


HANDLERS = {
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.rms_norm": _rms_norm,
    "relax.nn.group_norm": _group_norm,
}
