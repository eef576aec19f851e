"""Pruning as a pass over `onnx_ir` models."""

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import FunctionalPass, PassResult

from ...api import optimize
from ...options import check_known, keywords_of


class OnnxPass(FunctionalPass):
    """A pass for `onnx_ir.passes.Sequential` and `PassManager` that prunes; options are those of `optimize`.

    The model that goes in stays as it is; the result holds the plan in its metadata, for `graphprune.plan_of`. In a
    `PassManager` that repeats its passes it would prune again: give it `steps=1`, or a place outside.

    **Raises:** `OptionError` for unknown options; what `optimize` raises when it is called. A `Sequential` wraps this
    in a `PassError`, whose `__cause__` it is.

    ```python
    import onnx_ir, torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    torch.onnx.export(net, (torch.randn(1, 4),), "net.onnx", dynamo=False)
    passes = onnx_ir.passes.Sequential(graphprune.OnnxPass(sparsity=0.5, budget="macs"))
    slim = passes(onnx_ir.load("net.onnx")).model
    ```
    """

    def __init__(self, sparsity: float | None = None, **options: Any) -> None:
        check_known(options, ("sparsity", *keywords_of(optimize)))
        self.sparsity, self.options = sparsity, options

    def call(self, model: ir.Model) -> PassResult:
        """The pruned model."""
        slim = optimize(model, self.sparsity, **self.options)
        return PassResult(slim, modified=slim is not model)
