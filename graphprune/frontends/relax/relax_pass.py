"""Pruning as a pass over TVM modules."""

from typing import Any

import tvm
import tvm_ffi

from ... import errors
from ...api import optimize
from ...options import check_known, keywords_of

for _kind in vars(errors).values():  # so that they come out of a pipeline, which is not Python, as what they are
    if isinstance(_kind, type) and issubclass(_kind, errors.GraphPruneError):
        tvm_ffi.register_error(_kind)


@tvm.transform.module_pass(opt_level=0, name="graphprune.RelaxPass")
class RelaxPass:
    """A pass for `tvm.transform.Sequential` that prunes the main Relax function; options are those of `optimize`.

    Weights have to be constants: import with them bound, or put `relax.transform.BindParams` before this pass. It
    belongs early in a pipeline, where calls are still those of operators: calls of lowered code (`call_tir`) keep what
    they read. `example_inputs` give numbers for symbolic sizes. The module that goes in stays as it is; the result
    holds the plan in its attributes, for `graphprune.plan_of`.

    **Raises:** `OptionError` for unknown options; what `optimize` raises when the pass runs.

    ```python
    import torch, tvm, graphprune
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
    module = from_exported_program(torch.export.export(net, (torch.randn(1, 4),)))
    passes = tvm.transform.Sequential([graphprune.RelaxPass(sparsity=0.5), relax.transform.LegalizeOps()])
    slim = passes(module)
    ```
    """

    def __init__(self, sparsity: float | None = None, **options: Any) -> None:
        check_known(options, ("sparsity", *keywords_of(optimize)))
        self.sparsity, self.options = sparsity, options

    def transform_module(self, module: tvm.IRModule, context: Any) -> tvm.IRModule:
        """The pruned module."""
        return optimize(module, self.sparsity, **self.options)
