"""Charts of a sweep: score against what is left, as coordinates of an SVG."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .. import report

if TYPE_CHECKING:
    from ..sweep_results import Sweep, SweepPoint

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 26, 14, 44
SHOWN = ("params", "macs", "nonzero", "measured", "memory")
"""Quantities that get a chart, where points of the sweep differ in them."""


class Dot(NamedTuple):
    """A point of a curve, and what it says when it is pointed at."""

    x: float
    y: float
    tip: str


class Curve(NamedTuple):
    """The points of one set of options."""

    name: str
    dots: list[Dot]


class Chart(NamedTuple):
    """One chart; ticks are (place, text), `dense` is the height of the model as it was given."""

    quantity: str
    label: str
    xticks: list[tuple[float, str]]
    yticks: list[tuple[float, str]]
    dense: float
    front: list[Dot]
    curves: list[Curve]


def charts(sweep: "Sweep") -> list[Chart]:
    """A chart for every quantity that points differ in; none where no point is finished."""
    found = []
    for quantity in SHOWN:
        points = [point for point in sweep.finished if quantity in point.costs]
        if len({point.left(quantity) for point in points}) > 1 or quantity == "params" and points:
            found.append(_chart(sweep, points, quantity))
    return found


def _chart(sweep: "Sweep", points: "Sequence[SweepPoint]", quantity: str) -> Chart:
    xs = [100 * point.left(quantity) for point in points]
    ys = [point.score for point in points if point.score is not None]
    xticks, yticks = _ticks(min(xs), max(*xs, 100.0)), _ticks(min([*ys, sweep.dense]), max([*ys, sweep.dense]))

    def place(value: float, ticks: Sequence[float], start: float, end: float) -> float:
        return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)

    def across(value: float) -> float:
        return place(value, xticks, LEFT, WIDTH - RIGHT)

    def up(value: float) -> float:
        return place(value, yticks, HEIGHT - BOTTOM, TOP)

    def dots(chosen: "Sequence[SweepPoint]") -> list[Dot]:
        ordered = sorted(chosen, key=lambda point: point.left(quantity))
        return [
            Dot(across(100 * point.left(quantity)), up(point.score), _tip(sweep, point))
            for point in ordered
            if point.score is not None
        ]

    names = dict.fromkeys(map(sweep.name, points))
    return Chart(
        quantity,
        f"{report.QUANTITIES[quantity][0]} left",
        [(across(tick), f"{tick:g} %") for tick in xticks],
        [(up(tick), f"{tick:.6g}") for tick in yticks],
        up(sweep.dense),
        dots(sweep.pareto(quantity)) if len(points) == len(sweep.finished) else [],
        [Curve(name, dots([point for point in points if sweep.name(point) == name])) for name in names],
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that reach from below the lowest to above the highest."""
    from matplotlib.ticker import MaxNLocator

    if low == high:
        low, high = low - abs(low or 1) / 10, high + abs(high or 1) / 10
    ticks = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [round(float(tick), 10) for tick in ticks]


def _tip(sweep: "Sweep", point: "SweepPoint") -> str:
    sparsity = point.options.get("sparsity")
    lines = [sweep.name(point) + ("" if sparsity is None else f", sparsity {sparsity:g}"), f"score {point.score:.4g}"]
    for quantity, (before, after) in point.costs.items():
        if quantity in report.QUANTITIES:
            name, written = report.QUANTITIES[quantity]
            lines.append(f"{name} {written(after)} ({report.change(before, after)})")
    return "\n".join(lines)
