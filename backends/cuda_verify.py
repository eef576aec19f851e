"""Checks scheduled GPU kernels before they become code: what a GPU would refuse, or answer wrongly, is an error
here."""

import tvm
from tvm import s_tir, tirx

from ..errors import CompileError
from .cuda_tiles import SHARED, THREADS
from .facts import facts_of
from .prediction import UNSCHEDULED
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

# How kernels are marked that bring their own threads.
_FOUND = (UNSCHEDULED, "fallback")


def verify_kernels(target: Target) -> tvm.transform.Pass:
    """A pass that raises `CompileError` for a kernel that does not run on threads alone or exceeds a block's limits."""

    @tvm.transform.module_pass(opt_level=0, name="graphprune.VerifyKernels")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        for name, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc):
                verify(name.name_hint, function)
        return module

    return run


def verify(name: str, function: tirx.PrimFunc) -> None:
    """Check one scheduled kernel for the current target; raises `CompileError`."""
    lowered = tvm.transform.Sequential([tirx.transform.BindTarget(tvm.target.Target.current()), *_LOWERING])(
        tvm.IRModule({"main": function})
    )["main"]
    if _runs_on_host(lowered.body) or not tirx.analysis.verify_memory(lowered):
        raise CompileError(f"kernel {name!r} touches memory of the GPU outside of its threads")
    limits = {"max_threads_per_block": THREADS, "max_shared_memory_per_block": SHARED, "max_vector_bytes": 16}
    try:
        fits = s_tir.analysis.verify_gpu_code(lowered, limits)
    except tvm.error.InternalError:
        # A sorting kernel of TVM's, whose grid grows from launch to launch; its blocks are made to fit.
        fits = facts_of(tvm.IRModule({name: function}))[name].schedule in _FOUND
    if not fits:
        raise CompileError(f"kernel {name!r} wants more threads or shared memory than a block may have")


def _runs_on_host(statement: tirx.Stmt) -> bool:
    """Whether something is computed outside of GPU threads: that would be code for the processor."""
    if isinstance(statement, tirx.AttrStmt) and statement.attr_key == "thread_extent":
        return False
    if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.THREAD_BINDING:
        return False
    if isinstance(statement, (tirx.BufferStore, tirx.Evaluate)):
        return True
    if isinstance(statement, tirx.SeqStmt):
        return any(map(_runs_on_host, statement.seq))
    parts = [getattr(statement, name, None) for name in ("body", "then_case", "else_case")]
    return any(_runs_on_host(part) for part in parts if part is not None)
