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

    final = check_ending(Path(path))
    front = sweep.pareto(quantity) if sweep.finished else []
    if not front:
        raise OptionError("no point of the sweep is finished, so there is nothing to draw: print the table for why")
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(sweep.dense, color=report.INK, linewidth=0.9, linestyle=(0, (4, 3)), label="dense")
    lines = _lines(sweep, quantity)
    left, scores = _coordinates(front, quantity)
    left.append(max(left[-1], *(100 * point.left(quantity) for points in lines.values() for point in points)))
    scores.append(scores[-1])  # whoever may leave more can always do as well
    axes.plot(left, scores, color=report.GREY, linewidth=6, drawstyle="steps-post", label="front")
    for number, (name, points) in enumerate(lines.items()):
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


def check_ending(path: Path) -> Path:
    """The path itself. Raises `OptionError` for an ending that no picture is written with."""
    if path.suffix not in ENDINGS:
        raise OptionError(f"{path} must end in one of {', '.join(ENDINGS)}")
    return path


def _lines(sweep: "Sweep", quantity: str) -> "dict[str, list[SweepPoint]]":
    """The points of every set of options of which the quantity is known, by what is left."""
    found: dict[str, list[SweepPoint]] = {}
    known = [point for point in sweep.finished if quantity in point.costs]
    for point in sorted(known, key=lambda point: point.left(quantity)):
        found.setdefault(sweep.name(point), []).append(point)
    order = list(dict.fromkeys(map(sweep.name, sweep.points)))
    return {name: found[name] for name in order if name in found}


def _coordinates(points: "list[SweepPoint]", quantity: str) -> tuple[list[float], list[float]]:
    scores = [point.score for point in points if point.score is not None]
    return [100 * point.left(quantity) for point in points], scores
