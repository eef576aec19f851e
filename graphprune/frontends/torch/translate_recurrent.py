"""Translations of recurrent layers and cells, plain and packed; ATen has them in the same form."""

from collections.abc import Callable
from typing import Any

from ...graph import Value
from .calls import Call, Translated, Unsupported


def recurrent_call(gates: int, states: int) -> Callable[[Call], Translated]:
    """x, [batch sizes of a packed sequence], states, weights, biased, layers, dropout, training, bidirectional."""

    def translate(call: Call) -> Translated:
        packed = isinstance(call.args[3], (list, tuple))
        given, weights, biased, layers, _, _, bidirectional = call.args[1 + packed : 8 + packed]
        directions = 1 + bool(bidirectional)
        per = len(weights) // (layers * directions)
        attrs = {"gates": gates, "states": states, "directions": directions, "biased": bool(biased)}
        attrs["projected"] = per == 3 + 2 * bool(biased)
        return "recurrent", (call.x, *_states(given), *weights), attrs

    return translate


def recurrent_cell_call(gates: int, states: int) -> Callable[[Call], Translated]:
    """x, states, weight of the input, weight of the state, and a bias of each."""

    def translate(call: Call) -> Translated:
        weights = tuple(call.get(position, name) for position, name in enumerate(_CELL, 2))
        given = tuple(weight for weight in weights if weight is not None)
        attrs = {"gates": gates, "states": states, "directions": 1, "biased": len(given) == 4, "projected": False}
        return "recurrent", (call.x, *_states(call.get(1, "hx")), *given), attrs

    return translate


_CELL = ("w_ih", "w_hh", "b_ih", "b_hh")


def _states(given: Any) -> tuple[Value, ...]:
    states = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if not all(isinstance(state, Value) for state in states):
        raise Unsupported("a recurrent layer without initial states")
    return states


def pack_call(call: Call) -> Translated:
    """Padded sequences to packed ones and back: features stay where they are, batch and time are merged."""
    padding = call.get(3, "padding_value", default=0.0) if call.name == "_pad_packed_sequence" else 0.0
    return "packing", (call.x,), {"zero": padding == 0}
