"""Example inputs as a command line tells them: shapes, element types and names."""

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ExampleInputsError

Make = Callable[[list[int], str], Any]
"""A tensor of so many elements along each axis and of an element type by name; `TypeError` for unknown types."""


def inputs_told(shapes: Sequence[str], make: Make) -> Any:
    """Tensors for `["1,3,224,224", "1,128:int64"]` in order, or for `["ids=1,128:int64"]` by name; None for no shapes.

    Raises `ExampleInputsError` for other texts, and for names beside shapes without one.
    """
    if not shapes:
        return None
    named = [text.rpartition("=") for text in shapes]
    names = [name for name, _, _ in named]
    if any(names) and (not all(names) or len(set(names)) < len(names)):
        raise ExampleInputsError(f"--input {' '.join(shapes)}: give every input a name of its own, or none of them")
    made = [_tensor(text, make) for _, _, text in named]
    return dict(zip(names, made, strict=True)) if all(names) else tuple(made)


def _tensor(text: str, make: Make) -> Any:
    shape, _, kind = text.partition(":")
    try:
        sizes = [int(part) for part in shape.split(",")]
        if min(sizes) < 1:
            raise ValueError
        return make(sizes, kind or "float32")
    except (ValueError, TypeError):
        raise ExampleInputsError(
            f"--input {text!r} is not a shape: write 1,3,224,224 or, for other types, 1,128:int64"
        ) from None
