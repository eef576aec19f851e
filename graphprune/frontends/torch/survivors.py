"""The masked original where dropping is not masking: inexact operations see the living positions only.

A LayerNorm over a pruned width takes its statistics over what is left. To check the pruned program against the
original, the original computes exactly these operations on its living positions and puts zeros elsewhere.
"""

from collections.abc import Callable
from typing import Any

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
        return self._spread(func(*args, **kwargs), node)

    def _living(self, item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        for axis, index in self._indices(self.layouts[self._value(item).name]):
            item = item.index_select(axis, index)
        return item

    def _spread(self, result: Any, node: Node) -> Any:
        tensors = [result] if isinstance(result, torch.Tensor) else list(result)
        wide = []
        for tensor, value in zip(tensors, node.outputs, strict=True):
            for axis, index in self._indices(self.layouts[value.name]):
                shape = [*tensor.shape[:axis], value.shape[axis], *tensor.shape[axis + 1 :]]
                tensor = tensor.new_zeros(shape).index_copy(axis, index, tensor)
            wide.append(tensor)
        return wide[0] if isinstance(result, torch.Tensor) else tuple(wide)

    def _indices(self, layout: Layout) -> list[tuple[int, torch.Tensor]]:
        found = []
        for array in layout:
            living = self.alive[array.labels]
            if living.all():
                continue
            if len(array.axes) > 1:
                raise VerifyError("an inexact operation on channels that depend on two axes cannot be verified")
            found.append((array.axes[0], torch.from_numpy(living.nonzero()[0])))
        return found
