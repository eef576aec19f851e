"""Translations of views: reshaping, slicing, indexing, joining, repeating, padding."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch

from ...graph import Value
from .calls import Call, Translated, Unsupported, axes_of, axis_of
from .translate_indexing import pick_of


def reshape_call(call: Call) -> Translated:
    if prod(call.x.shape) != prod(call.shapes[0]):
        raise Unsupported(f"'{call.name}' that reinterprets memory")
    if call.name == "view" and len(call.args) > 1 and isinstance(call.args[1], torch.dtype):
        raise Unsupported("a view as another dtype")
    return "reshape", (call.x,), {"shape": call.shapes[0]}


def permute_call(call: Call) -> Translated:
    order = call.varargs(1, "dims")
    return "permute", (call.x,), {"order": [axis_of(call.x, axis) for axis in order]}


def transpose_call(call: Call) -> Translated:
    rank = len(call.x.shape)
    order = list(range(rank))
    if call.name in ("t", ".T", ".H"):
        first, second = 0, 1
        if call.name == ".T" or rank < 2:
            return "permute", (call.x,), {"order": order[::-1]}
    elif call.name in (".mT", ".mH", "mT", "mH", "adjoint"):
        first, second = -2, -1
    else:
        first, second = call.get(1, "dim0", "axis0"), call.get(2, "dim1", "axis1")
    order[first], order[second] = order[second], order[first]
    return "permute", (call.x,), {"order": order}


def movedim_call(call: Call) -> Translated:
    source, target = call.get(1, "source"), call.get(2, "destination")
    pairs = zip(*(item if isinstance(item, (list, tuple)) else [item] for item in (source, target)), strict=True)
    where = {axis_of(call.x, new): axis_of(call.x, old) for old, new in pairs}
    rest = iter(axis for axis in range(len(call.x.shape)) if axis not in where.values())
    order = [where[axis] if axis in where else next(rest) for axis in range(len(call.x.shape))]
    return "permute", (call.x,), {"order": order}


def cat_call(call: Call) -> Translated:
    parts = tuple(call.get(0, "tensors"))
    axis = call.get(1, "dim", "axis", default=0)
    return "cat", parts, {"axis": axis % len(call.shapes[0])}


def stack_call(call: Call) -> Translated:
    return "stack", tuple(call.get(0, "tensors")), {"axis": call.get(1, "dim", default=0) % len(call.shapes[0])}


def split_call(call: Call) -> Translated:
    axis = axis_of(call.x, call.get(2, "dim", default=0))
    attrs = {"axis": axis, "sizes": [shape[axis] for shape in call.shapes], "even": "chunk" in call.name}
    return "split", (call.x,), attrs


def unbind_call(call: Call) -> Translated:
    return "unbind", (call.x,), {"axis": axis_of(call.x, call.get(1, "dim", default=0))}


def _bounds(value: Value, axis: int, start: Any, stop: Any, step: Any) -> tuple[int, int, int, int]:
    if any(isinstance(item, Value) for item in (start, stop, step)):
        raise Unsupported("is sliced between bounds that are tensors")
    first, last, stride = slice(start, stop, step).indices(value.shape[axis])
    return axis, first, max(first, last), stride


def _getitem_of(call: Call, cuts: list[tuple[int, int, int, int]], picks: list[tuple[int, int]]) -> Translated:
    return "getitem", (call.x,), {"cuts": cuts, "picks": picks}


def select_call(call: Call) -> Translated:
    axis, index = axis_of(call.x, call.get(1, "dim")), call.get(2, "index")
    if not isinstance(index, int):
        raise Unsupported("is picked by a tensor")
    return _getitem_of(call, [], [(axis, index % call.x.shape[axis])])


def slice_call(call: Call) -> Translated:
    axis = axis_of(call.x, call.get(1, "dim", default=0))
    parts = call.get(2, "start"), call.get(3, "end"), call.get(4, "step", default=1)
    return _getitem_of(call, [_bounds(call.x, axis, *parts)], [])


def narrow_call(call: Call) -> Translated:
    axis, start, length = axis_of(call.x, call.get(1, "dim")), call.get(2, "start"), call.get(3, "length")
    if not isinstance(start, int):
        raise Unsupported("is narrowed from a start that is a tensor")
    start %= call.x.shape[axis] + 1
    return _getitem_of(call, [(axis, start, start + length, 1)], [])


def _is_simple(item: Any) -> bool:
    return isinstance(item, (int, slice, type(None), type(...))) and not isinstance(item, bool)


def getitem_call(call: Call) -> Translated:
    """x[...] with numbers, slices, None and one ellipsis."""
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    odd = [place for place, item in enumerate(index) if not _is_simple(item)]
    alone = len(odd) == 1 and all(item == slice(None) for place, item in enumerate(index) if place not in odd)
    if alone and not (isinstance(index[odd[0]], Value) and index[odd[0]].dtype == "bool"):
        return index_of(call.x, odd[0], index[odd[0]])
    if odd:
        return pick_of(call.x, index)
    hole = len(call.x.shape) - sum(isinstance(item, (int, slice)) for item in index)
    axis, cuts, picks = 0, [], []
    for item in index:
        if item is ...:
            axis += hole
        elif isinstance(item, int):
            picks.append((axis, item % call.x.shape[axis]))
            axis += 1
        elif item is not None:
            cut = _bounds(call.x, axis, item.start, item.stop, item.step)
            if cut[1:] != (0, call.x.shape[axis], 1):
                cuts.append(cut)
            axis += 1
    return _getitem_of(call, cuts, picks)


def index_select_call(call: Call) -> Translated:
    return index_of(call.x, axis_of(call.x, call.get(1, "dim")), call.get(2, "index"))


def index_call(call: Call) -> Translated:
    """aten.index: a list with None for axes that stay."""
    given = [(axis, item) for axis, item in enumerate(call.get(1, "indices")) if item is not None]
    if len(given) != 1 or given[0][1].dtype == "bool":
        return pick_of(call.x, tuple(slice(None) if item is None else item for item in call.get(1, "indices")))
    return index_of(call.x, *given[0])


def index_of(value: Value, axis: int, positions: Any) -> Translated:
    """One axis indexed by a tensor or list of whole numbers."""
    size = value.shape[axis]
    if isinstance(positions, Value):
        if "int" not in positions.dtype:
            raise Unsupported("is indexed by a mask")
        attrs = {"axis": axis, "rank": len(positions.shape), "positions": _within(positions.numbers, size)}
        return "index", (value, positions), attrs
    if isinstance(positions, (list, tuple)) and all(
        isinstance(item, int) and not isinstance(item, bool) for item in positions
    ):
        return (
            "index",
            (value,),
            {"axis": axis, "rank": 1, "positions": _within(np.array(positions, dtype=np.int64), size)},
        )
    raise Unsupported("is indexed by something else than whole numbers")


def _within(positions: Any, size: int) -> Any:
    """Positions that are known, counted from the front."""
    return None if positions is None else positions % size


def unknown_index_call(call: Call) -> Translated:
    raise Unsupported("is indexed, or written, by position")


def flip_call(call: Call) -> Translated:
    axes = call.varargs(1, "dims") if call.name == "flip" else {"fliplr": (1,), "flipud": (0,)}[call.name]
    return "flip", (call.x,), {"axes": [axis_of(call.x, axis) for axis in axes]}


def roll_call(call: Call) -> Translated:
    axes, shifts = axes_of(call.get(2, "dims"), call.x), call.get(1, "shifts")
    if axes is None:
        raise Unsupported("is rolled over all axes at once")
    shifts = list(shifts) if isinstance(shifts, (list, tuple)) else [shifts]
    counts = {axis: shift % max(call.x.shape[axis], 1) for axis, shift in zip(axes, shifts, strict=True)}
    return "roll", (call.x,), {"shifts": counts}


def expand_call(call: Call) -> Translated:
    other = call.get(1, "other")
    likes = (other,) if isinstance(other, Value) else ()
    return "expand", (call.x, *likes), {"shape": call.shapes[0]}


def repeat_call(call: Call) -> Translated:
    times = call.varargs(1, "repeats", "dims")
    times = (1,) * (len(call.shapes[0]) - len(times)) + tuple(times)
    return "repeat", (call.x,), {"times": times}


def repeat_interleave_call(call: Call) -> Translated:
    times, axis = call.get(1, "repeats"), call.get(2, "dim")
    if not isinstance(times, int) or axis is None:
        raise Unsupported("repeat_interleave with a tensor of repeats or without an axis")
    return "repeat_interleave", (call.x,), {"axis": axis_of(call.x, axis), "times": times}


def pad_call(call: Call) -> Translated:
    amounts, rank = list(call.get(1, "pad")), len(call.x.shape)
    pads = {rank - 1 - i // 2: (amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)}
    pads = {axis: pair for axis, pair in pads.items() if any(pair)}
    constant = call.get(2, "mode", default="constant") in ("constant",) or not isinstance(call.get(2), str)
    value = call.get(3, "value", default=0) or 0
    return "pad", (call.x,), {"pads": pads, "zero": constant, "value": value}


def shuffle_call(name: str) -> Callable[[Call], Translated]:
    key = "groups" if name == "channel_shuffle" else "factor"
    return lambda call: (name, (call.x,), {key: call.get(1, "upscale_factor", "downscale_factor", "groups")})


def constant_pad_call(call: Call) -> Translated:
    return pad_call(
        Call("pad", (call.args[0], call.args[1], "constant", call.get(2, "value", default=0)), {}, call.shapes)
    )
