"""ONNX LSTM, GRU and RNN, unrolled step by step: the length of the sequence is known.

What the inputs contribute is one matrix product for all steps; each step adds what the state contributes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm import relax

from ..errors import CompileError
from .onnx_node import Converter, Node
from .rewriting import shape_of

Expr = relax.Expr
Function = Callable[[Expr], Expr]
# Each step becomes code of its own.
_MOST_STEPS = 512

_ACTIVATIONS: dict[str, Function] = {
    "relu": relax.op.nn.relu,
    "sigmoid": relax.op.sigmoid,
    "softplus": relax.op.nn.softplus,
    "tanh": relax.op.tanh,
}


@dataclass(frozen=True)
class _Cell:
    """One direction of a recurrent layer: what all kinds of cells need for a step."""

    node: Node
    hidden: int
    activations: list[Function]
    recurrent: Expr
    recurrent_bias: Expr | None
    peepholes: Expr | None

    def cut(self, value: Expr, part: int) -> Expr:
        """The columns of one gate."""
        begin = part * self.hidden
        axis = len(shape_of(value)) - 1
        return self.node.emit(relax.op.strided_slice(value, [axis], [begin], [begin + self.hidden]))

    def add(self, left: Expr, right: Expr) -> Expr:
        return self.node.emit(relax.op.add(left, right))

    def multiply(self, left: Expr, right: Expr) -> Expr:
        return self.node.emit(relax.op.multiply(left, right))

    def activate(self, which: int, value: Expr) -> Expr:
        """One of the functions of the cell, after the clipping that the node may ask for."""
        bound = self.node.attributes.get("clip")
        if bound is not None:
            value = self.node.emit(relax.op.clip(value, -float(bound), float(bound)))
        return self.node.emit(self.activations[which](value))


def _rnn(cell: _Cell, given: Expr, state: tuple[Expr, ...]) -> tuple[Expr, ...]:
    product = cell.node.emit(relax.op.matmul(state[0], cell.recurrent))
    return (cell.activate(0, cell.add(given, product)),)


def _lstm(cell: _Cell, given: Expr, state: tuple[Expr, ...]) -> tuple[Expr, ...]:
    hidden, memory = state
    gates = cell.add(given, cell.node.emit(relax.op.matmul(hidden, cell.recurrent)))
    enter, leave, forget, content = (cell.cut(gates, part) for part in range(4))

    def peep(gate: Expr, at: Expr, part: int) -> Expr:
        return gate if cell.peepholes is None else cell.add(gate, cell.multiply(at, cell.cut(cell.peepholes, part)))

    enter, forget = cell.activate(0, peep(enter, memory, 0)), cell.activate(0, peep(forget, memory, 2))
    fresh = cell.multiply(enter, cell.activate(1, content))
    memory = cell.add(cell.multiply(forget, memory), fresh)
    leave = cell.activate(0, peep(leave, memory, 1))
    # The memory is not clipped.
    return cell.multiply(leave, cell.node.emit(cell.activations[2](memory))), memory


def _gru(cell: _Cell, given: Expr, state: tuple[Expr, ...]) -> tuple[Expr, ...]:
    hidden, node = state[0], cell.node
    columns = [cell.cut(cell.recurrent, part) for part in range(3)]
    bias = [None if cell.recurrent_bias is None else cell.cut(cell.recurrent_bias, part) for part in range(3)]

    def pushed(value: Expr, part: int) -> Expr:
        product = node.emit(relax.op.matmul(value, columns[part]))
        return product if bias[part] is None else cell.add(product, bias[part])

    update = cell.activate(0, cell.add(cell.cut(given, 0), pushed(hidden, 0)))
    reset = cell.activate(0, cell.add(cell.cut(given, 1), pushed(hidden, 1)))
    if node.attributes.get("linear_before_reset", 0):
        past = cell.multiply(reset, pushed(hidden, 2))
    else:
        past = pushed(cell.multiply(reset, hidden), 2)
    fresh = cell.activate(1, cell.add(cell.cut(given, 2), past))
    # (1 - update) * fresh + update * hidden
    change = node.emit(relax.op.subtract(hidden, fresh))
    return (cell.add(fresh, cell.multiply(update, change)),)


@dataclass(frozen=True)
class _Kind:
    """What tells one recurrent operator from another."""

    gates: int
    activations: tuple[str, ...]
    states: int
    step: Callable[[_Cell, Expr, tuple[Expr, ...]], tuple[Expr, ...]]
    # Whether the bias of the recurrent part may be added beforehand.
    one_bias: bool = True


def _convert(kind: _Kind, node: Node) -> Expr:
    """All directions of a layer, and their results joined."""
    turned = bool(node.attributes.get("layout", 0))
    data = node.emit(relax.op.permute_dims(node.data, [1, 0, 2])) if turned else node.data
    steps, batch, _ = shape_of(data)
    _check(node, steps)
    hidden = shape_of(node.input(2))[-1]
    way = node.text("direction", "forward")
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[way]
    series, last = [], []
    for index, backwards in enumerate(directions):
        cell, given = _direction(kind, node, data, hidden, index, len(directions))
        state = tuple(_initial(node, kind, part, index, turned, (batch, hidden)) for part in range(kind.states))
        outputs: dict[int, Expr] = {}
        for step in reversed(range(steps)) if backwards else range(steps):
            state = kind.step(cell, _item(node, given, step), state)
            outputs[step] = state[0]
        series.append(node.emit(relax.op.stack([outputs[step] for step in range(steps)], axis=0)))
        last.append(state)
    whole = node.emit(relax.op.stack(series, axis=1))
    ends = [node.emit(relax.op.stack([state[part] for state in last], axis=0)) for part in range(kind.states)]
    if turned:
        whole = node.emit(relax.op.permute_dims(whole, [2, 0, 1, 3]))
        ends = [node.emit(relax.op.permute_dims(end, [1, 0, 2])) for end in ends]
    return relax.Tuple([whole, *ends])


def _check(node: Node, steps: int) -> None:
    lengths = node.constant(4)
    if node.input(4) is not None and (lengths is None or (lengths != steps).any()):
        raise CompileError("sequences of several lengths in one batch are not compiled")
    if steps > _MOST_STEPS:
        raise CompileError(
            f"{steps} steps are too many to unroll (at most {_MOST_STEPS}): compile it for shorter pieces"
        )
    if node.attributes.get("input_forget", 0):
        raise CompileError("input_forget is not compiled")


def _direction(kind: _Kind, node: Node, data: Expr, hidden: int, index: int, directions: int) -> tuple[_Cell, Expr]:
    """The cell of one direction, and what the inputs contribute to all its steps."""
    steps, batch, width = shape_of(data)
    weight = node.emit(relax.op.permute_dims(_item(node, node.input(1), index)))
    recurrent = node.emit(relax.op.permute_dims(_item(node, node.input(2), index)))
    flat = node.emit(relax.op.reshape(data, (steps * batch, width)))
    given = node.emit(relax.op.matmul(flat, weight))
    late = None
    if node.input(3) is not None:
        bias, size = _item(node, node.input(3), index), kind.gates * hidden
        early = node.emit(relax.op.strided_slice(bias, [0], [0], [size]))
        late = node.emit(relax.op.strided_slice(bias, [0], [size], [2 * size]))
        given = node.emit(relax.op.add(given, early))
        if kind.one_bias:
            given, late = node.emit(relax.op.add(given, late)), None
    given = node.emit(relax.op.reshape(given, (steps, batch, kind.gates * hidden)))
    peepholes = None if node.input(7) is None else _item(node, node.input(7), index)
    functions = _functions(kind, node, index, directions)
    return _Cell(node, hidden, functions, recurrent, late, peepholes), given


def _functions(kind: _Kind, node: Node, index: int, directions: int) -> list[Function]:
    count = len(kind.activations)
    names = node.attributes.get("activations")
    names = [name.decode().lower() for name in names] if names else [name for name in kind.activations] * directions
    names = names[index * count : (index + 1) * count]
    if node.attributes.get("activation_alpha") or node.attributes.get("activation_beta"):
        raise CompileError("activations with parameters of their own are not compiled")
    unknown = [name for name in names if name not in _ACTIVATIONS]
    if unknown:
        raise CompileError(f"the activation {unknown[0]} is not compiled")
    return [_ACTIVATIONS[name] for name in names]


def _initial(node: Node, kind: _Kind, part: int, index: int, turned: bool, shape: tuple[int, int]) -> Expr:
    given = node.input(5 + part)
    if given is None:
        return relax.const(np.zeros(shape, "float32"))
    return _item(node, node.emit(relax.op.permute_dims(given, [1, 0, 2])) if turned else given, index)


def _item(node: Node, value: Expr, index: int) -> Expr:
    """`value[index]`."""
    part = node.emit(relax.op.strided_slice(value, [0], [index], [index + 1]))
    return node.emit(relax.op.reshape(part, shape_of(part)[1:]))


CONVERTERS: dict[str, Converter] = {
    "GRU": partial(_convert, _Kind(3, ("sigmoid", "tanh"), 1, _gru, one_bias=False)),
    "LSTM": partial(_convert, _Kind(4, ("sigmoid", "tanh", "tanh"), 2, _lstm)),
    "RNN": partial(_convert, _Kind(1, ("tanh",), 1, _rnn)),
}
