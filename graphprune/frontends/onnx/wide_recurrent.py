"""LSTM, GRU and RNN in float64: one step written out, repeated by Scan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from .builder import Builder, CannotExpand

_PLAIN = ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")
"""Activations without numbers of their own."""


class Step(NamedTuple):
    """What one step of one direction sees: the step's own builder, and stored tensors of the direction."""

    b: Builder
    recurrent: ir.Value
    bias: "ir.Value | None"
    peepholes: "ir.Value | None"
    activations: list[str]
    hidden: int
    clip: float | None
    linear_before_reset: bool

    def gate(self, value: ir.Value, number: int) -> ir.Value:
        """One gate of a row of gates."""
        places = np.arange(self.hidden) + number * self.hidden
        return self.b("Gather", value, self.b.ints(places), axis=1)

    def activated(self, value: ir.Value, number: int) -> ir.Value:
        """An activation of what is clipped before."""
        if self.clip:
            value = self.b.clip(value, -self.clip, self.clip)
        return self.b(self.activations[number], value)

    def weighted(self, state: ir.Value, number: int) -> ir.Value:
        """A cell state times the peephole weights of a gate; only where there are any."""
        if self.peepholes is None:
            return self.b.const(0.0)
        weights = self.b("Gather", self.peepholes, self.b.ints(np.arange(self.hidden) + number * self.hidden), axis=0)
        return self.b("Mul", state, weights)


def _lstm_step(step: Step, x: ir.Value, states: list[ir.Value]) -> list[ir.Value]:
    b, (h, c) = step.b, states
    gates = b("Add", x, b("MatMul", h, step.recurrent))
    into = step.activated(b("Add", step.gate(gates, 0), step.weighted(c, 0)), 0)
    forget = step.activated(b("Add", step.gate(gates, 2), step.weighted(c, 2)), 0)
    fresh = step.activated(step.gate(gates, 3), 1)
    cell = b("Add", b("Mul", forget, c), b("Mul", into, fresh))
    out = step.activated(b("Add", step.gate(gates, 1), step.weighted(cell, 1)), 0)
    return [b("Mul", out, b(step.activations[2], cell)), cell]


def _gru_step(step: Step, x: ir.Value, states: list[ir.Value]) -> list[ir.Value]:
    b, (h,) = step.b, states
    seen = b("MatMul", h, step.recurrent)
    seen = seen if step.bias is None else b("Add", seen, step.bias)
    update = step.activated(b("Add", step.gate(x, 0), step.gate(seen, 0)), 0)
    reset = step.activated(b("Add", step.gate(x, 1), step.gate(seen, 1)), 0)
    if step.linear_before_reset:
        inner = b("Mul", reset, step.gate(seen, 2))
    else:
        inner = step.gate(b("MatMul", b("Mul", reset, h), step.recurrent), 2)
        inner = inner if step.bias is None else b("Add", inner, b("Gather", step.bias, b.ints(_last(step)), axis=0))
    fresh = step.activated(b("Add", step.gate(x, 2), inner), 1)
    return [b("Add", b("Mul", b("Sub", b.const(1.0), update), fresh), b("Mul", update, h))]


def _last(step: Step) -> list[int]:
    return list(range(2 * step.hidden, 3 * step.hidden))


def _rnn_step(step: Step, x: ir.Value, states: list[ir.Value]) -> list[ir.Value]:
    b, (h,) = step.b, states
    return [step.activated(b("Add", x, b("MatMul", h, step.recurrent)), 0)]


StepRule = Callable[[Step, ir.Value, list[ir.Value]], list[ir.Value]]


def lstm(b: Builder) -> list[ir.Value]:
    """A long short-term memory."""
    return _recurrent(b, 4, ["Sigmoid", "Tanh", "Tanh"], 2, _lstm_step)


def gru(b: Builder) -> list[ir.Value]:
    """A gated recurrent unit."""
    return _recurrent(b, 3, ["Sigmoid", "Tanh"], 1, _gru_step)


def rnn(b: Builder) -> list[ir.Value]:
    """A plain recurrence."""
    return _recurrent(b, 1, ["Tanh"], 1, _rnn_step)


def _recurrent(b: Builder, gates: int, usual: list[str], states: int, rule: StepRule) -> list[ir.Value]:
    """All directions, with the outputs (all steps, last state, last cell state) in the asked layout."""
    directions = 2 if b.attr("direction", "forward") == "bidirectional" else 1
    names = list(b.attr("activations") or usual * directions)
    if b.opset < 9 or set(names) - set(_PLAIN) or b.attr("activation_alpha") or b.attr("input_forget", 0):
        raise CannotExpand("activations with numbers, or an opset without Scan")
    batch_first = bool(b.attr("layout", 0))
    x = b("Transpose", b.input(0), perm=[1, 0, 2]) if batch_first else b.input(0)
    hidden = b.shape(b.input(2))[2]
    mask = _mask(b, 1 if batch_first else 0)
    found = []
    for number in range(directions):
        backward = number == 1 or b.attr("direction", "forward") == "reverse"
        first = [_first(b, x, 5 + place, number, hidden, batch_first) for place in range(states)]
        few = names[number * len(usual) : (number + 1) * len(usual)]
        found.append(_direction(b, x, mask, first, number, gates, few, backward, rule))
    steps = b("Concat", *[b.reshape(one[-1], [0, 1, -1, hidden]) for one in found], axis=1)
    last = [b("Concat", *[b.reshape(one[place], [1, -1, hidden]) for one in found], axis=0) for place in range(states)]
    if batch_first:
        steps = b("Transpose", steps, perm=[2, 0, 1, 3])
        last = [b("Transpose", one, perm=[1, 0, 2]) for one in last]
    return [steps, *last]


def _mask(b: Builder, axis: int) -> "ir.Value | None":
    """[length, batch, 1]: which steps are within the length of their sequence."""
    if b.inputs[4] is None:
        return None
    ends = b.reshape(b.cast(b.inputs[4], ir.DataType.INT64), [1, -1, 1])
    return b("Less", b.ints(np.arange(b.shape(b.input(0))[axis])[:, None, None]), ends)


def _row(b: Builder, value: ir.Value, number: int) -> ir.Value:
    """What belongs to one direction."""
    return b("Gather", value, b.ints(number), axis=0)


def _first(b: Builder, x: ir.Value, position: int, number: int, hidden: int, batch_first: bool) -> ir.Value:
    """The state before the first step: given, or zeros."""
    value = b.inputs[position]
    if value is not None:
        return b("Gather", value, b.ints(number), axis=1) if batch_first else _row(b, value, number)
    batch = b("Gather", b("Shape", x), b.ints([1]), axis=0)
    zero = ir.tensor(np.zeros(1))
    return b("ConstantOfShape", b("Concat", batch, b.ints([hidden]), axis=0), value=zero)


def _direction(
    b: Builder,
    x: ir.Value,
    mask: "ir.Value | None",
    first: list[ir.Value],
    number: int,
    gates: int,
    activations: list[str],
    backward: bool,
    rule: StepRule,
) -> list[ir.Value]:
    """One direction: its last states, then all its steps."""
    hidden = b.shape(b.input(2))[2]
    projected = b("MatMul", x, b("Transpose", _row(b, b.input(1), number), perm=[1, 0]))
    own, bias = None, None
    if b.inputs[3] is not None:
        row = _row(b, b.inputs[3], number)
        own = b("Gather", row, b.ints(np.arange(gates * hidden)), axis=0)
        bias = b("Gather", row, b.ints(np.arange(gates * hidden) + gates * hidden), axis=0)
        projected = b("Add", projected, own if gates == 3 else b("Add", own, bias))
    inner = Builder(b.node, b.opset)
    peepholes = _row(b, b.inputs[7], number) if gates == 4 and b.inputs[7] is not None else None
    recurrent = b("Transpose", _row(b, b.input(2), number), perm=[1, 0])
    step = Step(
        inner, recurrent, bias, peepholes, activations, hidden, b.attr("clip"), bool(b.attr("linear_before_reset", 0))
    )
    states = [ir.Value(name=b.fresh_name(), type=ir.TensorType(ir.DataType.DOUBLE)) for _ in first]
    seen = ir.Value(name=b.fresh_name(), type=ir.TensorType(ir.DataType.DOUBLE))
    inputs, after = [*states, seen], rule(step, seen, states)
    every = inner("Identity", after[0])
    if mask is not None:
        counts = ir.Value(name=b.fresh_name(), type=ir.TensorType(ir.DataType.BOOL))
        inputs.append(counts)
        after = [inner("Where", counts, new, old) for new, old in zip(after, states, strict=True)]
        every = inner("Where", counts, every, inner.const(0.0))
    outputs = [*after, every]
    for value in outputs:  # Scan asks for shapes
        value.type, value.shape = ir.TensorType(ir.DataType.DOUBLE), ir.Shape([None, hidden])
    body = ir.Graph(inputs, outputs, nodes=inner.nodes, name=b.fresh_name(), opset_imports={"": b.opset})
    scanned = [projected] if mask is None else [projected, mask]
    attributes: dict[str, Any] = {
        "body": body,
        "num_scan_inputs": len(scanned),
        "scan_input_directions": [int(backward)] * len(scanned),
        "scan_output_directions": [int(backward)],
    }
    return b.many("Scan", *first, *scanned, outputs=len(outputs), **attributes)
