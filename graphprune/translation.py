"""What all translations into the canonical vocabulary share, whatever framework they come from."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Shape, Value

Translated = tuple[str, tuple[Value | None, ...], dict[str, Any]]
"""An operation of `graphprune.ops`, its inputs, its attributes."""


class Unsupported(Exception):
    """A form of an operation that has no counterpart; the message becomes the reason of a lock, with a way out."""

    def __init__(self, reason: str, unlock: str = "") -> None:
        super().__init__(reason)
        self.unlock = unlock


def axis_of(shape: Shape, axis: int) -> int:
    """An axis counted from the front."""
    rank = max(len(shape), 1)
    if not -rank <= axis < rank:
        raise Unsupported(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def broadcast(first: Shape, second: Shape) -> Shape:
    """The shape of what two operands of an element-wise operation give."""
    rank = max(len(first), len(second))
    pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True)
    return tuple(right if left == 1 else left for left, right in pairs)


def taken(x: Value, index: Value, axis: int, found: NDArray[np.int64] | None) -> Translated:
    """Positions of one axis: known ones, `found`, are taken; a stored table read at unknown ones is an embedding."""
    if found is not None and found.ndim == 0:
        return "getitem", (x,), {"cuts": [], "picks": [(axis, int(found) % x.shape[axis])]}
    if x.is_leaf and axis == 0 and len(x.shape) == 2:
        return "embedding", (index, x), {}
    attrs: dict[str, Any] = {"axis": axis, "rank": len(index.shape), "positions": None}
    if found is not None and found.ndim == 1:
        attrs["positions"] = found.astype(np.int64) % max(x.shape[axis], 1)
        return "index", (x,), attrs
    return "index", (x, index), attrs
