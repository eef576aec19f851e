"""The pass pipeline: from a Relax module as imported to scheduled kernels and virtual machine code.

```python
from graphprune.backends.pipeline import pipeline

executable = tvm.compile(module, target=llvm_target("x86"), relax_pipeline=pipeline("x86"))
```
"""

from collections.abc import Sequence

import tvm
from tvm import relax

from .choices import Choose, first
from .find_norms import find_norms
from .flattening import flatten_rows
from .folding import fold_affine, fold_constants, fold_shifts
from .halving import Named, halve_weights
from .integers import find_integers
from .legalizing import LEGALIZE
from .lower_attention import lower_attention
from .lowering import lower_to_blocks
from .own_outputs import own_outputs
from .precision import Half
from .prologue import fuse_prologues
from .schedules import apply_schedules
from .targets import Target, get_target

_transform = relax.transform


def llvm_target(target: "str | Target") -> tvm.target.Target:
    """What TVM's code generator needs to know about a target."""
    target = get_target(target)
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in target.options}
    return tvm.target.Target({"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu, **options})


def optimize_passes(
    target: Target, choose: Choose = first, half: Half | None = None, named: Named = tuple, sparse: bool = True
) -> list[tvm.transform.Pass]:
    """Framework operators in, blocked kernels and plain operators out; weights in the format `half`, if there is one.

    `named` lists the weights of the model by their names, for messages.
    """
    return [
        _transform.CanonicalizeBindings(),
        *([find_integers, _transform.DeadCodeElimination()] if target.dots else []),
        fold_constants,
        _transform.DecomposeOpsForInference(),  # batch norms that are not constant
        _transform.CanonicalizeBindings(),
        _transform.DeadCodeElimination(),
        find_norms,
        lower_attention(target),
        _transform.DeadCodeElimination(),
        flatten_rows,
        _transform.DeadCodeElimination(),
        *([halve_weights(half, named), fold_shifts] if half else [fold_affine]),
        _transform.DeadCodeElimination(),
        lower_to_blocks(target, choose, half, sparse),
        _transform.DeadCodeElimination(),
    ]


def kernel_passes(target: Target) -> list[tvm.transform.Pass]:
    """Every operator becomes a kernel, neighbours are fused, kernels are scheduled."""
    return [
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        _transform.LegalizeOps(customize_legalize_map=LEGALIZE),
        _transform.AnnotateTIROpPattern(),
        _transform.FoldConstant(),
        _transform.FuseOps(),
        fuse_prologues,
        _transform.FuseTIR(),
        _transform.DeadCodeElimination(),
        apply_schedules(target),
    ]


def runtime_passes() -> list[tvm.transform.Pass]:
    """Memory planning and lowering to the virtual machine."""
    return [
        _transform.RewriteDataflowReshape(),
        own_outputs,
        _transform.DeadCodeElimination(),
        _transform.ToNonDataflow(),
        _transform.RemovePurityChecking(),
        _transform.CallTIRRewrite(),
        _transform.StaticPlanBlockMemory(),
        _transform.LowerAllocTensor(),
        _transform.KillAfterLastUse(),
        _transform.LowerRuntimeBuiltin(),
        _transform.ComputePrimValue(),
        _transform.VMShapeLower(),
        _transform.AttachGlobalSymbol(),
    ]


def pipeline(
    target: "str | Target" = "x86",
    choose: Choose = first,
    before_runtime: Sequence[tvm.transform.Pass] = (),
    half: Half | None = None,
    named: Named = tuple,
    sparse: bool = True,
) -> tvm.transform.Pass:
    """The whole pipeline as one pass over any Relax module with static shapes.

    `choose` picks one of the candidates for each kernel: the most promising one, or by a record of measurements.
    `before_runtime` are further passes over the scheduled kernels, before memory is planned.
    With `half`, weights are rounded to that format and stored in it. With `sparse`, weights that are mostly zero may
    get kernels that pass over zeros.
    """
    target = get_target(target)

    @tvm.transform.module_pass(opt_level=0, name="graphprune.Pipeline")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        with llvm_target(target):
            optimized = optimize_passes(target, choose, half, named, sparse)
            passes = [*optimized, *kernel_passes(target), *before_runtime, *runtime_passes()]
            return tvm.transform.Sequential(passes)(module)

    return run
