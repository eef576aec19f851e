"""Write a plan into a Relax function: slice its constants, bring sizes in attributes and shapes in line, build anew."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from ...analysis import Analysis
from ...errors import ApplyError
from ...graph import Node, Shape
from ...plan import Plan
from ...shapes import Alive, attributes_of, grown_eps, living, shape_of, shrinking
from ...slicing import slim_array
from .program import Place, Program, Step, numbers_of
from .rebuild import Rebuilder, constant_like, with_attributes


class Fixed(Exception):
    """A size that has to change is written as something else than a number."""


@dataclass
class Edit:
    """One call while it is brought in line.

    `args` are its new arguments and `attrs` its new attributes, `before` its canonical operations, `predicted` their
    new attributes, `was` and `want` the shapes of values by name before and after.
    """

    step: Step
    args: list[Any]
    before: list[Node]
    predicted: dict[str, Any]
    was: dict[str, Shape]
    want: dict[str, Shape]
    attrs: dict[str, Any] = field(default_factory=dict)

    def attr(self, name: str) -> Any:
        """An attribute as it was."""
        return getattr(self.step.value.attrs, name)

    def sized(self, entries: Any, was: Any, want: Any) -> list[Any]:
        """Entries of which those change that have to."""
        pairs = zip(entries, was, want, strict=True)
        return [entry if old == new else _number(entry, new) for entry, old, new in pairs]


def _number(entry: Any, new: int) -> Any:
    if not isinstance(entry, (int, tirx.IntImm)):
        raise Fixed(f"{entry} is a symbolic size and would have to become {new}")
    return tirx.IntImm("int64" if isinstance(entry, int) else entry.ty.dtype, new)


class Slimmer(Rebuilder):
    """Builds the slim program."""

    def __init__(self, program: Program, plan: Plan, analysis: Analysis) -> None:
        super().__init__(program)
        self.plan, self.analysis = plan, analysis
        self.alive: Alive = living(analysis, plan)
        self.was = {value.name: value.shape for value in analysis.layouts}
        self.want = {value.name: shape_of(value, analysis.layouts[value], self.alive) for value in analysis.layouts}
        self.nodes: dict[str, list[Node]] = {}
        for node in analysis.graph.nodes:
            self.nodes.setdefault(node.call, []).append(node)
        self.sliced: dict[str, Any] = {}

    def constant(self, step: Step, place: Place, constant: Any) -> Any:
        """What is left of a constant; steps that read one tensor go on reading one."""
        name = self.program.leaves.get((step.name, place), "")
        if name not in self.plan.kept and name not in self.plan.repairs:
            return constant
        if name not in self.sliced:
            self.sliced[name] = constant_like(slim_array(numbers_of(constant), self.plan, name), constant)
        return self.sliced[name]

    def call(self, step: Step, args: list[Any]) -> Any:
        """The call with sizes that fit."""
        before = self.nodes.get(step.name, [])
        predicted: dict[str, Any] = {}
        for node in before:
            predicted |= attributes_of(node, self.analysis, self.plan, self.alive)
        edit = Edit(step, args, before, predicted, self.was, self.want)
        name = getattr(step.value.op, "name", "").removeprefix("relax.")
        try:
            if name in FIXES and before and before[-1].op != "unknown":
                FIXES[name](edit)
            for node in before:
                _grow(edit, node, grown_eps(node, self.plan))
        except Fixed as error:
            raise self.error(step, str(error)) from error
        return relax.Call(step.value.op, edit.args, with_attributes(step.value.attrs, edit.attrs), step.value.ty_args)

    def bound(self, step: Step) -> Any:
        """The step, or an error that names it."""
        try:
            return super().bound(step)
        except ApplyError:
            raise
        except Exception as error:  # TVM refuses operands that do not fit
            line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise self.error(step, line) from error

    def error(self, step: Step, text: str) -> ApplyError:
        """What keeps the channels around a step."""
        nodes = self.nodes.get(step.name, [])
        labels = [shrinking(self.analysis, node, self.alive) for node in nodes] or [np.zeros(0, dtype=np.int64)]
        blame = np.unique(self.analysis.solution.classes[np.concatenate(labels)])
        return ApplyError(f"{nodes[-1] if nodes else step.name}: {text}. Keep its channels (keep=...).", blame)


def slim_module(program: Program, plan: Plan, analysis: Analysis) -> tvm.IRModule:
    """The slim module. `analysis` is that of the program with numbers for symbolic sizes."""
    return Slimmer(program, plan, analysis).run()


# ---- what an operator needs ------------------------------------------------------------------------------


def _shaped(position: int) -> Callable[[Edit], None]:
    """A target shape; one that is computed follows what it is computed from."""

    def write(edit: Edit) -> None:
        target, name = edit.args[position], edit.step.name
        if isinstance(target, relax.ShapeExpr):
            edit.args[position] = relax.ShapeExpr(edit.sized(target.values, edit.was[name], edit.want[name]))

    return write


def _split(edit: Edit) -> None:
    """Where parts begin; a number of equal parts stays one where they still are."""
    axis, names = edit.before[-1].attrs["axis"], [value.name for value in edit.before[-1].outputs]
    was, want = [edit.was[name][axis] for name in names], [edit.want[name][axis] for name in names]
    given = edit.attr("indices_or_sections")
    if was == want or isinstance(given, (int, tirx.IntImm)) and len(set(want)) == 1:
        return
    edit.attrs["indices_or_sections"] = [tirx.IntImm("int64", int(end)) for end in np.cumsum(want)[:-1]]


def _slice(edit: Edit) -> None:
    """Bounds by axis, where they no longer cut what they cut before."""
    if edit.before[-1].op != "getitem":
        return
    cuts, x = (
        {axis: (start, stop) for axis, start, stop, _ in edit.predicted.get("cuts", ())},
        edit.before[-1].inputs[0],
    )
    assert x is not None
    axes, starts, ends = (list(edit.args[place].fields) for place in (1, 2, 3))
    for place, axis in enumerate(axes):
        axis = int(axis) % len(x.shape)
        size = edit.want[x.name][axis]
        if axis not in cuts or size == x.shape[axis]:
            continue
        for entries, bound in zip((starts, ends), cuts[axis], strict=True):
            entries[place] = _number(entries[place], bound)
    edit.args[2:4] = [relax.Tuple(starts), relax.Tuple(ends)]


def _take(edit: Edit) -> None:
    """Positions that are left."""
    positions = edit.predicted.get("positions")
    if positions is not None and isinstance(edit.step.value.args[1], tvm.ir.GenericConst):
        edit.args[1] = constant_like(positions, edit.step.value.args[1])


def _groups(name: str) -> Callable[[Edit], None]:
    def write(edit: Edit) -> None:
        groups = edit.predicted.get("groups")
        if groups is not None and groups != int(edit.attr(name)):
            edit.attrs[name] = int(groups)

    return write


def _scale(edit: Edit) -> None:
    """The default of attention depends on the width of its heads."""
    node = next(node for node in edit.before if node.op == "attention")
    q = node.inputs[0]
    assert q is not None
    if edit.attr("scale") is None and edit.want[q.name][-1] != q.shape[-1]:
        edit.attrs["scale"] = tirx.FloatImm("float32", node.attrs["scale"])


def _grow(edit: Edit, node: Node, grown: float | None) -> None:
    """The eps of a norm that is repaired."""
    if grown is None:
        return
    if node.op == "rms_norm":
        edit.attrs["epsilon"] = float(grown)
        return
    for place, item in enumerate(edit.args):
        if isinstance(item, tvm.ir.GenericConst) and numbers_of(item).size == 1:
            edit.args[place] = constant_like(np.full(numbers_of(item).shape, grown), item)


FIXES: dict[str, Callable[[Edit], None]] = {
    "reshape": _shaped(1),
    "broadcast_to": _shaped(1),
    "full": _shaped(0),
    "zeros": _shaped(0),
    "ones": _shaped(0),
    "split": _split,
    "strided_slice": _slice,
    "take": _take,
    "nn.group_norm": _groups("num_groups"),
    "nn.attention": _scale,
    "nn.attention_bias": _scale,
    **{f"nn.conv{dims}d{kind}": _groups("groups") for dims in (1, 2, 3) for kind in ("", "_transpose")},
}
"""Operator -> what a plan changes of it. Operators whose sizes follow from their operands have no line."""
