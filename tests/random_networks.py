"""Random valid networks, drafted step by step and kept as Python source, so that what fails can be pasted into a test.

A `Draft` runs every line as it is written, so shapes need no formulas and lines that do not run are taken back. All
choices go through one function `below(n)`: hypothesis, a seed or a recorded list can make them.
"""

import ast
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from helpers import randomise

SPACE: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
AXIS = {"image": 1, "nhwc": 3, "tokens": 2, "vector": 1}
"""Kind of a value -> its channel axis."""

INPUTS = {
    "image": ("torch.randn(2, 3, 4, 4)", "torch.randn(2, 4, 6, 6)"),
    "tokens": ("torch.randn(2, 4, 6)", "torch.randn(2, 6, 5)"),
    "vector": ("torch.randn(3, 6)",),
    "ids": ("torch.randint(0, 9, (2, 4))",),
}
LARGEST = 5000
Below = Callable[[int], int]
Step = Callable[["Draft"], None]


class Misfit(Exception):
    """This step does not fit here; what it wrote is taken back."""


class Network(NamedTuple):
    """The source of a module: expressions of its inputs, statements of __init__ and forward; names of its steps."""

    inputs: tuple[str, ...]
    setup: tuple[str, ...]
    lines: tuple[str, ...]
    steps: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """A class `Net`."""
        names = ", ".join(f"x{number}" for number in range(len(self.inputs)))
        setup, lines = ("".join(f"\n        {line}" for line in part) for part in (self.setup, self.lines))
        return (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()"
            f"{setup}\n\n    def forward(self, {names}):{lines}\n"
        )

    def __str__(self) -> str:
        return f"{self.source}\n# inputs: {', '.join(self.inputs)}\n\n{self.inputs!r},\n{self.setup!r},\n{self.lines!r}"

    def build(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The module in evaluation mode and its inputs, seeded."""
        space = dict(SPACE)
        exec(self.source, space)
        torch.manual_seed(0)
        module = randomise(space["Net"]()).eval()
        return module, tuple(eval(text, SPACE) for text in self.inputs)


class Value(NamedTuple):
    """A tensor in forward: its name, what its axes mean, its shape."""

    name: str
    kind: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def axis(self) -> int:
        """The channel axis."""
        return AXIS[self.kind]

    @property
    def width(self) -> int:
        """The number of channels."""
        return self.shape[self.axis]


class Draft:
    """A network in the making; steps ask it for values, choices and layers, and write lines."""

    def __init__(self, below: Below) -> None:
        self.below = below
        self.module = nn.Module()
        self.space: dict[str, Any] = {**SPACE, "self": self.module}
        self.inputs: list[str] = []
        self.setup: list[str] = []
        self.lines: list[str] = []
        self.values: list[Value] = []
        self.steps: list[str] = []
        self.used: set[str] = set()
        self.count = 0

    # ---- choices

    def choice(self, items: Sequence[Any]) -> Any:
        """One of the items; the first is the simplest."""
        return items[self.below(len(items))]

    def number(self, low: int, high: int) -> int:
        """From low to high, both included."""
        if high < low:
            raise Misfit
        return low + self.below(high - low + 1)

    def flag(self, rarity: int = 2) -> bool:
        """True once in `rarity`."""
        return self.below(rarity) == rarity - 1

    def pick(self, *kinds: str, like: Value | None = None, width: int | None = None) -> Value:
        """A value of one of the kinds (all where none is named), often the newest; `like` of the same shape."""
        fits = [
            value
            for value in reversed(self.values)
            if (not kinds or value.kind in kinds)
            and (like is None or (value.shape, value.kind) == (like.shape, like.kind))
            and (width is None or value.width == width)
        ]
        if not fits:
            raise Misfit
        return fits[max(0, self.below(2 * len(fits)) - len(fits) + 1) % len(fits)]

    def width(self) -> int:
        """A width for a new layer."""
        return int(self.choice([8, 6, 12, 5, 16, 9]))

    def divisor(self, number: int, whole: bool = False) -> int:
        """A divisor above 1, below the number itself unless `whole`."""
        fits = [d for d in range(2, number + bool(whole)) if number % d == 0]
        if not fits:
            raise Misfit
        return int(self.choice(fits))

    def size(self, value: Value, axis: int) -> str:
        """A size as text: written in, or taken from the tensor."""
        return str(self.choice([f"{value}.shape[{axis}]", str(value.shape[axis]), f"{value}.size({axis})"]))

    def sizes(self, value: Value, axes: Sequence[int]) -> str:
        """Several sizes as text, all written in the same way."""
        style = self.choice(["{0}.shape[{1}]", "{2}", "{0}.size({1})"])
        return ", ".join(style.format(value, axis, value.shape[axis]) for axis in axes)

    # ---- writing

    def store(self, statement: str, name: str) -> str:
        """Add a statement to __init__; gives `self.name`."""
        with torch.no_grad():
            exec(statement, self.space)
        if isinstance(getattr(self.module, name), nn.Module):
            randomise(getattr(self.module, name)).eval()
        self.setup.append(statement)
        return f"self.{name}"

    def name(self, prefix: str) -> str:
        """A name that is not taken."""
        self.count += 1
        return f"{prefix}{self.count}"

    def layer(self, text: str) -> str:
        """A submodule, such as nn.Linear(3, 4)."""
        name = self.name("m")
        return self.store(f"self.{name} = {text}", name)

    def parameter(self, *shape: int) -> str:
        """A bare parameter."""
        name = self.name("p")
        return self.store(f"self.{name} = nn.Parameter(torch.randn{shape} * 0.5)", name)

    def buffer(self, text: str) -> str:
        """A buffer, given as an expression."""
        name = self.name("b")
        return self.store(f"self.register_buffer({name!r}, {text})", name)

    def run(self, statement: str) -> None:
        """Add a statement to forward; `Misfit` where it fails."""
        try:
            with torch.no_grad():
                exec(statement, self.space)
        except (RuntimeError, IndexError, ValueError) as error:
            raise Misfit from error
        self.lines.append(statement)

    def let(self, expression: str) -> Any:
        """A helper variable; gives its name."""
        name = self.name("t")
        self.run(f"{name} = {expression}")
        return name

    def line(self, expression: str, kind: str) -> Value:
        """A new value; `Misfit` where it is too large, does not vary or is out of hand."""
        name = self.name("v")
        self.run(f"{name} = {expression}")
        return self.keep(name, kind)

    def keep(self, name: str, kind: str) -> Value:
        """Turn a variable of forward into a value."""
        tensor = self.space[name]
        if tensor.dim() != {"image": 4, "nhwc": 4, "tokens": 3, "vector": 2}[kind] or not 1 < tensor.numel() <= LARGEST:
            raise Misfit
        low, high = tensor.aminmax()
        if not (-100 < float(low) < float(high) < 100) or float(high - low) < 1e-3:
            raise Misfit
        value = Value(name, kind, tuple(tensor.shape))
        self.values.append(value)
        return value

    def attempt(self, step: Step) -> bool:
        """Run a step; take it back where it does not fit."""
        setup, lines, values = len(self.setup), len(self.lines), len(self.values)
        try:
            step(self)
        except Misfit:
            del self.setup[setup:], self.lines[lines:], self.values[values:]
            return False
        self.steps.append(step.__name__)
        return True

    def open_ends(self) -> list[Value]:
        """Values that no later line reads."""
        words = " ".join(self.lines).replace("(", " ").replace(")", " ")
        for sign in ",.[]+-*/=":
            words = words.replace(sign, " ")
        counted = words.split()
        return [value for value in self.values if counted.count(value.name) < 2]


def head(d: Draft, value: Value) -> str:
    """An expression for an output: usually through a last layer, so that the channels before it may go."""
    style = d.below(12)
    if style == 11:
        return value.name
    style %= 5
    if value.kind == "image":
        if style in (0, 1):
            return f"{d.layer(f'nn.Conv2d({value.width}, 3, 1)')}({value})"
        if style == 2:
            flat = value.width * value.shape[2] * value.shape[3]
            return f"{d.layer(f'nn.Linear({flat}, 3)')}({value}.flatten(1))"
        return f"{d.layer(f'nn.Linear({value.width}, 3)')}({value}.mean((2, 3)))"
    if value.kind == "tokens" and style == 2:
        flat = value.shape[1] * value.width
        return f"{d.layer(f'nn.Linear({flat}, 3)')}({value}.reshape({value.shape[0]}, -1))"
    if value.kind == "tokens" and style == 3:
        return f"{d.layer(f'nn.Linear({value.width}, 3)')}({value}.mean(1))"
    return f"{d.layer(f'nn.Linear({value.width}, 3)')}({value})"


def finish(d: Draft) -> Network:
    """Heads for all open ends; one output, or a dictionary or tuple of several."""
    ends = d.open_ends()[-4:]
    if not ends:
        ends = d.values[-1:]
    outputs = [head(d, value) for value in ends]
    if len(outputs) == 1:
        result = outputs[0]
    elif d.flag():
        result = "{" + ", ".join(f"'{chr(97 + i)}': {text}" for i, text in enumerate(outputs)) + "}"
    else:
        result = f"({', '.join(outputs)},)"
    return Network(tuple(d.inputs), tuple(d.setup), (*d.lines, f"return {result}"), tuple(d.steps))


def draft(below: Below, steps: dict[str, Step] | None = None, longest: int = 12) -> Network:
    """A random network of up to `longest` steps, each from the table."""
    import random_attention  # noqa: F401  these fill the table
    import random_layers  # noqa: F401
    import random_views  # noqa: F401
    from random_steps import RARE, STEPS, stem

    table = [step for name, step in (steps or STEPS).items() for _ in range(1 if name in RARE else 3)]
    d = Draft(below)
    for number in range(2 if d.flag(5) else 1):
        kind = d.choice(["image", "tokens", "image", "tokens", "vector", "ids"][: 5 if number else 6])
        text = d.choice(INPUTS[kind])
        d.inputs.append(text)
        d.space[f"x{number}"] = eval(text, SPACE)
        stem(d, f"x{number}", kind)
    for _ in range(3 + d.below(longest - 2)):
        choice = d.below(len(table) + 1)
        if choice:
            d.attempt(table[choice - 1])
    return finish(d)


def options(below: Below) -> dict[str, Any]:
    """Random options for `graphprune.optimize`."""

    def one(*items: Any) -> Any:
        return items[below(len(items))]

    return {
        "sparsity": one(0.2, 0.05, 0.1, 0.3, 0.5, 0.7),
        "exact": one("prefer", True, False),
        "scope": one("global", "layer"),
        "criterion": one("l2", "l1", "random"),
        "budget": one("params", "params", "macs"),
        "multiple_of": one(1, 1, 1, 2, 4),
        "policy": one((), (), (), ("dims",), ("groups",), ("dims", "groups"), ("narrow",)),
        "train": one("", "", "all", "some"),
        "twice": one(False, True),
        "traced": one(*[False] * 15, True),
    }


Trial = tuple[Network, dict[str, Any]]


def trial(below: Below, steps: dict[str, Step] | None = None) -> Trial:
    """A network and options to prune it with."""
    return draft(below, steps), options(below)


@st.composite
def trials(draw: Any) -> Trial:
    """The hypothesis strategy."""
    return trial(lambda n: draw(st.integers(0, n - 1)))


class Choices:
    """Choices from a seed or a recorded list; what is chosen is recorded. A list that runs out gives zeros."""

    def __init__(self, source: "int | Sequence[int]") -> None:
        self.random = random.Random(source) if isinstance(source, int) else None
        self.given = [] if isinstance(source, int) else list(source)
        self.made: list[int] = []

    def __call__(self, n: int) -> int:
        place = len(self.made)
        if self.random is not None:
            made = self.random.randrange(n)
        else:
            made = min(self.given[place], n - 1) if place < len(self.given) else 0
        self.made.append(made)
        return made


def shrink(found: Trial, fails: Callable[[Trial], bool]) -> Trial:
    """The simplest trial found that still fails: lines are taken away and options set back while it does."""
    improved = True
    while improved:
        improved = False
        for simpler in _simpler(found):
            if _runs(simpler[0]) and fails(simpler):
                found, improved = simpler, True
                break
    return found


def _simpler(found: Trial) -> Iterator[Trial]:
    network, given = found
    for place in range(len(network.lines) - 1):
        for lines in _without(network.lines, place):
            yield _tidied(network._replace(lines=lines)), given
    last = ast.parse(network.lines[-1].removeprefix("return "), mode="eval").body
    if isinstance(last, ast.Tuple | ast.Dict):
        for item in last.elts if isinstance(last, ast.Tuple) else last.values:
            yield _tidied(network._replace(lines=(*network.lines[:-1], f"return {ast.unparse(item)}"))), given
    plain = options(lambda n: 0)
    for key, value in given.items():
        if value != plain.get(key):
            yield network, {**given, key: plain.get(key)}


def _without(lines: tuple[str, ...], place: int) -> Iterator[tuple[str, ...]]:
    """The lines but one, whose results are replaced by something that it reads."""
    names, equals, expression = lines[place].partition(" = ")
    rest = lines[:place], lines[place + 1 :]
    made = re.findall(r"\b[vt]\d+\b", names) if equals and "[" not in names else []
    yield (*rest[0], *rest[1])
    for name in dict.fromkeys(re.findall(r"\b[vtx]\d+\b", expression)) if made else ():
        yield (*rest[0], *(re.sub(rf"\b({'|'.join(made)})\b", name, line) for line in rest[1]))


def _tidied(network: Network) -> Network:
    """Without layers that no line reads."""
    text = " ".join(network.lines)
    return network._replace(
        setup=tuple(line for line in network.setup if re.search(rf"\bself\.{_stored(line)}\b", text))
    )


def _stored(statement: str) -> str:
    found = re.match(r"self\.(\w+) = |self\.register_buffer\('(\w+)'", statement)
    assert found
    return found.group(1) or found.group(2)


def _runs(network: Network) -> bool:
    try:
        module, inputs = network.build()
        with torch.no_grad():
            module(*inputs)
    except Exception:
        return False
    return True
