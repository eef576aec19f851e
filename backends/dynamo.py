"""The backend of `torch.compile(model, backend="graphprune")`.

```python
fast = torch.compile(model.eval(), backend="graphprune")
slim = torch.compile(model.eval(), backend="graphprune", options={"sparsity": 0.5, "target": "x86"})
with torch.no_grad():
    y = slim(x)
```

torch captures graphs and gives each of them to `backend`, once for every set of assumptions. A graph is compiled by its
first call without gradients, for the sizes and the weights of that call, and again when others come.
"""

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from ..api import compile as compile_model
from ..api import optimize, plan_of, verify
from ..errors import (
    CompileError,
    FallbackWarning,
    GraphPruneError,
    NothingToPruneError,
    TraceError,
    UnsupportedModelError,
)
from ..plan import Plan
from .captured import bound, enables_gradients, exported, weight_names, why_shared, wrapped_numbers
from .dynamo_options import Settings
from .watching import Watch

Run = Callable[..., Sequence[Any]]

# What stands in the way of compiling; anything else, such as a budget that cannot be met, is told the user as an error.
_OBSTACLES = (CompileError, TraceError, UnsupportedModelError)

# How often weights may change before the user is told what that costs.
_PATIENCE = 8


def backend(
    graph: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Run:
    """What torch calls with a captured graph, and what it calls instead of the graph then.

    `options` are the keyword options of `graphprune.optimize` and `graphprune.compile`, and `watch`; without a
    `sparsity` (or another option that says how much is to go) nothing is pruned. Errors are raised by the first call,
    as they are: `OptionError` for unknown options, and what `optimize` and `compile` raise for what cannot be met.

    Inference only: a call that needs gradients runs the graph itself, as does one that cannot be compiled; a
    `FallbackWarning` says so.
    """
    try:
        settings = Settings.of(options or {}, mode)
    except GraphPruneError as error:
        return _raising(error)
    return CapturedGraph(graph, settings)


def _raising(error: GraphPruneError) -> Run:
    def run(*arguments: Any) -> Sequence[Any]:
        raise error

    return run


class CapturedGraph:
    """A captured graph, compiled for the weights and sizes that it is called with."""

    def __init__(self, graph: fx.GraphModule, settings: Settings) -> None:
        self.graph, self.settings = graph, settings
        self.names, self.numbers = weight_names(graph), wrapped_numbers(graph)
        self.shared, self.enabling = why_shared(graph), enables_gradients(graph)
        self._own = (*graph.parameters(), *graph.buffers())
        self._versions: dict[tuple[int, ...], _Version] = {}
        self._lock, self._told, self._changes = threading.Lock(), set[str](), 0

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        """What the graph gives; or its pruned form, where it is to be pruned."""
        plain = [item.item() if place in self.numbers else item for place, item in enumerate(arguments)]
        gradients = self.enabling or torch.is_grad_enabled()
        run = self.shared or _why_not((*plain, *self._own), gradients) or self._program(plain)
        if isinstance(run, str):
            self._tell(f"a captured graph runs in PyTorch as it is, neither pruned nor compiled: {run}")
            return tuple(self.graph(*arguments))
        return run(*self._tensors(plain))

    def _tensors(self, arguments: Sequence[Any]) -> list[torch.Tensor]:
        """The arguments that are neither weights nor numbers."""
        return [item for place, item in enumerate(arguments) if place not in self.names and _is_tensor(item)]

    def _program(self, arguments: Sequence[Any]) -> Run | str:
        """What runs for these weights and sizes, or why nothing but the graph itself does."""
        weights = [*(arguments[place] for place in self.names), *self._own]
        rest = [item for place, item in enumerate(arguments) if place not in self.names]
        sizes = tuple(tuple(item.shape) if _is_tensor(item) else item for item in rest)
        with self._lock:
            version = self._versions.get(tuple(map(id, weights)))
            if version is None or not version.watch.unchanged(weights):
                version = self._renewed(weights, version is not None)
            if sizes not in version.programs:
                version.programs[sizes] = self._compiled(version, arguments, weights)
            return version.programs[sizes]

    def _renewed(self, weights: list[torch.Tensor], changed: bool) -> "_Version":
        """A place for what is compiled for new weights, instead of what was compiled for those that are gone."""
        self._changes += changed
        if self._changes == _PATIENCE:
            self._tell(
                f"the weights of a captured graph changed {_PATIENCE} times, and every time it was compiled anew: call "
                "the compiled model when it is trained, or until then under torch.compiler.set_stance('force_eager')"
            )
        self._versions = {key: version for key, version in self._versions.items() if version.watch.alive}
        version = _Version(Watch(weights, self.settings.all_numbers))
        self._versions[tuple(map(id, weights))] = version
        return version

    def _compiled(self, version: "_Version", arguments: Sequence[Any], weights: list[torch.Tensor]) -> Run | str:
        limit = torch._dynamo.config.recompile_limit
        if len(version.programs) >= limit:
            if self.settings.pruning is None:
                return f"it was compiled for {limit} sizes of its inputs already"
            version.programs.pop(next(iter(version.programs)))
        with torch.inference_mode(False), torch.no_grad():
            module, inputs = bound(self.graph, self.names, arguments), tuple(map(torch.clone, self._tensors(arguments)))
            try:
                program = exported(module, inputs)
            except _OBSTACLES as error:
                return str(error)
            slim = self._pruned(version, module, inputs, weights)
            try:
                how = {"threads": torch.get_num_threads(), **self.settings.compiling}
                artifact = compile_model(program if slim is None else slim, example_inputs=inputs, **how)
            except _OBSTACLES as error:
                if slim is None:
                    return str(error)
                self._tell(f"a captured graph was pruned, and runs in PyTorch, not compiled: {error}")
                return _without_gradients(slim)
        return lambda *inputs: tuple(map(_as_torch, artifact(*inputs)))

    def _pruned(
        self, version: "_Version", module: fx.GraphModule, inputs: tuple[torch.Tensor, ...], weights: list[torch.Tensor]
    ) -> torch.nn.Module | None:
        """The module without what is to go; None where nothing is. The same weights are pruned once for all sizes."""
        pruning = self.settings.pruning
        if pruning is None:
            return None
        decided = (tuple(self.names.values()), repr(pruning))
        plan = version.plan or _decision(decided, weights)
        if plan is None:
            try:
                slim: torch.nn.Module = optimize(module, example_inputs=inputs, **pruning)
            except NothingToPruneError as error:
                self._tell(f"a captured graph is compiled as it is, for nothing in it can be pruned: {error}")
                return None
            version.plan = plan_of(slim)
            if version.plan is not None:
                _DECISIONS.append((decided, version.watch, version.plan))
            return slim
        version.plan, slim = plan, plan.apply(module, inputs)
        if pruning.get("verify", True):
            verify(module, slim, plan, inputs, thorough=False)
        return slim

    def _tell(self, text: str) -> None:
        """Warn, once."""
        if text not in self._told:
            self._told.add(text)
            warnings.warn(text, FallbackWarning, stacklevel=4)


class _Version:
    """What was made of a graph for certain weights: a program for every sizes, and the plan that all of them share."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.plan: Plan | None = None
        self.programs: dict[tuple[Any, ...], Run | str] = {}


_DECISIONS: list[tuple[tuple[Any, ...], Watch, Plan]] = []
"""Plans of other graphs. torch captures the same code again for sizes that vary; it is to be pruned as before."""


def _decision(decided: tuple[Any, ...], weights: list[torch.Tensor]) -> Plan | None:
    """The plan that another graph of the same weights has been pruned by."""
    _DECISIONS[:] = [entry for entry in _DECISIONS if entry[1].alive]
    return next((plan for key, watch, plan in _DECISIONS if key == decided and watch.unchanged(weights)), None)


def _why_not(tensors: Sequence[Any], gradients: bool) -> str:
    """Why this call cannot take compiled code; the empty string where it can."""
    if gradients and any(_is_tensor(item) and item.requires_grad for item in tensors):
        return "it is called with gradients; call it under torch.no_grad() or torch.inference_mode()"
    if torch.is_autocast_enabled("cpu"):
        return "it is called under autocast; options={'precision': 'bf16'} stores weights in half of the bits"
    for item in tensors:
        if _is_tensor(item) and (type(item) not in (torch.Tensor, torch.nn.Parameter) or item.device.type != "cpu"):
            return f"it is called with a {type(item).__name__} on {item.device}, not with plain tensors on the CPU"
    return ""


def _is_tensor(item: Any) -> bool:
    return isinstance(item, torch.Tensor)


def _as_torch(result: Any) -> Any:
    return result if result is None or _is_tensor(result) else torch.utils.dlpack.from_dlpack(result)


def _without_gradients(module: torch.nn.Module) -> Run:
    def run(*inputs: torch.Tensor) -> Sequence[Any]:
        with torch.no_grad():
            return tuple(module(*inputs))

    return run
