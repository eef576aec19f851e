"""The masked original where dropping is not masking: inexact operations see the living positions only.

A LayerNorm over a pruned width takes its statistics over what is left. To check the pruned program against the
original, the original computes exactly these operations on its living positions and puts zeros elsewhere.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from ...analysis import Analysis
from ...graph import Node
from ...shapes import Alive
from .places import places_of
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
        for places in places_of(self.layouts[self._value(item).name], self.alive):
            item = places.taken(item)
        return item

    def _spread(self, result: Any, node: Node) -> Any:
        tensors = [result] if isinstance(result, torch.Tensor) else list(result)
        wide = []
        for tensor, value in zip(tensors, node.outputs, strict=True):
            for places in places_of(self.layouts[value.name], self.alive):
                tensor = places.put(tensor)
            wide.append(tensor)
        return wide[0] if isinstance(result, torch.Tensor) else type(result)(wide)
