"""The table of steps of random networks, and what steps share.

Each step writes one pattern of layers and tensor code: `random_layers.py`, `random_views.py`, `random_attention.py`.
A new one is a function there.
"""

from collections.abc import Callable

from random_networks import Draft, Value

STEPS: dict[str, Callable[[Draft], None]] = {}

RARE = ("multihead", "write_part", "table_rows", "tied_head", "gram", "token_mix")
"""Steps that lock much: they come up less often."""


def step(function: Callable[[Draft], None]) -> Callable[[Draft], None]:
    """Put a step into the table."""
    STEPS[function.__name__] = function
    return function


def stem(d: Draft, name: str, kind: str) -> None:
    """A first layer on an input: most channels then are free; now and then the input itself can be used too."""
    width = d.choice([8, 12, 6, 16])
    shape = tuple(d.space[name].shape)
    if kind == "ids":
        d.line(f"{d.layer(f'nn.Embedding(9, {width})')}({name})", "tokens")
        return
    value = Value(name, kind, shape)
    layer = "nn.Conv2d({}, {}, 3, padding=1)" if kind == "image" else "nn.Linear({}, {})"
    d.line(f"{d.layer(layer.format(value.width, width))}({name})", kind)
    if d.flag(8):
        d.values.insert(0, value)


def linear(d: Draft, value: Value, width: int, bias: str = "") -> str:
    """An expression that mixes the channels of any value."""
    if value.kind == "image":
        return f"{d.layer(f'nn.Conv2d({value.width}, {width}, 1{bias})')}({value})"
    return f"{d.layer(f'nn.Linear({value.width}, {width}{bias})')}({value})"


def at(value: Value, axis: int, text: str) -> str:
    """An index with `text` along one axis."""
    return ", ".join([*[":"] * axis, text])
