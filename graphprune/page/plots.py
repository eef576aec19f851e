"""The drawings of a report as image files, each as PNG and SVG."""

from pathlib import Path
from typing import Any

from .. import report
from ..files import atomic_path
from .contents import Contents
from .curves import SHOWN
from .layers import Layer, Pair
from .view import LANE, STEP, Drawing, drawing

ENDINGS = (".png", ".svg")
STATUS = {"free": report.BLUE, "inexact": "#c9961a", "locked": "#b4483f"}
"""Of a width on the coupling map -> its colour."""


def draw_all(contents: Contents, folder: Path) -> list[Path]:
    """Write every drawing that the contents have figures for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    weighty = [layer for layer in contents.layers if layer.weighty]
    found = []
    for ending in ENDINGS:
        found += _bars(contents.widths, folder / f"widths{ending}", "Output channels of every layer", "")
        for quantity, title in (("params", "Parameters of every layer"), ("macs", "Multiply-adds of every layer")):
            found += _bars(_costs(weighty, quantity), folder / f"{quantity}{ending}", title, quantity)
        if contents.times is not None:
            nanoseconds = [
                (name, Pair(*(round(1e9 * one) for one in pair))) for name, pair in contents.times.seconds.items()
            ]
            found += _bars(nanoseconds, folder / f"latency{ending}", "Latency", "measured", ("dense", "slim"))
        if contents.map.links:
            found.append(_coupling(drawing(contents), folder / f"coupling{ending}"))
        if contents.sweep is not None and contents.sweep.finished:
            points = contents.sweep.finished
            known = [name for name in SHOWN if all(name in point.costs for point in points)]
            found += [contents.sweep.plot(folder / f"sweep-{name}{ending}", name) for name in known]
    return found


def _costs(layers: list[Layer], quantity: str) -> list[tuple[str, Pair]]:
    return [(layer.name, getattr(layer, quantity)) for layer in layers]


def _bars(
    pairs: list[tuple[str, Pair]],
    path: Path,
    title: str,
    quantity: str,
    names: tuple[str, str] = ("before", "after"),
) -> list[Path]:
    """Bars of one figure per layer or program; nothing where there is none."""
    if not pairs:
        return []
    written = report.QUANTITIES[quantity][1] if quantity else "{:,}".format
    return [report.picture([report.Width(name, *pair) for name, pair in pairs], path, title, written, names)]


def _coupling(drawn: Drawing, path: Path) -> Path:
    """The coupling map: the same coordinates as on the page."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(drawn.width / 100 + 0.3, drawn.height / 100 + 0.3))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-STEP / 2, drawn.width)
    axes.set_ylim(drawn.height, 0)
    axes.set_axis_off()
    for rail in drawn.rails:
        left, colour = rail.height * rail.kept, STATUS[rail.status]
        axes.barh(rail.y + rail.height / 2, rail.width, rail.height, rail.x, color=colour, alpha=0.3, linewidth=0)
        axes.barh(rail.y + rail.height - left / 2, rail.width, left, rail.x, color=colour, linewidth=0)
    for wire in drawn.wires:
        axes.plot([wire.x] * 2, [wire.top, wire.bottom], color=report.INK, linewidth=1)
        axes.plot([wire.x] * len(wire.dots), wire.dots, "o", color=report.INK, markersize=4)
        for y, way in wire.heads:
            shape, fill = {0: ("o", "white"), 1: ("v", report.INK), -1: ("^", report.INK)}[way]
            axes.plot([wire.x], [y - LANE / 15 * way], shape, color=report.INK, markerfacecolor=fill, markersize=5)
        text: dict[str, Any] = {"rotation": 48, "ha": "left", "va": "bottom", "rotation_mode": "anchor"}
        axes.text(wire.x, drawn.top - 4, wire.text, fontsize=7, color=report.INK, parse_math=False, **text)
    for rail in drawn.rails:
        axes.text(rail.x + 13, rail.text_y, rail.text, fontsize=7, color=report.INK)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    return path
