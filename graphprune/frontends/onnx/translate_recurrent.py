"""Translations of LSTM, GRU and RNN: a stack of one layer, whose weights hold one or two directions."""

from collections.abc import Callable

from ...graph import Value
from .calls import Call, Translated, Unsupported

_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_KEEP_ZERO = {"tanh", "relu", "leakyrelu", "elu", "softsign", "scaledtanh"}
"""Activations of states: with f(0) = 0 a unit that starts at zero and is dropped stays zero."""


def recurrent(gates: int, states: int) -> Callable[[Call], Translated]:
    """X, W, R, B, lengths, initial states and peepholes; axis 0 of the weights is the direction."""

    def translate(call: Call) -> Translated:
        _check_activations(call)
        x, hidden = call.x, call.tensor(2).shape[2]
        directions = call.tensor(1).shape[0]
        batch = x.shape[0] if call.attr("layout", 0) else x.shape[1]
        state = (batch, directions, hidden) if call.attr("layout", 0) else (directions, batch, hidden)
        weights: list[Value | None] = []
        for direction in range(directions):
            weights += [_picked(call, call.tensor(place), direction) for place in (1, 2)]
            if call.get(3) is not None:
                bias = _picked(call, call.tensor(3), direction)
                weights += [_cut(call, bias, start * gates * hidden, gates * hidden) for start in (0, 1)]
        initial = [_initial(call, place, state) for place in (5, 6)[:states]]
        attrs = {"gates": gates, "states": states, "directions": directions, "biased": call.get(3) is not None}
        shapes = ((*x.shape[:2], directions * hidden), *[(directions, batch, hidden)] * states)
        seen = call.emit("recurrent", (x, *initial, *weights), attrs | {"projected": False}, *shapes)
        last = list(call.emitted[-1].outputs[1:])
        if call.get(7) is not None:
            _tie_peepholes(call, last[-1], hidden)
        if call.attr("layout", 0):
            last = [call.emit("permute", (value,), {"order": [1, 0, 2]}, state) for value in last]
        return "", (_unfolded(call, seen, directions, hidden), *last), {}

    return translate


def _unfolded(call: Call, seen: Value, directions: int, hidden: int) -> Value:
    """What all steps show, with an axis for the directions: before the batch, or after it where the batch is first."""
    first, second, _ = seen.shape
    split = (first, second, directions, hidden)
    value = call.emit("reshape", (seen,), {}, split)
    if call.attr("layout", 0):
        return value
    return call.emit("permute", (value,), {"order": [0, 2, 1, 3]}, (first, directions, second, hidden))


def _picked(call: Call, value: Value, direction: int) -> Value:
    return call.emit("getitem", (value,), {"cuts": [], "picks": [(0, direction)]}, value.shape[1:])


def _cut(call: Call, value: Value, start: int, size: int) -> Value:
    return call.emit("getitem", (value,), {"cuts": [(0, start, start + size, 1)], "picks": []}, (size,))


def _initial(call: Call, place: int, shape: tuple[int, ...]) -> Value:
    """An initial state (direction, batch, unit); zeros where it is left out."""
    given = call.get(place)
    if given is None:
        rows = (call.tensor(1).shape[0], shape[0] if call.attr("layout", 0) else shape[1], shape[2])
        value = call.emit("fill", (), {"value": 0}, rows)
        value.kind = "uniform"
        return value
    if call.attr("layout", 0):
        order = [1, 0, 2]
        return call.emit("permute", (given,), {"order": order}, tuple(given.shape[axis] for axis in order))
    return given


def _tie_peepholes(call: Call, cell: Value, hidden: int) -> None:
    """Weights by which the cell state looks at the gates: one row per gate."""
    for direction in range(cell.shape[0]):
        peephole = _picked(call, call.tensor(7), direction)
        own = call.emit("getitem", (cell,), {"cuts": [], "picks": [(0, direction)]}, cell.shape[1:])
        for gate in range(3):
            call.emit("mul", (own, _cut(call, peephole, gate * hidden, hidden)), {}, own.shape)


def _check_activations(call: Call) -> None:
    default = _DEFAULTS[call.name]
    given = [str(name).lower() for name in call.attr("activations", default * 2)]
    for start in range(0, len(given), len(default)):
        own = given[start : start + len(default)]
        states = own if call.name == "RNN" else own[1:]
        if not set(states) <= _KEEP_ZERO:
            raise Unsupported(f"{call.name} with activations {own}: a dropped unit would not stay zero")
