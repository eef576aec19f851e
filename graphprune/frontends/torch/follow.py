"""Follow a run on real data along the nodes of an analysis: what collects statistics and repairs weights sees each call."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._pytree import tree_map

from ...analysis import Analysis
from ...errors import DataError
from ...graph import Node, Value
from .attention import open_attention
from .copying import copy_with, without_caches
from .inputs import Inputs
from .record import Recorder, recorder_for
from .twins import device_of, stored_tensors

Arguments = tuple[Any, ...]
Visit = Callable[[Node, Callable[..., Any], Arguments, dict[str, Any]], Any]


class Follower(Recorder):
    """Hands every call of a run, with its node, to `visit`, and takes what that gives for the result.

    Unlike a recording it keeps no tensor alive, so memory is that of the run itself.
    """

    def along(self, analysis: Analysis, visit: Visit) -> "Follower":
        """Tell which program is run, and who looks on."""
        self.nodes, self.visit = [node for node in analysis.graph.nodes if node.measured], visit
        return self

    def compute(self, func: Callable[..., Any], args: Arguments, kwargs: dict[str, Any]) -> Any:
        """One call, in the hands of `visit`."""
        position = len(self.graph.nodes)
        if position >= len(self.nodes):  # behind the outputs: a loss that the model computes where labels are given
            return func(*args, **kwargs)
        return self.visit(self.nodes[position], func, args, kwargs)

    def _mark(self, tensor: torch.Tensor, value: Value, inplace: bool) -> None:
        super()._mark(tensor, value, inplace)
        if id(tensor) not in self.names:
            self.marked.pop()  # it goes when the run lets it go, and its mark with it

    def _record(self, name: str, *rest: Any) -> None:
        before = len(self.graph.nodes)
        super()._record(name, *rest)
        if before >= len(self.nodes) or len(self.graph.nodes) == before:
            return
        if self.graph.nodes[-1].op != self.nodes[before].op:
            ran, expected = self.graph.nodes[-1].op, self.nodes[before]
            raise DataError(
                f"this batch takes another way through the model than the example inputs did: {ran} runs where they "
                f"run {expected}. Give batches of one kind, and example_inputs like them."
            )


class Runnable:
    """A copy of a module in evaluation mode that shares its tensors, with its run followed along an analysis.

    With `gradients`, `parameters` are those of the copy, by name, each with a gradient of its own.
    """

    def __init__(self, module: torch.nn.Module, analysis: Analysis, gradients: bool = False) -> None:
        self.parameters: dict[str, torch.Tensor] = {}
        memo: dict[int, torch.Tensor] = {}
        for name, tensor, kind in stored_tensors(module):
            if id(tensor) in memo:
                continue
            learns = gradients and kind == "parameter" and tensor.is_floating_point()
            memo[id(tensor)] = torch.nn.Parameter(tensor.detach()) if learns else tensor
            if learns:
                self.parameters[name] = memo[id(tensor)]
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


def moved(item: Any, device: torch.device) -> Any:
    """Nested tensors on a device; anything else as it is."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, item)
