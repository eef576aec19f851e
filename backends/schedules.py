"""Gives every kernel a schedule: the first rule of the list that answers wins.

A rule is a function `(PrimFunc, Target) -> Schedule | None`. To add one, write it and put it in `RULES`.
"""

from collections.abc import Callable, Sequence

import tvm
from tvm import s_tir, tirx

from . import attention, columns, convolution, generic, group_norm, matmul, rows, sparse, unpacking, window, winograd
from .facts import note
from .prediction import UNSCHEDULED
from .targets import Target
from .tiling import is_finished

Rule = Callable[[tirx.PrimFunc, Target], s_tir.Schedule | None]

RULES: tuple[Rule, ...] = (
    attention.schedule,
    convolution.schedule,
    winograd.schedule,
    window.schedule,
    matmul.schedule,
    sparse.schedule,
    rows.schedule,
    columns.schedule,
    group_norm.schedule,
    unpacking.schedule,
    generic.schedule,
)


def apply_schedules(target: Target, rules: Sequence[Rule] = RULES) -> tvm.transform.Pass:
    """A pass that schedules every PrimFunc of a module that has no schedule yet, and notes the facts of all."""

    @tvm.transform.module_pass(opt_level=0, name="graphprune.ApplySchedules")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        updated = {}
        for name, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc):
                found = None if is_scheduled(function) else _first(rules, function, target)
                scheduled, rule = (function, UNSCHEDULED) if found is None else found
                updated[name] = note(scheduled, function, name.name_hint, rule)
        for name, function in updated.items():
            module[name] = function
        return module

    return run


def is_scheduled(function: tirx.PrimFunc) -> bool:
    """Whether a kernel has a schedule, or comes as finished code that none can be given to."""
    return is_finished(function) or bool(function.attrs.get("tirx.is_scheduled"))


def _first(rules: Sequence[Rule], function: tirx.PrimFunc, target: Target) -> tuple[tirx.PrimFunc, str] | None:
    """The function as the first rule that can handle it schedules it, and the name of the file of that rule."""
    for rule in rules:
        try:
            schedule = rule(function, target)
        except s_tir.ScheduleError:
            # Something unforeseen was fused into the kernel: a more general rule will do.
            continue
        if schedule is not None:
            return schedule.mod["main"].with_attr("tirx.is_scheduled", True), rule.__module__.rpartition(".")[2]
    return None
