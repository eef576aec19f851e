"""The masked original where dropping is not masking: inexact operations see the living positions only.

A LayerNorm over a pruned width takes its statistics over what is left. To check the pruned program against the
original, the original computes exactly these operations on its living positions and puts zeros elsewhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map

from ...analysis import Analysis
from ...errors import VerifyError
from ...graph import Node
from ...labels import Layout
from ...shapes import Alive
from .record import Recorder


class Survivors(Recorder):
    """Follows a real run along the nodes of an analysis and computes the inexact ones on living positions."""

    def follow(self, analysis: Analysis, alive: Alive) -> "Survivors":
        """Tell which program is run and what lives."""
        equations = analysis.equations
        self.alive, self.nodes = alive, analysis.graph.nodes
        self.layouts = {value.name: layout for value, layout in analysis.layouts.items()}
        self.inexact = {
            id(reason.node) for labels, reason in equations.inexact if reason.node and not alive[labels].all()
        }
        return self

    def compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call, on living positions where it is inexact."""
        position = len(self.graph.nodes)
        node = self.nodes[position] if position < len(self.nodes) else None
        if node is None or id(node) not in self.inexact:
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._living, (args, kwargs))
        if node.op in ("layer_norm", "rms_norm"):
            args = (args[0], tuple(args[0].shape[-int(node.attrs["dims"]) :]), *args[2:])
        if node.op == "rms_norm":  # the scale is in float64 by now, which has another eps by default
            args = (*args[:2], args[2] if len(args) > 2 else kwargs.pop("weight", None), node.attrs["eps"])
            kwargs.pop("eps", None)
        return self._spread(func(*args, **kwargs), node)

    def _living(self, item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        for places in self._places(self.layouts[self._value(item).name]):
            item = places.taken(item)
        return item

    def _spread(self, result: Any, node: Node) -> Any:
        tensors = [result] if isinstance(result, torch.Tensor) else list(result)
        wide = []
        for tensor, value in zip(tensors, node.outputs, strict=True):
            for places in self._places(self.layouts[value.name]):
                tensor = places.put(tensor)
            wide.append(tensor)
        return wide[0] if isinstance(result, torch.Tensor) else type(result)(wide)

    def _places(self, layout: Layout) -> "list[_Places]":
        found = [(array.axes, self.alive[array.labels]) for array in layout]
        return [_Places.of(axes, living) for axes, living in found if not living.all()]


class _Places(NamedTuple):
    """Living positions: rows of the first axis and, where there is a second one, as many positions of every row."""

    axes: tuple[int, ...]
    shape: tuple[int, ...]
    rows: torch.Tensor
    columns: torch.Tensor | None

    @classmethod
    def of(cls, axes: tuple[int, ...], living: Alive) -> "_Places":
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
