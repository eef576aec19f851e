"""What happens to the input of a pointwise convolution happens inside its kernel.

Channels that are joined, normalised or multiplied by gates on their way into a 1x1 convolution would be written to
memory only to be read again, which takes longer than the arithmetic. Instead the kernel of the convolution prepares its
input for some pixels at a time, in a buffer that stays near, and uses it for all output channels.
"""

from typing import Any, NamedTuple

import tvm
from tvm import relax, s_tir, tirx

from .convolution import takes_prologue
from .facts import BEHIND
from .rewriting import Rewriter, is_straight, op_name
from .schedules import is_scheduled

_ELEMENTWISE = 2
"""The largest kind of operator, as TVM's fusion counts them, whose results each come from one place of the inputs."""

_SPACE = slice(2, None)
"""The axes of a blocked value that a prologue must leave alone: rows, columns, lanes."""


class _Kernel(NamedTuple):
    """A call of one kernel, or of some that will be one: `steps` over `params`, of which the last is the result."""

    name: str
    params: list[relax.Var]
    steps: list[tuple[relax.Var, relax.Call]]


class _FusePrologues(Rewriter):
    """Put elementwise kernels into the pointwise convolution that alone reads their result."""

    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        self.module = module
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        calls = {binding.var: binding.value for binding in bindings}
        self.joined: dict[relax.Var, tuple[relax.Var, _Kernel, _Kernel]] = {}
        for var, call in calls.items():
            kernel = self.kernel(call)
            source = _arguments(call)[0] if kernel is not None and kernel.params else None
            if source not in calls or self.uses[source] != 1 or not self.is_convolution(kernel):
                continue
            producer = self.kernel(calls[source])
            if producer is not None and all(self.keeps_places(step) for _, step in producer.steps):
                self.joined[var] = source, producer, kernel
        self.calls, self.sources = calls, {source for source, *_ in self.joined.values()}

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        """Nothing for a prologue; its convolution is called with what the prologue reads."""
        if var in self.sources:
            return var
        if var not in self.joined:
            return super().visit(var, value)
        source, producer, kernel = self.joined[var]
        function, name = _joined(producer, kernel)
        arguments = [*_arguments(self.calls[source]), *_arguments(value)[1:]]
        return self.builder.emit(
            relax.Call(self.builder.add_func(function, name), [self.expression(a) for a in arguments]), var.name
        )

    def kernel(self, call: relax.Expr) -> _Kernel | None:
        """What a binding calls, if that is a kernel of blocks: code that comes finished joins nothing."""
        kernel = self.steps_of(call)
        ready = kernel is None or any(is_scheduled(self.module[step.args[0]]) for _, step in kernel.steps)
        return None if ready else kernel

    def steps_of(self, call: relax.Expr) -> _Kernel | None:
        """The steps of what a binding calls, if that is a kernel."""
        if op_name(call) == "relax.call_tir":
            params = [relax.Var(f"input_{place}", argument.ty) for place, argument in enumerate(_arguments(call))]
            step = relax.Call(call.op, [call.args[0], relax.Tuple(params), *call.args[2:]], call.attrs, call.ty_args)
            return _Kernel(call.args[0].name_hint, params, [(relax.Var("result", call.ty), step)])
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.GlobalVar):
            return None
        function = self.module[call.op]
        if not isinstance(function, relax.Function) or not (function.attrs or {}).get("Primitive"):
            return None
        steps = [(binding.var, binding.value) for block in function.body.blocks for binding in block.bindings]
        one = is_straight(function) and all(op_name(value) == "relax.call_tir" for _, value in steps)
        return _Kernel(call.op.name_hint, list(function.params), steps) if one else None

    def is_convolution(self, kernel: _Kernel) -> bool:
        """Whether a kernel begins with a convolution that can prepare its input, and reads that only there."""
        data, (_, first) = kernel.params[0], kernel.steps[0]
        reads = [argument for _, step in kernel.steps for argument in step.args[1].fields if argument.same_as(data)]
        return len(reads) == 1 and first.args[1].fields[0].same_as(data) and takes_prologue(self.module[first.args[0]])

    def keeps_places(self, step: relax.Call) -> bool:
        """Whether a step takes every value from the pixel and lane that it stands for, or from a constant place."""
        function = self.module[step.args[0]]
        if int((function.attrs or {}).get("op_pattern", _ELEMENTWISE + 1)) > _ELEMENTWISE:
            return False
        schedule = s_tir.Schedule(function)
        blocks = [schedule.get(block) for block in schedule.get_child_blocks(schedule.get_sblock("root"))]
        return all(_keeps_places(block) for block in blocks)


def _keeps_places(block: Any) -> bool:
    axes = [variable.var for variable in block.iter_vars]
    if len(axes) != 5:
        return False
    for read in block.reads:
        places = [interval.min for interval in read.region]
        if places and len(places) != len(axes):
            return False
        for place, axis in list(zip(places, axes, strict=True))[_SPACE]:
            if not (place.same_as(axis) or isinstance(place, tirx.IntImm)):
                return False
    return True


def _arguments(call: relax.Call) -> list[relax.Expr]:
    return list(call.args[1].fields if op_name(call) == "relax.call_tir" else call.args)


def _joined(first: _Kernel, second: _Kernel) -> tuple[relax.Function, str]:
    """One function of both, which TVM makes one kernel of, and its name."""
    name = f"{second.name}{BEHIND}{first.name.removeprefix('fused_')}"
    params = [relax.Var(f"param_{place}", old.ty) for place, old in enumerate([*first.params, *second.params[1:]])]
    count = len(first.params)
    builder = relax.BlockBuilder()
    with builder.function(name, params, attrs={"Primitive": True}, private=True):
        with builder.dataflow():
            middle = _steps(builder, first, params[:count])
            output = builder.emit_output(_steps(builder, second, [middle, *params[count:]]))
        builder.emit_func_output(output)
    return next(f for f in builder.get().functions.values() if isinstance(f, relax.Function)), name


def _steps(builder: relax.BlockBuilder, kernel: _Kernel, arguments: list[relax.Expr]) -> relax.Expr:
    known = dict(zip(kernel.params, arguments, strict=True))
    for var, call in kernel.steps:
        inputs = relax.Tuple([known.get(argument, argument) for argument in call.args[1].fields])
        known[var] = builder.emit(
            relax.Call(call.op, [call.args[0], inputs, *call.args[2:]], call.attrs, call.ty_args), var.name
        )
    return known[kernel.steps[-1][0]]


@tvm.transform.module_pass(opt_level=0, name="graphprune.FusePrologues")
def fuse_prologues(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Elementwise kernels before pointwise convolutions go into those; between TVM's FuseOps and FuseTIR."""
    for name, function in module.functions_items():
        whole = isinstance(function, relax.Function) and not (function.attrs or {}).get("Primitive")
        if whole and is_straight(function):
            module = _FusePrologues(module, function).run(name)
    return module
