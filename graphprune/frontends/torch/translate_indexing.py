"""Translations of reading and writing at positions that lists, tensors and masks name."""

from typing import Any

from ...graph import Value
from .calls import Call, Translated, Unsupported, axis_of


def pick_of(value: Value, index: tuple[Any, ...]) -> Translated:
    """x[index] with several lists or tensors, or with a mask; new axes may stand before or after them."""
    place, _, tensors = _places(value, index)
    return "pick", (value, *tensors), {"place": place, "ragged": any(item.dtype == "bool" for item in tensors)}


def setitem_call(call: Call) -> Translated:
    """x[index] = source."""
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    return _put(call, index, call.args[2])


def index_put_call(call: Call) -> Translated:
    """x.index_put(indices, source): a list with None for axes that stay."""
    index = tuple(slice(None) if item is None else item for item in call.get(1, "indices"))
    return _put(call, index, call.get(2, "values"))


def index_add_call(call: Call) -> Translated:
    """x.index_add(axis, index, source), index_copy alike."""
    axis = axis_of(call.x, call.get(1, "dim"))
    index = (*[slice(None)] * axis, call.tensor(2, "index"))
    return _put(call, index, call.get(3, "source", "value"))


def _put(call: Call, index: tuple[Any, ...], source: Any) -> Translated:
    place, rank, tensors = _places(call.x, index)
    given = source if isinstance(source, Value) else None
    attrs = {"place": place, "rank": rank, "zero": given is None and not source}
    return "put", (call.x, given, *tensors), attrs


def _places(value: Value, index: tuple[Any, ...]) -> tuple[dict[int, int], int, list[Value]]:
    """Where in x[index] the axes lie that are taken whole, the rank of x[index], and the tensors in the index."""
    items = _filled(value, index)
    place: dict[int, int] = {}
    tensors: list[Value] = []
    groups, axis, out, joined = 0, 0, 0, False
    rank = max((1 if _is_mask(item) else _rank(item) for item in items if _is_named(item)), default=0)
    for item in items:
        if _is_named(item) or (isinstance(item, int) and joined):
            groups, out = groups + (not joined), out + (0 if joined else rank)
            joined = True
            tensors += [item] if isinstance(item, Value) else []
            axis += len(item.shape) if _is_mask(item) else 1
            continue
        joined = False
        if isinstance(item, slice):
            if item == slice(None) or range(*item.indices(value.shape[axis])) == range(value.shape[axis]):
                place[axis] = out
            out, axis = out + 1, axis + 1
        elif item is None:
            out += 1
        else:
            axis += 1
    if groups > 1:
        raise Unsupported("is indexed by lists or tensors along axes that are not side by side")
    return place, out, tensors


def _filled(value: Value, index: tuple[Any, ...]) -> list[Any]:
    """The index with a slice for every axis that it leaves out."""
    if not all(isinstance(item, (int, slice, type(None), type(...))) or _is_named(item) for item in index):
        raise Unsupported("is indexed by something else than whole numbers")
    if any(isinstance(item, bool) for item in index) or any(
        isinstance(bound, Value)
        for item in index
        if isinstance(item, slice)
        for bound in (item.start, item.stop, item.step)
    ):
        raise Unsupported("is indexed by a truth value or between bounds that are tensors")
    used = sum(len(item.shape) if _is_mask(item) else item is not None and item is not ... for item in index)
    hole = [slice(None)] * (len(value.shape) - used)
    places = [place for place, item in enumerate(index) if item is ...]
    if places:
        return [*index[: places[0]], *hole, *index[places[0] + 1 :]]
    return [*index, *hole]


def _is_named(item: Any) -> bool:
    numbers = isinstance(item, (list, range)) and all(type(part) is int for part in item)
    return numbers or isinstance(item, Value) and ("int" in item.dtype or item.dtype == "bool")


def _is_mask(item: Any) -> bool:
    return isinstance(item, Value) and item.dtype == "bool"


def _rank(item: Any) -> int:
    return len(item.shape) if isinstance(item, Value) else 1
