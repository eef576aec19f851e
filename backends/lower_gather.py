"""Lowers what moves pixels: gathers at constant places, borders, cut-outs. Lanes do not mix, so values stay blocked."""

import numpy as np
from tvm import relax, te, tirx

from .layout import Blocked, as_image
from .lowering import Lowering, Value
from .rewriting import shape_of

# TVM takes an index that is read from a table for something that cannot be fused; a gather can.
_INJECTIVE = {"op_pattern": 2}


def _take(lowering: Lowering, call: relax.Call) -> Value | None:
    """Elements at constant places along one axis."""
    places, shape = lowering.constant(call.args[1]), shape_of(call.args[0])
    if places is None or places.ndim != 1 or shape is None or call.attrs.axis is None or 0 in places.shape:
        return None
    axis = int(call.attrs.axis) % len(shape)
    places = np.where(places < 0, places + shape[axis], places)
    if places.min() < 0 or places.max() >= shape[axis]:
        return None
    data = lowering.value(call.args[0])
    table = relax.const(places.astype("int64"))
    if not isinstance(data, Blocked) or axis < 2 or len(shape) > 4:
        return _gather(lowering, lowering.expression(call.args[0]), table, axis, False)
    moved = _gather(lowering, data.expr, table, axis + (len(shape) == 3), True)
    return lowering.wrap(moved, shape_of(call), data.segments)


def _gather(lowering: Lowering, data: relax.Expr, table: relax.Expr, axis: int, fused: bool) -> relax.Expr:
    shape = [int(extent) for extent in data.ty.shape]
    shape[axis] = int(table.ty.shape[0])

    def compute(source: te.Tensor, places: te.Tensor) -> te.Tensor:
        return te.compute(shape, lambda *i: source(*i[:axis], places[i[axis]], *i[axis + 1 :]), name="gather")

    # On plain tensors TVM's simplifier stumbles over the mixed integers that come out of fusing gathers with views.
    attrs = _INJECTIVE if fused else {"op_pattern": 8}
    return lowering.builder.emit_te(compute, data, table, primfunc_name_hint="gather", primfunc_attrs=attrs)


def _pad(lowering: Lowering, call: relax.Call) -> Value | None:
    """A border of one number around the pixels of a blocked value."""
    data = lowering.value(call.args[0])
    widths = [int(width) for width in call.attrs.pad_width]
    if not isinstance(data, Blocked) or len(data.shape) > 4 or call.attrs.pad_mode != "constant" or any(widths[:4]):
        return None
    number = float(call.attrs.pad_value) if len(call.args) < 2 else lowering.constant(call.args[1])
    if number is None or not np.isfinite(number):
        return None
    out = shape_of(call)
    _, _, height, width = as_image(data.shape)
    top, left = (0, widths[4]) if len(data.shape) == 3 else (widths[4], widths[6])
    _, _, rows, columns = as_image(out)
    size = (data.shape[0], data.blocks, rows, columns, data.lanes)

    def compute(source: te.Tensor) -> te.Tensor:
        def value(n, b, y, x, lane):
            inside = tirx.all(y >= top, y < height + top, x >= left, x < width + left)
            return tirx.if_then_else(inside, source[n, b, y - top, x - left, lane], tirx.const(number, source.dtype))

        return te.compute(size, value, name="border")

    padded = lowering.builder.emit_te(compute, data.expr, primfunc_name_hint="border", primfunc_attrs=_INJECTIVE)
    return lowering.wrap(padded, out, data.segments)


def numbers_of(expr: relax.Expr) -> list[int] | None:
    """A list of integers that an operator takes as an argument."""
    if isinstance(expr, relax.ShapeExpr):
        return [int(number) for number in expr.values]
    if isinstance(expr, relax.Tuple):
        try:
            return [int(getattr(field, "value", field)) for field in expr.fields]
        except (TypeError, ValueError):
            return None
    return None


def slices_of(call: relax.Call) -> dict[int, slice] | None:
    """What a slice with constant limits takes of each axis that it cuts."""
    shape = shape_of(call.args[0])
    lists = [numbers_of(argument) for argument in call.args[1:]]
    if shape is None or any(numbers is None for numbers in lists):
        return None
    axes, starts, ends, *steps = lists
    steps = steps[0] if steps else [1] * len(axes)
    cuts = zip(axes, starts, ends, steps, strict=True)
    return {axis % len(shape): slice(start, end, step) for axis, start, end, step in cuts}


def _slice(lowering: Lowering, call: relax.Call) -> Value | None:
    """A cut-out of the pixels of a blocked value."""
    data, cuts = lowering.value(call.args[0]), slices_of(call)
    if not isinstance(data, Blocked) or cuts is None or len(data.shape) > 4 or any(axis < 2 for axis in cuts):
        return None
    shift = 1 if len(data.shape) == 3 else 0
    ranges = {axis: cut.indices(data.shape[axis]) for axis, cut in cuts.items()}
    if any(step <= 0 for _, _, step in ranges.values()):
        return None
    starts, ends, steps = ([limits[i] for limits in ranges.values()] for i in range(3))
    cut = relax.op.strided_slice(data.expr, [axis + shift for axis in ranges], starts, ends, steps)
    return lowering.wrap(lowering.builder.emit(cut), shape_of(call), data.segments)


HANDLERS = {"relax.take": _take, "relax.nn.pad": _pad, "relax.strided_slice": _slice}
