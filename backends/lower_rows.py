"""Lowers softmax and layer norm over the last axis."""

from functools import partial

from tvm import relax

from . import rows
from .lowering import Lowering, Value
from .rewriting import dtype_of, shape_of


def _softmax(lowering: Lowering, call: relax.Call) -> Value | None:
    shape = shape_of(call)
    if (
        dtype_of(call) != "float32"
        or shape is None
        or 0 in shape
        or int(call.attrs.axis) % len(shape) != len(shape) - 1
    ):
        return None
    data = lowering.expression(call.args[0])
    return lowering.kernel("softmax", lambda d: rows.softmax(d, lowering.lanes), data)


def _layer_norm(lowering: Lowering, call: relax.Call) -> Value | None:
    shape, attrs = shape_of(call), call.attrs
    axes = [int(axis) % len(shape) for axis in attrs.axes] if shape else []
    if dtype_of(call) != "float32" or 0 in shape or axes != [len(shape) - 1] or not (attrs.scale and attrs.center):
        return None
    data, scale, shift = (lowering.expression(argument) for argument in call.args)
    epsilon = float(attrs.epsilon)
    compute = partial(rows.layer_norm, epsilon=epsilon, lanes=lowering.lanes)
    return lowering.kernel("layer_norm", compute, data, scale, shift)


HANDLERS = {"relax.nn.softmax": _softmax, "relax.nn.layer_norm": _layer_norm}
