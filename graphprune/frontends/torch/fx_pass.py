"""Pruning as a pass of torch.fx."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.shape_prop import ShapeProp

from ...api import optimize
from ...options import check_known, keywords_of
from .modules import example_inputs_of

_DONE = "graphprune"
"""Under which name the metadata of a graph module lists the passes that have pruned it."""


def _fakes(module: fx.GraphModule) -> FakeTensorProp:
    return FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True))


_VALUES: dict[str, Callable[..., Any] | None] = {"tensor_meta": ShapeProp, "val": _fakes, "example_value": None}
"""What the metadata of a node says of the size of its value, and the pass that says it anew."""


class FxPass(PassBase):
    """A pass for `torch.fx.passes.infra.pass_manager.PassManager` that prunes; options are those of `optimize`.

    `example_inputs` may be left out where a pass before (`ShapeProp`, `FakeTensorProp`) or the tracer has written down
    the shapes of the inputs, or where the first layer tells. What it has pruned it leaves alone when it comes again, in
    the next step of a manager. Shapes in the metadata of nodes are brought up to date.

    **Raises:** `OptionError` for unknown options; what `optimize` raises when it is called. A `PassManager` wraps this
    in an exception of its own, whose `__cause__` it is.

    ```python
    import torch, graphprune
    from torch.fx.passes.infra.pass_manager import PassManager

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    passes = PassManager([graphprune.FxPass(sparsity=0.5)])
    slim = passes(torch.fx.symbolic_trace(net)).graph_module
    ```
    """

    def __init__(self, sparsity: float | None = None, *, example_inputs: Any = None, **options: Any) -> None:
        check_known(options, ("sparsity", *keywords_of(optimize)))
        self.sparsity, self.example_inputs, self.options = sparsity, example_inputs, options

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """The pruned graph module; the one given stays as it is.

        The result is `modified` unless this pass has pruned the module before, or left it for not being faster.
        """
        done = graph_module.meta.get(_DONE, ())
        if any(one is self for one in done):
            return PassResult(graph_module, False)
        slim = optimize(graph_module, self.sparsity, example_inputs=self.example_inputs, **self.options)
        if slim is graph_module:
            return PassResult(graph_module, False)
        slim.meta = {**graph_module.meta, _DONE: (*done, self)}
        _refresh(slim, self.example_inputs)
        return PassResult(slim, True)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FxPass":
        """The pass itself: copies of what it has pruned remember it."""
        return self


def _refresh(slim: fx.GraphModule, example_inputs: Any) -> None:
    """Let the metadata of nodes tell the new shapes, where it told the old ones."""
    told = {key for node in slim.graph.nodes for key in _VALUES if node.meta.pop(key, None) is not None}
    given = example_inputs_of(slim, example_inputs) if told else ()
    names = [node.target for node in slim.graph.find_nodes(op="placeholder")]
    inputs = [given[name] for name in names] if isinstance(given, dict) else given
    with torch.no_grad():
        for key in sorted(told):
            spread = _VALUES[key]
            if spread is not None:
                spread(slim).propagate(*inputs)
