"""Where positions are dropped along the axes of a value, as numpy: what to take of it, and how to put that back."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import VerifyError
from .labels import Layout
from .shapes import Alive


def dropping(layout: Layout, shape: tuple[int, ...], alive: Alive) -> "Iterator[Places]":
    """Where something is dropped along the axes of a value, one array of labels after the other."""
    for array in layout:
        kept = alive[array.labels]
        if not kept.all():
            places = Places(array.axes, kept, shape)
            yield places
            shape = places.after


class Places:
    """Living positions: `rows` of the first axis and, where there is a second one, as many `columns` of every row.

    `kept` tells what lives over the axes; `shape` is that of the value before anything of them is dropped, `after`
    what it is then.
    """

    def __init__(self, axes: tuple[int, ...], kept: Alive, shape: tuple[int, ...]) -> None:
        self.axes, self.kept, self.shape = axes, kept, shape
        self.columns: NDArray[np.int64] | None = None
        if kept.ndim == 1:
            self.rows: NDArray[np.int64] = kept.nonzero()[0]
            return
        self.rows = kept.any(axis=tuple(range(1, kept.ndim))).nonzero()[0]
        counts = kept[self.rows].reshape(self.rows.size, -1).sum(axis=1)
        if kept.ndim > 2 or (counts != counts[:1]).any():
            raise VerifyError("an inexact operation on channels that depend on several axes cannot be verified")
        self.columns = kept[self.rows].nonzero()[1].reshape(self.rows.size, -1)

    @property
    def after(self) -> tuple[int, ...]:
        """The shape of what lives."""
        shape = list(self.shape)
        shape[self.axes[0]] = self.rows.size
        if self.columns is not None:
            shape[self.axes[1]] = self.columns.shape[1]
        return tuple(shape)

    @cached_property
    def inner(self) -> NDArray[np.int64]:
        """Which column to take for every element of what lives."""
        assert self.columns is not None
        return np.broadcast_to(_along(self.columns, self.axes, len(self.shape)), self.after)

    @cached_property
    def outer_rows(self) -> NDArray[np.int64]:
        """Which living row to put at every row; any at those that are dropped, see `mask`."""
        living = self.kept.reshape(len(self.kept), -1).any(axis=1)
        result: NDArray[np.int64] = np.maximum(np.cumsum(living) - 1, 0)
        return result

    @cached_property
    def outer(self) -> NDArray[np.int64]:
        """Which living column to put at every element."""
        columns = np.maximum(np.cumsum(self.kept, axis=1) - 1, 0)
        return np.broadcast_to(_along(columns, self.axes, len(self.shape)), self.shape)

    @cached_property
    def mask(self) -> Alive:
        """What lives, with 1 for the other axes."""
        return _along(self.kept, self.axes, len(self.shape))

    def compress(self, array: NDArray[Any]) -> NDArray[Any]:
        """What lives of an array."""
        array = array.take(self.rows, self.axes[0])
        if self.columns is None:
            return array
        return np.take_along_axis(array, _along(self.columns, self.axes, array.ndim), self.axes[1])


def _along(array: NDArray[Any], axes: tuple[int, ...], rank: int) -> NDArray[Any]:
    """An array over some axes, with 1 for the others."""
    shape = [1] * rank
    for axis, size in zip(axes, array.shape, strict=True):
        shape[axis] = size
    ordered = array if list(axes) == sorted(axes) else array.T
    return ordered.reshape(shape)
