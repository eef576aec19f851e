"""Reading and writing at positions that tensors name: the axes named stay whole, the others pass."""

from ..graph import Node, Value
from ..joining import join
from ..labels import Equations, Layout
from ..layout import lock_axes, moved, without

COMPUTED, UNLOCK = "is indexed by positions that the program computes", "index another axis"


def pick(eq: Equations, node: Node, x: Layout, *indices: Layout) -> Layout:
    """x[..., indices, ...]. attrs: place {axis of x: axis of the result} of the axes that are not indexed."""
    place = _closed(eq, node, x, indices)
    return moved(without(x, _others(node, place)), place)


def put(eq: Equations, node: Node, x: Layout, source: Layout, *indices: Layout) -> Layout:
    """x[..., indices, ...] = source, or += source. attrs: place as in `pick`, rank (of x[..., indices, ...])."""
    place = _closed(eq, node, x, indices)
    value, given = _value(node, 0), node.inputs[1]
    gone = _others(node, place)
    x = without(x, gone)
    if given is None:
        return x if node.attrs.get("zero") else tuple(array._replace(zero=False) for array in x)
    named = {new: old for old, new in place.items()}
    letters = [named.get(axis, f"indexed {axis}") for axis in range(int(node.attrs["rank"]))][
        -len(given.shape) or None :
    ]
    joined = join(eq, [(value.shape, x, range(len(value.shape))), (given.shape, source, letters)], "all")
    result = []
    for axes, array in joined:
        if all(isinstance(axis, int) for axis in axes):
            result.append(array._replace(axes=axes))  # type: ignore[arg-type]
        else:
            eq.lock(array.labels, "is written to positions that the program computes", UNLOCK)
    return tuple(result)


def _closed(eq: Equations, node: Node, x: Layout, indices: tuple[Layout, ...]) -> dict[int, int]:
    """Lock the axes that are indexed and the indices; return the places of the others."""
    place: dict[int, int] = node.attrs["place"]
    lock_axes(eq, x, _others(node, place), COMPUTED, UNLOCK)
    for layout in indices:
        for array in layout:
            eq.lock(array.labels, "is used as an index")
    return place


def _others(node: Node, place: dict[int, int]) -> list[int]:
    return [axis for axis in range(len(_value(node, 0).shape)) if axis not in place]


def _value(node: Node, position: int) -> Value:
    value = node.inputs[position]
    assert value is not None
    return value
