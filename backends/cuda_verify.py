"""Checks scheduled GPU kernels before they become code: what a GPU would refuse, or answer wrongly, is an error
here."""

import tvm
from tvm import s_tir, tirx

from ..errors import CompileError
from .cuda_tiles import SHARED, THREADS
from .targets import Target

# As TVM's own way from schedules to code begins: far enough to see threads and memory.
_LOWERING = (
    s_tir.transform.LowerCrossThreadReduction(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.LiftThreadBinding(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.UnifyThreadBinding(),
    s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.StmtSimplify(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
)


def verify_kernels(target: Target) -> tvm.transform.Pass:
    """A pass that raises `CompileError` for a kernel that does not run on threads alone or exceeds a block's limits."""

    @tvm.transform.module_pass(opt_level=0, name="graphprune.VerifyKernels")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        for name, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc):
                _verify(name.name_hint, function)
        return module

    return run


def _verify(name: str, function: tirx.PrimFunc) -> None:
    lowered = tvm.transform.Sequential([tirx.transform.BindTarget(tvm.target.Target.current()), *_LOWERING])(
        tvm.IRModule({"main": function})
    )["main"]
    if not tirx.analysis.verify_memory(lowered):
        raise CompileError(f"kernel {name!r} touches memory of the GPU outside of its threads")
    limits = {"max_threads_per_block": THREADS, "max_shared_memory_per_block": SHARED, "max_vector_bytes": 16}
    if not s_tir.analysis.verify_gpu_code(lowered, limits):
        raise CompileError(f"kernel {name!r} wants more threads or shared memory than a block may have")
