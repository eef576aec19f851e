"""What all translations into the canonical vocabulary share, whatever framework they come from."""

from typing import Any

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
