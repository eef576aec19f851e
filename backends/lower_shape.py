"""Lowers what joins, cuts and reduces blocked values."""

from tvm import relax

from .layout import Blocked
from .lowering import Lowering, Value
from .rewriting import shape_of


def _concat(lowering: Lowering, call: relax.Call) -> Value | None:
    """Channels are joined block by block: ragged parts keep their empty lanes as segments."""
    parts = call.args[0]
    if not isinstance(parts, relax.Tuple):
        return None
    values = [lowering.value(part) for part in parts.fields]
    if not any(isinstance(value, Blocked) for value in values):
        return None
    rank = len(shape_of(parts.fields[0]))
    if int(call.attrs.axis) % rank != 1 or not all(
        lowering.is_image(part) or lowering.is_volume(part) for part in parts.fields
    ):
        return None
    blocked = [lowering.blocked(value) for value in values]
    joined = lowering.builder.emit(relax.op.concat([value.expr for value in blocked], axis=1))
    channels = sum(value.shape[1] for value in blocked)
    shape = (blocked[0].shape[0], channels, *blocked[0].shape[2:])
    return lowering.wrap(joined, shape, tuple(s for value in blocked for s in value.segments))


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


HANDLERS = {"relax.concat": _concat, "relax.mean": _mean, "relax.reshape": _same}
