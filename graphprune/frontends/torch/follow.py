"""Follow a run on real data along the nodes of an analysis, so that each call can be looked at, or made differently."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from ...analysis import Analysis
from ...errors import DataError
from ...graph import Node, Value
from .attention import open_attention
from .calls import base_name
from .copying import copy_with, without_caches
from .inputs import Inputs
from .names import TRANSLATIONS
from .record import Recorder, recorder_for
from .twins import device_of, stored_tensors

Arguments = tuple[Any, ...]
Visit = Callable[[Node, Callable[..., Any], Arguments, dict[str, Any]], Any]


OTHER_WAY = (
    "this batch takes another way through the model than the example inputs did: {ran} where they run {expected}. "
    "Give batches of one kind, and example_inputs like them."
)


class Follower(Recorder):
    """Hands every call of a run, with its node, to `visit`, and takes what that gives for the result.

    Unlike a recording it keeps no tensor alive, so memory is that of the run itself.
    """

    def along(self, analysis: Analysis, visit: Visit) -> "Follower":
        """Tell which program is run, and who looks on."""
        self.nodes, self.visit = [node for node in analysis.graph.nodes if node.measured], visit
        return self

    def compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call, in the hands of `visit`."""
        behind = len(self.graph.nodes) >= len(self.nodes)  # a loss that the model computes where labels are given
        if behind or base_name(func) not in TRANSLATIONS:  # what is not known may leave no node
            return func(*args, **kwargs)
        node = self.nodes[len(self.graph.nodes)]
        stored = {self.names.get(id(leaf)) for leaf in tree_leaves((args, kwargs))}
        missing = [value.name for value in node.inputs if value is not None and value.is_leaf]
        if not stored.issuperset(missing):
            raise DataError(OTHER_WAY.format(ran=f"'{base_name(func)}' runs", expected=node))
        return self.visit(node, func, args, kwargs)

    def _mark(self, tensor: torch.Tensor, value: Value, inplace: bool) -> None:
        super()._mark(tensor, value, inplace)
        if id(tensor) not in self.names:
            self.marked.pop()  # it goes when the run lets it go, and its mark with it

    def _record(self, name: str, *rest: Any) -> None:
        before = len(self.graph.nodes)
        super()._record(name, *rest)
        for ran, expected in zip(self.graph.nodes[before:], self.nodes[before:], strict=False):
            if ran.op != expected.op:
                raise DataError(OTHER_WAY.format(ran=f"'{name}' runs", expected=expected))


class Runnable:
    """A copy of a module in evaluation mode that shares its parameters, with its run followed along an analysis.

    It has buffers of its own, so that a model which writes into them leaves no trace, but for those in `shared`. With
    `gradients`, `parameters` are those of the copy, by name, each with a gradient of its own.
    """

    def __init__(
        self, module: torch.nn.Module, analysis: Analysis, gradients: bool = False, shared: Collection[str] = ()
    ) -> None:
        self.parameters: dict[str, torch.Tensor] = {}
        memo: dict[int, torch.Tensor] = {}
        for name, tensor, kind in stored_tensors(module):
            if id(tensor) in memo:
                continue
            if kind != "parameter":
                memo[id(tensor)] = tensor if name in shared else tensor.detach().clone()
            elif gradients and tensor.is_floating_point():
                memo[id(tensor)] = self.parameters[name] = torch.nn.Parameter(tensor.detach())
            else:
                memo[id(tensor)] = tensor
        self.stored = [(name, memo[id(tensor)], kind) for name, tensor, kind in stored_tensors(module)]
        self.twin = without_caches(copy_with(module, memo)).eval()
        open_attention(self.twin)
        self.analysis, self.device = analysis, device_of(self.twin)

    def __call__(self, inputs: Inputs, visit: Visit) -> Any:
        """What one run gives; every call goes through `visit`."""
        follower = recorder_for(self.stored, Follower, dry=False).along(self.analysis, visit)
        with ExitStack() as stack:
            stack.callback(follower.finish)
            arguments = follower.open(inputs, self.device)
            stack.enter_context(follower)
            return self.twin(*arguments.args, **arguments.kwargs)


def moved(item: Any, device: torch.device, copy: bool = False) -> Any:
    """Nested tensors on a device; anything else as it is."""
    return tree_map(lambda leaf: leaf.to(device, copy=copy) if isinstance(leaf, torch.Tensor) else leaf, item)
