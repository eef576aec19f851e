"""The pass pipeline of GPUs: from a Relax module as imported to scheduled kernels.

```python
from graphprune.backends.cuda_pipeline import cuda_pipeline, cuda_target

module = cuda_pipeline("cuda-sm80", precision="fp16")(module)
```
"""

import tvm
from tvm import relax
from tvm.s_tir import dlight

from ..errors import OptionError
from . import cuda_each, cuda_plain, cuda_tensor
from .cuda_scan import legalize_extreme, spread_scans
from .cuda_tiles import SHARED, THREADS
from .cuda_verify import verify_kernels
from .find_norms import find_norms
from .flattening import flatten_rows
from .folding import fold_affine, fold_constants
from .legalizing import LEGALIZE, OWN
from .mixed import to_half
from .pipeline import runtime_passes
from .schedules import Rule, apply_schedules
from .targets import Target, get_target

_transform = relax.transform
_HALF = {"fp16": "float16", "bf16": "bfloat16"}
PRECISIONS = ("fp32", "tf32", *_HALF)
# From here on tensor cores multiply such numbers.
_LEAST = {"fp32": 75, "fp16": 75, "tf32": 80, "bf16": 80}
# CUDA's own functions are fast and exact: ours are for processors, but for what Relax lacks.
_LEGALIZE = {
    **{name: LEGALIZE[name] for name in (*OWN, "relax.take", "relax.power")},
    "relax.max": legalize_extreme,
    "relax.min": legalize_extreme,
}


def cuda_target(target: "str | Target") -> tvm.target.Target:
    """What TVM's code generator needs to know about a GPU and the processor beside it."""
    target = get_target(target)
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in target.options}
    host = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu, **options}
    device = {
        "kind": "cuda",
        "arch": target.device,
        "max_threads_per_block": THREADS,
        "max_num_threads": THREADS,
        "max_shared_memory_per_block": SHARED,
        "thread_warp_size": 32,
        "registers_per_block": 65536,
    }
    return tvm.target.Target(device, host=tvm.target.Target(host))


def checked_precision(precision: str, target: Target) -> str:
    """A precision that the target can compute in; raises `OptionError` for any other."""
    if precision not in PRECISIONS:
        raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if int(target.device.removeprefix("sm_")) < _LEAST[precision]:
        raise OptionError(
            f"{target.name} has no tensor cores for {precision}: use fp16 or fp32, or a target from "
            f"cuda-sm{_LEAST[precision]} on"
        )
    return precision


def _library_rule(rule: object) -> Rule:
    """A rule of TVM's own library as one of ours."""

    def schedule(function: tvm.tirx.PrimFunc, target: Target) -> tvm.s_tir.Schedule | None:
        try:
            found = rule.apply(function, tvm.target.Target.current(), False)
        except (AssertionError, ValueError, IndexError, TypeError, tvm.error.InternalError):
            return None  # not made for what was fused into this kernel
        return found[0] if isinstance(found, list) else found

    schedule.__module__ = f"library.{type(rule).__name__.lower()}"
    return schedule


def rules(precision: str) -> tuple[Rule, ...]:
    """What gives a kernel its schedule: the first rule that answers."""
    gpu = dlight.gpu
    own = (*(() if precision == "fp32" else (cuda_tensor.rule(precision),)), cuda_plain.schedule, cuda_each.schedule)
    general = (gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Fallback())
    return (*own, *map(_library_rule, general), cuda_each.blocks_one_by_one)


def optimize_passes(precision: str) -> list[tvm.transform.Pass]:
    """Framework operators in, plain operators in the wanted precision out."""
    half = [to_half(_HALF[precision])] if precision in _HALF else []
    return [
        _transform.DecomposeOpsForInference(),
        _transform.CanonicalizeBindings(),
        fold_constants,
        _transform.DeadCodeElimination(),
        find_norms,
        flatten_rows,
        _transform.DeadCodeElimination(),
        fold_affine,
        _transform.DeadCodeElimination(),
        *half,
        spread_scans,
        _transform.DeadCodeElimination(),
    ]


def kernel_passes(target: Target, precision: str) -> list[tvm.transform.Pass]:
    """Every operator becomes a kernel, neighbours are fused, kernels are scheduled and checked."""
    return [
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        _transform.LegalizeOps(customize_legalize_map=_LEGALIZE),
        _transform.AnnotateTIROpPattern(),
        _transform.FoldConstant(),
        _transform.FuseOps(),
        _transform.FuseTIR(),
        # Changes of shape alone move nothing; a kernel with a schedule would not be recognised as one.
        _transform.RewriteDataflowReshape(),
        _transform.DeadCodeElimination(),
        apply_schedules(target, rules(precision)),
        verify_kernels(target),
    ]


def _graph_passes() -> list[tvm.transform.Pass]:
    """As `runtime_passes`, with what can be recorded as a CUDA graph put into functions of its own."""
    passes = runtime_passes()
    place = next(i for i, item in enumerate(passes) if item.info.name == "LowerAllocTensor")
    return [*passes[:place], _transform.RewriteCUDAGraph(), *passes[place:]]


def cuda_pipeline(target: "str | Target", precision: str = "fp32", cuda_graph: bool = False) -> tvm.transform.Pass:
    """The whole pipeline as one pass over any Relax module with static shapes."""
    target = get_target(target)
    precision = checked_precision(precision, target)

    @tvm.transform.module_pass(opt_level=0, name="graphprune.CudaPipeline")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        last = _graph_passes() if cuda_graph else runtime_passes()
        passes = optimize_passes(precision) + kernel_passes(target, precision) + last
        options = {**context.config, "relax.backend.use_cuda_graph": cuda_graph}
        with tvm.transform.PassContext(opt_level=context.opt_level, config=options), cuda_target(target):
            return tvm.transform.Sequential(passes)(module)

    return run
