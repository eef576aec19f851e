"""The pictures of how it works: `python docs/generate/pictures.py` writes docs/pictures/.

Colours and gaps are not drawn by hand: networks of a few channels are analysed and a plan is made, and every channel
gets the colour of its group.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from svg import COLOURS, Drawing
from torch import Tensor, nn

import graphprune
from graphprune import Analysis, Plan

FOLDER = Path(__file__).parents[1] / "pictures"
CELL = 20
Corner = tuple[float, float]


class Joined(nn.Module):
    """A residual addition whose result is also concatenated with what a third layer makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.c, self.d = nn.Conv2d(6, 4, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images to images of two channels."""
        y = self.a(x)
        z = torch.relu(y + self.b(y))
        return self.d(torch.cat([z, self.c(z)], 1))


class Attention(nn.Module):
    """Four query heads of width 3 that share two key-value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False)
        self.k, self.v = nn.Linear(12, 6, bias=False), nn.Linear(12, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        batch, length, _ = x.shape
        q, k, v = (layer(x).view(batch, length, -1, 3).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(y.transpose(1, 2).reshape(batch, length, 12))


def pipeline() -> str:
    """From a model to an artifact: what each step makes, and where verification looks."""
    steps = (
        ("model", "torch, ONNX"),
        ("Graph", "one vocabulary"),
        ("labels", "per channel"),
        ("groups", "and locks"),
        ("Plan", "kept indices"),
        ("slim model", "same class"),
        ("artifact", "machine code"),
    )
    verbs = ("trace", "rules", "solve", "score, budget", "apply", "compile")
    wide, gap, top = 94, 42, 52
    drawing = Drawing(7 * wide + 6 * gap + 40, 200, "From a model to a compiled artifact, and how it is verified")
    left = [20 + place * (wide + gap) for place in range(len(steps))]
    for x, lines in zip(left, steps, strict=True):
        drawing.box(x, top, wide, 52, lines)
    for x, verb in zip(left, verbs, strict=False):
        drawing.arrow((x + wide, top + 26), (x + wide + gap, top + 26))
        drawing.text(x + wide + gap / 2, top - 10, verb, "small")
    said = ("verify", "slim model = model with the dropped channels at zero")
    drawing.box(left[2], 132, wide + left[4] - left[2], 48, said)
    drawing.arrow((left[0] + wide / 2, top + 52), (left[0] + wide / 2, 156), (left[2], 156))
    drawing.arrow((left[5] + wide / 2, top + 52), (left[5] + wide / 2, 156), (left[4] + wide, 156))
    return str(drawing)


def _channels(
    drawing: Drawing, analysis: Analysis, plan: Plan, name: str, axis: int, corners: Sequence[Corner], width: int
) -> None:
    """Draw the channels of an axis as cells that begin at these corners."""
    classes = analysis.leaf_classes[name, axis]
    numbers = _numbers(analysis)
    kept = set(np.ravel(plan.kept.get(name, {}).get(axis, np.arange(classes.size))).tolist())
    for channel, (own, (x, y)) in enumerate(zip(classes.tolist(), corners, strict=True)):
        number = numbers.get(own)
        colour = None if number is None else COLOURS[(number - 1) % len(COLOURS)]
        drawing.cell(x, y, width, CELL - 2, colour, channel not in kept, "" if number is None else str(number))


def _numbers(analysis: Analysis) -> Mapping[int, int]:
    """Groups that may be dropped, numbered from 1 in the order of the program."""
    found = [own for classes in analysis.leaf_classes.values() for own in np.ravel(classes).tolist()]
    free = [own for own in dict.fromkeys(found) if analysis.free[own]]
    return {own: number for number, own in enumerate(free, 1)}


def residual() -> str:
    """Which channels hang together through a residual addition and a concatenation."""
    torch.manual_seed(2)
    net = Joined().eval()
    analysis = graphprune.analyze(net, torch.randn(1, 3, 8, 8))
    plan = analysis.plan(0.4, criterion="random", seed=2, widths={"c": (None, 3)})
    drawing = Drawing(900, 330, "Channels with one number live and die together")
    middle, wide = 170, 34
    left = {"a": 90, "b": 270, "c": 520, "d": 740}
    for name, x in left.items():
        shape = getattr(net, name).weight.shape
        rows = max(shape[:2])
        top, height = middle - rows * CELL / 2, rows * CELL
        drawing.box(x - 8, top - 8, 2 * wide + 38, height + 16)
        drawing.text(x + wide + 11, top - 16, f"conv {name}", "strong")
        drawing.text(x + wide / 2, top + height + 24, "reads", "small")
        drawing.text(x + wide * 1.5 + 22, top + height + 24, "makes", "small")
        for axis, start in ((1, x), (0, x + wide + 22)):
            first = middle - shape[axis] * CELL / 2
            corners = [(start, first + channel * CELL) for channel in range(shape[axis])]
            _channels(drawing, analysis, plan, f"{name}.weight", axis, corners, wide)
    end = {name: x + 2 * wide + 30 for name, x in left.items()}
    start = {name: x - 8 for name, x in left.items()}
    drawing.text(38, middle + 5, "image")
    drawing.arrow((62, middle), (start["a"], middle))
    drawing.arrow((end["a"], middle), (start["b"], middle))
    drawing.arrow((end["b"], middle), (430, middle))
    drawing.arrow((220, middle), (220, 40), (444, 40), (444, middle - 14))
    drawing.text(330, 34, "shortcut", "small")
    drawing.box(430, middle - 14, 28, 28, ("+",))
    drawing.arrow((458, middle), (start["c"], middle))
    drawing.arrow((484, middle), (484, 40), (688, 40), (688, middle - 14))
    drawing.box(656, middle - 14, 64, 28, ("concat",))
    drawing.arrow((end["c"], middle), (656, middle))
    drawing.arrow((720, middle), (start["d"], middle))
    drawing.arrow((end["d"], middle), (880, middle))
    return str(drawing)


def _attention(drawing: Drawing, policy: str, sparsity: float, left: float) -> None:
    torch.manual_seed(0)
    analysis = graphprune.analyze(Attention().eval(), torch.randn(1, 5, 12), policy=policy)
    plan = analysis.plan(sparsity)
    wide, top = 64, 78
    for place, (name, axis) in enumerate({"q": 0, "k": 0, "v": 0, "o": 1}.items()):
        x = left + place * (wide + 28)
        drawing.text(x + wide / 2, top - 12, f"{name}: {('rows', 'columns')[axis]}", "strong")
        count = analysis.leaf_classes[f"{name}.weight", axis].size
        corners = [(x, top + channel * CELL + (channel // 3) * 10) for channel in range(count)]  # a gap between heads
        _channels(drawing, analysis, plan, f"{name}.weight", axis, corners, wide)


def heads() -> str:
    """What goes of an attention layer with grouped queries, by both policies."""
    drawing = Drawing(860, 400, "Whole heads, or as many positions of every head")
    for policy, sparsity, left, words in (
        ("heads", 0.4, 40, 'policy="heads": a key-value head goes with its query heads'),
        ("dims", 0.3, 460, 'policy="dims": every head gets narrower, by as much'),
    ):
        drawing.text(left, 34, words, "left")
        _attention(drawing, policy, sparsity, left)
    return str(drawing)


PICTURES: Mapping[str, Callable[[], str]] = {"pipeline": pipeline, "residual": residual, "heads": heads}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(), encoding="utf-8")
