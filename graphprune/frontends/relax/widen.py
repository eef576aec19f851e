"""A Relax program in float64, and the masked original: what a plan drops is zero there.

Inexact operations of the masked original, such as a layer norm over a pruned width, see the living positions only:
they are taken before it and put back among zeros after it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

from ...analysis import Analysis
from ...graph import Value
from ...places import dropping
from ...plan import Plan
from ...shapes import attributes_of, eps_key, grown_eps, living
from ...slicing import slim_array
from .program import Place, Program, Step, is_constant, numbers_of
from .read import Reader
from .rebuild import Rebuilder, with_attributes
from .spelled import SPELLED, WIDE

FIXED_TYPES = ("call_tir", "call_dps_packed", "call_pure_packed", "call_inplace_packed", "call_tir_inplace")
"""Calls of code that was written for one element type."""


def is_wide(program: Program) -> bool:
    """Whether a program can run in float64: its calls are all of operators."""
    names = {getattr(s.value.op, "name", "") for s in program.steps if isinstance(s.value, relax.Call)}
    return not any(name.removeprefix("relax.") in FIXED_TYPES or not name for name in names)


def is_real(dtype: Any) -> bool:
    """Whether an element type is one of real numbers."""
    return "float" in str(dtype)


class Widener(Rebuilder):
    """The same program in float64. With `exposed`, the result of every step can be read outside."""

    def __init__(self, program: Program, exposed: bool = False, wide: bool = True) -> None:
        super().__init__(program)
        self.exposed, self.wide = exposed, wide
        self.shared: dict[str, Any] = {}
        self.seen: list[tuple[str, Any]] = []

    def parameter(self, var: Any) -> Any:
        """A parameter of the wider type."""
        kind = var.ty
        if not self.wide or not isinstance(kind, relax.TensorType) or not is_real(kind.dtype):
            return var
        return relax.Var(var.name, relax.TensorType(kind.shape, WIDE))

    def constant(self, step: Step, place: Place, constant: Any) -> Any:
        """A constant of the wider type; one tensor stays one."""
        name = self.program.leaves.get((step.name, place))
        if name is None:
            return self.written(numbers_of(constant), constant)
        if name not in self.shared:
            self.shared[name] = self.written(self.stored(name, numbers_of(constant)), constant)
        return self.shared[name]

    def stored(self, name: str, numbers: NDArray[Any]) -> NDArray[Any]:
        """What a stored tensor holds."""
        return numbers

    def written(self, numbers: NDArray[Any], constant: Any) -> Any:
        """A constant of these numbers."""
        wide = self.wide and is_real(constant.ty.dtype)
        return relax.const(np.asarray(numbers), WIDE if wide else str(constant.ty.dtype))

    def call(self, step: Step, args: list[Any], changed: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """A call that gives the wider type, with some attributes changed."""
        attrs, op = step.value.attrs, step.value.op
        given = {name for name in ("dtype", "out_dtype") if self.wide and is_real(getattr(attrs, name, None))}
        attrs = with_attributes(attrs, dict.fromkeys(given, WIDE) | dict(changed))
        spelling = SPELLED.get(getattr(op, "name", "")) if self.wide else None
        if spelling is not None:
            return spelling([self._typed(item) for item in args], attrs)
        return relax.Call(op, args, attrs, step.value.ty_args)

    def _typed(self, expr: Any) -> Any:
        return expr if isinstance(expr, relax.Var) or is_constant(expr) else self.builder.emit(expr)

    def after(self, step: Step, var: Any) -> Any:
        """Remember the variable where it is to be read outside."""
        if self.exposed and isinstance(var.ty, relax.TensorType):
            self.seen.append((step.name, var))
        return var

    def kind(self, step: Step) -> Any:
        """Variables that can be read outside, where they have to be."""
        return relax.Var if self.exposed else super().kind(step)

    def output(self, expr: Any) -> Any:
        """All results of steps, where they are to be read outside."""
        return relax.Tuple([var for _, var in self.seen]) if self.exposed else expr


class Masker(Widener):
    """The masked original."""

    def __init__(self, program: Program, plan: Plan, analysis: Analysis, static: Program, **options: Any) -> None:
        super().__init__(program, **options)
        self.plan, self.analysis, self.alive = plan, analysis, living(analysis, plan)
        reader = Reader(static)
        reader.read()
        self.layouts = {value.name: layout for value, layout in analysis.layouts.items()}
        self.named: dict[str, Any] = {
            step.name: reader.values.get(step.var) for step in static.steps if step.var is not None
        }
        self.named |= {var.name: reader.values[var] for var in static.function.params}
        self.values = {var: self.named[var.name] for var in program.function.params}
        self.values |= {step.var: self.named[step.name] for step in program.steps if step.var is not None}
        inexact = analysis.equations.inexact
        self.inexact = {reason.node.call for labels, reason in inexact if reason.node and not self.alive[labels].all()}
        self.nodes: dict[str, list[Any]] = {}
        for node in analysis.graph.nodes:
            self.nodes.setdefault(node.call, []).append(node)
        self.scales = _scales(program)

    def stored(self, name: str, numbers: NDArray[Any]) -> NDArray[Any]:
        """Zero where the plan drops; the scale of a repaired norm as it is once its repair was rounded."""
        if name in self.plan.repairs:
            share, offset = self.plan.repairs[name]
            exact = np.zeros(numbers.shape)
            rounded = slim_array(numbers, self.plan, name).astype(np.float64)
            exact[self.plan.kept[name][0]] = (rounded + offset) / share**0.5 - offset
            return exact
        if name not in self.plan.kept or name in self.scales:
            return numbers
        return np.where(self.plan.mask(name), numbers, np.zeros((), numbers.dtype))

    def call(self, step: Step, args: list[Any], changed: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """A call that is repaired, or computed on what lives."""
        args, own = self._repaired(step, args)
        if step.name in self.inexact:
            pairs = enumerate(zip(step.value.args, args, strict=True))
            args = [self._taken(step, (number,), *pair) for number, pair in pairs]
            own |= self._sizes(step)
        return super().call(step, args, {**changed, **own})

    def _sizes(self, step: Step) -> dict[str, Any]:
        """Attributes of a call on what lives that depend on sizes."""
        changed: dict[str, Any] = {}
        for node in self.nodes[step.name]:
            groups = attributes_of(node, self.analysis, self.plan, self.alive).get("groups")
            if groups is not None and node.op == "group_norm":
                changed["num_groups"] = int(groups)
            if node.op == "attention" and step.value.attrs.scale is None:
                changed["scale"] = tirx.FloatImm("float32", node.attrs["scale"])
        return changed

    def _repaired(self, step: Step, args: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The eps of a repaired norm, rounded as the slim program has it."""
        changed: dict[str, Any] = {}
        for node in self.nodes.get(step.name, ()):
            grown = grown_eps(node, self.plan)
            if grown is None:
                continue
            share = self.plan.repairs[node.attrs["grows"]][0]
            if eps_key(node) == "eps":
                changed["epsilon"] = grown / share
                continue
            for place, item in enumerate(step.value.args):
                if is_constant(item) and numbers_of(item).size == 1:
                    exact = np.full(numbers_of(item).shape, grown, numbers_of(item).dtype).astype(np.float64) / share
                    args[place] = self.written(exact, item)
        return args, changed

    def _taken(self, step: Step, place: Place, old: Any, new: Any) -> Any:
        """What lives of an operand."""
        if isinstance(old, relax.Tuple):
            pairs = enumerate(zip(old.fields, new.fields, strict=True))
            return relax.Tuple([self._taken(step, (*place, number), *pair) for number, pair in pairs])
        name = self.program.leaves.get((step.name, place)) if is_constant(old) else None
        value = self.values.get(old) if isinstance(old, relax.Var) else None
        if isinstance(value, Value):
            name = value.name
        if name is None or name not in self.layouts:
            return new
        shape = self._shape(name)
        for places in dropping(self.layouts[name], shape, self.alive):
            new = self.builder.emit(relax.op.take(new, relax.const(places.rows, "int64"), places.axes[0], mode="fast"))
            if places.columns is not None:
                index = relax.const(np.ascontiguousarray(places.inner), "int64")
                new = self.builder.emit(relax.op.gather_elements(new, index, places.axes[1]))
        return new

    def after(self, step: Step, var: Any) -> Any:
        """What lives of a result in its places among zeros."""
        value = self.named.get(step.name)
        if step.name in self.inexact:
            if isinstance(value, list):
                parts = [self._put(own, self.builder.emit(relax.TupleGetItem(var, n))) for n, own in enumerate(value)]
                var = self.builder.emit(relax.Tuple(parts))
            elif isinstance(value, Value):
                var = self._put(value, var)
        return super().after(step, var)

    def _put(self, value: Value, var: Any) -> Any:
        found = list(dropping(self.layouts.get(value.name, ()), value.shape, self.alive))
        for places in reversed(found):
            rows = relax.const(places.outer_rows, "int64")
            var = self.builder.emit(relax.op.take(var, rows, places.axes[0], mode="fast"))
            if places.columns is not None:
                index = relax.const(np.ascontiguousarray(places.outer), "int64")
                var = self.builder.emit(relax.op.gather_elements(var, index, places.axes[1]))
            mask = relax.const(places.mask, str(var.ty.dtype))
            var = self.builder.emit(relax.op.multiply(var, mask))
        return var

    def _shape(self, name: str) -> tuple[int, ...]:
        return next(value.shape for value in self.analysis.layouts if value.name == name)


def _scales(program: Program) -> set[str]:
    """Scales of quantised numbers. They stay: of a channel of zeros they do not matter, and one divides by them."""
    names = {s.name for s in program.steps if getattr(getattr(s.value, "op", None), "name", "").endswith("quantize")}
    return {leaf for (step, place), leaf in program.leaves.items() if step in names and place and place[0]}
