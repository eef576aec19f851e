"""What lives of a tensor once channels are dropped, and back: rows of an axis, or as many positions of every row."""

from typing import NamedTuple

import torch

from ...errors import VerifyError
from ...labels import Layout
from ...shapes import Alive


def places_of(layout: Layout, alive: Alive) -> "list[Places]":
    """What to take of a value with this layout where some labels live; nothing for axes that stay whole."""
    found = [(array.axes, alive[array.labels]) for array in layout]
    return [Places.of(axes, living) for axes, living in found if not living.all()]


class Places(NamedTuple):
    """Living positions: rows of the first axis and, where there is a second one, as many positions of every row."""

    axes: tuple[int, ...]
    shape: tuple[int, ...]
    rows: torch.Tensor
    columns: torch.Tensor | None

    @classmethod
    def of(cls, axes: tuple[int, ...], living: Alive) -> "Places":
        """From what lives of an array of labels over the axes."""
        if living.ndim == 1:
            return cls(axes, living.shape, torch.from_numpy(living.nonzero()[0]), None)
        rows = living.any(axis=tuple(range(1, living.ndim))).nonzero()[0]
        counts = living[rows].reshape(rows.size, -1).sum(axis=1)
        if living.ndim > 2 or (counts != counts[:1]).any():
            raise VerifyError("an inexact operation on channels that depend on several axes cannot be verified")
        columns = living[rows].nonzero()[1].reshape(rows.size, -1)
        return cls(axes, living.shape, torch.from_numpy(rows), torch.from_numpy(columns))

    def taken(self, tensor: torch.Tensor) -> torch.Tensor:
        """What lives of a tensor."""
        tensor = tensor.index_select(self.axes[0], self.rows.to(tensor.device))
        return tensor if self.columns is None else tensor.take_along_dim(self._index(tensor), self.axes[1])

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """The inverse: living positions in their places among zeros."""
        if self.columns is not None:
            wide = tensor.new_zeros([*tensor.shape[: self.axes[1]], self.shape[1], *tensor.shape[self.axes[1] + 1 :]])
            tensor = wide.scatter(self.axes[1], self._index(tensor).expand(tensor.shape), tensor)
        axis = self.axes[0]
        shape = [*tensor.shape[:axis], self.shape[0], *tensor.shape[axis + 1 :]]
        return tensor.new_zeros(shape).index_copy(axis, self.rows.to(tensor.device), tensor)

    def _index(self, tensor: torch.Tensor) -> torch.Tensor:
        assert self.columns is not None
        shape = [1] * tensor.dim()
        shape[self.axes[0]], shape[self.axes[1]] = self.columns.shape
        return (self.columns if self.axes[0] < self.axes[1] else self.columns.T).reshape(shape).to(tensor.device)
