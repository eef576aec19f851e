"""The picture of a sweep: score against what is left of a quantity, one line per set of options, and the front."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import report
from .errors import OptionError
from .files import atomic_path

if TYPE_CHECKING:
    from .sweep_results import Sweep, SweepPoint

ENDINGS = (".png", ".svg", ".pdf")
COLOURS = ("#2f6fb2", "#d1702a", "#3d8f5f", "#8a5fb0", "#b23b52", "#6b6f76", "#b08a1e", "#2a9aa5")
"""Of the lines, in the order of the grid; told apart by their marks too."""
MARKS = "osD^vPX*"


def draw(sweep: "Sweep", path: "str | os.PathLike[str]", quantity: str, title: str) -> Path:
    """Write the picture; see `Sweep.plot`."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    final = Path(path)
    if final.suffix not in ENDINGS:
        raise OptionError(f"{final} must end in one of {', '.join(ENDINGS)}")
    front = sweep.pareto(quantity)
    if not front:
        raise OptionError("no point of the sweep is finished, so there is nothing to draw: print the table for why")
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(sweep.dense, color=report.INK, linewidth=0.9, linestyle=(0, (4, 3)), label="dense")
    axes.plot(*_coordinates(front, quantity), color=report.GREY, linewidth=6, drawstyle="steps-post", label="front")
    for number, (name, points) in enumerate(_lines(sweep, quantity).items()):
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        axes.plot(*_coordinates(points, quantity), color=colour, marker=mark, linewidth=1.4, markersize=5, label=name)
    axes.set_xlabel(f"{report.QUANTITIES[quantity][0]} left, %", color=report.INK)
    axes.set_ylabel(f"score ({sweep.better} is better)", color=report.INK)
    axes.set_title(title, fontsize=11, color=report.INK, loc="left")
    axes.grid(color=report.GREY, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=report.INK)
    axes.legend(fontsize=9, frameon=False)
    for side in axes.spines.values():
        side.set_visible(False)
    with atomic_path(final) as temporary:
        figure.savefig(temporary, format=final.suffix[1:], dpi=150)
    return final


def _lines(sweep: "Sweep", quantity: str) -> "dict[str, list[SweepPoint]]":
    """The finished points of every set of options, by what is left."""
    found: dict[str, list[SweepPoint]] = {}
    for point in sorted(sweep.finished, key=lambda point: point.left(quantity)):
        found.setdefault(sweep.name(point), []).append(point)
    order = list(dict.fromkeys(map(sweep.name, sweep.points)))
    return {name: found[name] for name in order if name in found}


def _coordinates(points: "list[SweepPoint]", quantity: str) -> tuple[list[float], list[float]]:
    scores = [point.score for point in points if point.score is not None]
    return [100 * point.left(quantity) for point in points], scores
