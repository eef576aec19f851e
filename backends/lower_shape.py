"""Lowers what reduces and reshapes blocked values."""

from tvm import relax

from .layout import Blocked
from .lowering import Lowering, Value
from .rewriting import shape_of


def _mean(lowering: Lowering, call: relax.Call) -> Value | None:
    """A mean over all space axes stays blocked, with or without the axes it reduced."""
    data = lowering.value(call.args[0])
    if not isinstance(data, Blocked) or call.attrs.axis is None:
        return None
    rank = len(data.shape)
    if sorted(int(a) % rank for a in call.attrs.axis) != list(range(2, rank)):
        return None
    mean = lowering.builder.emit(relax.op.mean(data.expr, axis=[2, 3], keepdims=True))
    result = lowering.wrap(mean, (*data.shape[:2], *(1,) * (rank - 2)), data.segments)
    if call.attrs.keepdims:
        return result
    return lowering.builder.emit(relax.op.reshape(lowering.plain(result), data.shape[:2]))


def _same(lowering: Lowering, call: relax.Call) -> Value | None:
    """A reshape that changes nothing."""
    data = lowering.value(call.args[0])
    if isinstance(data, Blocked) and data.shape == shape_of(call):
        return data
    return None


HANDLERS = {"relax.mean": _mean, "relax.reshape": _same}
