"""Read a Relax function into a Graph and an Analysis."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, relax, tirx

from ...analysis import Analysis
from ...collector import collector_paused
from ...errors import WeightsError
from ...graph import Graph, Node, Shape, Value
from ...policy import DEFAULT, Policy
from ...repairs import find_rms_norms
from .calls import Call, Translated, Unsupported
from .names import TRANSLATIONS
from .program import Place, Program, Step, holds_channels, is_constant, numbers_of

_STATISTICS = {"nn.batch_norm": (3, 4), "quantize": (1, 2), "dequantize": (1, 2)}
"""Arguments that hold statistics or scales: they are sliced along, and are no parameters to count."""


class Reader:
    """Builds the Graph of a program whose sizes are all numbers."""

    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, Graph()
        self.values: dict[relax.Var, Any] = {}
        self.numbers: dict[Value, NDArray[Any]] = {}
        self.unsized: set[Value] = set()

    def read(self) -> Graph:
        """The Graph."""
        for var in self.program.function.params:
            self.values[var] = self._made(var.name, var.ty, "input")
            self.graph.inputs.extend(_flat(self.values[var]))
        *steps, last = self.program.steps
        for step in steps:
            self.values[step.var] = self._bound(step)
        for value in _flat(self._operand(last, (), last.value)):
            value.uses += 1
            self.graph.outputs.append(value)
        for norm in find_rms_norms(self.graph):
            norm.node.attrs["repaired"] = (norm.scale.name, norm.offset)
            if norm.eps is not None:
                norm.eps.attrs["grows"] = norm.scale.name
        return self.graph

    def _bound(self, step: Step) -> Any:
        """What a variable stands for: a value, a list of them, or an expression that is no tensor."""
        value = step.value
        if isinstance(value, relax.TupleGetItem):
            source = self._operand(step, (), value.tuple_value)
            if isinstance(source, list):
                return source[value.index]
        elif isinstance(value, relax.Call):
            return self._called(step)
        elif step.cast is not None:  # a size is asserted there, and given a name
            return self._unknown(step, "relax.match_cast", "is asserted to have sizes", "prune before match_cast")
        return self._operand(step, (), value)

    def _operand(self, step: Step, place: Place, expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return self.values.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return [self._operand(step, (*place, number), item) for number, item in enumerate(expr.fields)]
        if is_constant(expr):
            return self._constant(step, place, expr)
        return expr

    def _constant(self, step: Step, place: Place, constant: Any) -> Value:
        """A leaf, or what holds no channels: one number, or a list of positions."""
        shape, dtype = tuple(map(int, constant.value.shape)), str(constant.ty.dtype)
        if not holds_channels(constant):
            value = Value(f"{step.name}.{'.'.join(map(str, place)) or 'value'}", shape, dtype)
            self.numbers[value] = numbers_of(constant)
            return value
        name = self.program.leaves[step.name, place]
        if name not in self.graph.leaves:
            statistic = place and place[0] in _STATISTICS.get(_name(step.value), ())
            self.graph.leaves[name] = Value(
                name, shape, dtype, "buffer" if statistic or dtype == "bool" else "parameter"
            )
        return self.graph.leaves[name]

    def _made(self, name: str, kind: Any, role: str = "computed") -> Any:
        """Values of a type: lists of them for tuples; what is no tensor gives an empty list."""
        if isinstance(kind, relax.TupleType):
            return [self._made(f"{name}[{number}]", item, role) for number, item in enumerate(kind.fields)]
        if not isinstance(kind, relax.TensorType):
            return []
        shape = sizes(kind)
        value = Value(name, shape or (), str(kind.dtype), role)
        if shape is None:
            self.unsized.add(value)
        return value

    def _called(self, step: Step) -> Any:
        name, args = _name(step.value), step.value.args
        made = self._made(step.name, step.var.ty)
        results = tuple(_flat(made))
        operands = tuple(self._operand(step, (number,), item) for number, item in enumerate(args))
        call = Call(name, step.name, step.value.attrs, operands, results, self.numbers, self.program.weights)
        try:
            operation, inputs, attrs = self._translated(call)
        except Unsupported as reason:
            call.emitted.clear()
            return self._unknown(step, name, str(reason), reason.unlock)
        if results:
            self.graph.nodes.extend(call.emitted)
            self._append(Node(step.name, operation, inputs, results, attrs, call.label, True, step.name), call.emitted)
        return made

    def _translated(self, call: Call) -> Translated:
        translation = TRANSLATIONS.get(call.name)
        if translation is None:
            raise Unsupported(f"operator {call.name} has no rule", "prune before it, or add a rule: docs/extending.md")
        tensors = [value for item in call.args for value in _flat(item)]
        unsized = next((value for value in (*tensors, *call.results) if value in self.unsized), None)
        if unsized is not None:
            raise Unsupported(f"sizes of {unsized.name} are not known before it runs", "give it sizes that are known")
        if not call.results:
            raise Unsupported(f"{call.name} gives no tensor")
        return translation(call)

    def _unknown(self, step: Step, name: str, reason: str, unlock: str) -> Any:
        """Lock all that goes in."""
        call = isinstance(step.value, relax.Call)
        parts = enumerate(step.value.args) if call else ((0, step.value),)
        inputs = tuple(
            value for number, item in parts for value in _flat(self._operand(step, (number,) if call else (), item))
        )
        made = self._made(step.name, step.var.ty)
        results = tuple(_flat(made)) or (Value(f"{step.name}/none", (), "undefined"),)
        attrs = {"name": name, "reason": reason, "unlock": unlock}
        self._append(Node(step.name, "unknown", inputs, results, attrs, f"{step.name}: {name}", True, step.name), [])
        return made

    def _append(self, node: Node, emitted: list[Node]) -> None:
        for value in (*node.inputs, *(item for own in emitted for item in own.inputs)):
            if value is not None:
                value.uses += 1
        self.graph.nodes.append(node)


def sizes(kind: relax.TensorType) -> Shape | None:
    """The shape of a tensor whose sizes are all numbers, else None."""
    if kind.shape is None or not isinstance(kind.shape, relax.ShapeExpr):
        return None
    if not all(isinstance(size, tirx.IntImm) for size in kind.shape.values):
        return None
    return tuple(int(size.value) for size in kind.shape.values)


def _flat(item: Any) -> Iterator[Value]:
    if isinstance(item, Value):
        yield item
    elif isinstance(item, list):
        for part in item:
            yield from _flat(part)


def _name(value: Any) -> str:
    """The operator of a call without `relax.`; for a function of the module or of another library what kind that is."""
    if not isinstance(value, relax.Call):
        return ""
    if isinstance(value.op, ir.Op):
        return str(value.op.name).removeprefix("relax.")
    return f"function {getattr(value.op, 'name_hint', None) or getattr(value.op, 'global_symbol', value.op)}"


@collector_paused()
def read(program: Program) -> Graph:
    """The Graph of a program whose sizes are all numbers; see `static`."""
    return Reader(program).read()


def static(program: Program, symbols: Mapping[Any, int]) -> Program:
    """The same program, step by step, with numbers for its symbolic sizes."""
    if not symbols:
        return program
    bound = relax.transform.BindSymbolicVars(dict(symbols), program.entry.name_hint)(program.module)
    return Program.of(bound)


def analyse(program: Program, inputs: Any, policy: Policy = DEFAULT) -> Analysis:
    """The Analysis of a program whose sizes are all numbers."""
    start = time.process_time()
    graph = read(program)
    seconds = time.process_time() - start
    analysis = Analysis.of(graph, lambda name: _weights(program, name), inputs, policy)
    analysis.seconds["trace"] = seconds
    return analysis


def _weights(program: Program, name: str) -> NDArray[Any]:
    """A stored tensor as numbers that scores can be made of."""
    numbers = program.weights(name)
    if numbers.dtype.kind in "iubV" or numbers.dtype.itemsize <= 2:
        numbers = numbers.astype(np.float32)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise WeightsError(f"{name} holds numbers that are not finite")
    return numbers
