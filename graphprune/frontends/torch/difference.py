"""Find the first operation at which a pruned program leaves the masked original."""

from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ...plan import Plan
from ...shapes import Alive, living
from .calls import base_name
from .inputs import Inputs
from .names import QUIET, TRANSLATIONS
from .opening import opened
from .read import analyze
from .record import _tensors
from .run import masked_run


def first_difference(original: torch.nn.Module, slim: torch.nn.Module, plan: Plan, inputs: Inputs) -> str:
    """The name of the first node whose living positions differ in float64; a plain sentence where none does."""
    try:
        analysis = analyze(original, inputs, plan.policy)
        alive = living(analysis, plan)
        masked, pruned = _all_results(original, inputs, plan), _all_results(slim, inputs, None)
    except Exception as error:
        return f"an operation that could not be found ({error})"
    nodes = [node for node in analysis.graph.nodes if node.measured and node.attrs.get("name") != "alias"]
    for node, left, right in zip(nodes, masked, pruned, strict=False):
        for value, wide, narrow in zip(node.outputs, left, right, strict=False):
            expected = _compress(wide, analysis.layouts[value], alive)
            if expected is None:
                continue
            if expected.shape != tuple(narrow.shape):
                return f"{node} [{value.name}]: shape {tuple(narrow.shape)} where {expected.shape} is right"
            scale = max(float(np.abs(expected).max(initial=0.0)), 1e-30)
            apart = float(np.abs(expected - narrow.numpy()).max(initial=0.0)) / scale
            if not apart <= 1e-9:
                return f"{node} [{value.name}]: error {apart:.1e}"
    return "an output, although every operation agrees"


class _Keep(TorchFunctionMode):
    """Keeps the results of the calls that a recording would turn into nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[list[torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one call and keep a copy of what it gives."""
        kwargs = kwargs or {}
        name = base_name(func)
        inside = opened(func) if name not in TRANSLATIONS and name not in QUIET else None
        if inside is not None:
            with self:
                return inside(*args, **kwargs)
        result = func(*args, **kwargs)
        tensors = [args[0]] if name == "__setitem__" else _tensors(result)
        if name not in QUIET and tensors:
            with torch._C.DisableTorchFunction():  # the copies are no calls of the model
                self.results.append([tensor.detach().cpu().clone().double() for tensor in tensors])
        return result


def _all_results(module: torch.nn.Module, inputs: Inputs, plan: Plan | None) -> list[list[torch.Tensor]]:
    keep = _Keep()
    masked_run(module, inputs, plan, keep)
    return keep.results


def _compress(tensor: torch.Tensor, layout: Any, alive: Alive) -> Any:
    """The living positions of a full-size value; None where labels depend on two axes."""
    array = tensor.numpy()
    for item in layout:
        if len(item.axes) > 1:
            return None
        array = array.compress(alive[item.labels], item.axes[0])
    return array
