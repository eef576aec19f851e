"""What a person reads: numbers with units, tables before and after, the picture of channels. Knows no framework."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from .files import atomic_path

GREY, BLUE, INK = "#d9dee5", "#2f6fb2", "#333a44"


class Width(NamedTuple):
    """The number of channels of one layer before and after pruning."""

    name: str
    before: int
    after: int


def count(number: int) -> str:
    """`11689512` -> `'11.69 M'`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return str(number)


def size(number: int) -> str:
    """Bytes for people: `46830571` -> `'46.83 MB'`."""
    for unit, letter in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:.2f} {letter}"
    return f"{number} B"


def duration(seconds: float) -> str:
    """`0.00123` -> `'1.23 ms'`."""
    for unit, letter in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.2f} {letter}"
    return f"{seconds * 1e6:.0f} µs"


def change(before: float, after: float) -> str:
    """How much is left: `change(200, 90)` -> `'45.0 %'`."""
    return f"{100 * after / before:.1f} %" if before else "-"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Table:
    """A table whose first column is left-aligned text and whose others are right-aligned figures."""
    drawn = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table for a Markdown page."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(share: float) -> str:
    """`0.0123` -> `'1.2 %'`."""
    return f"{100 * share:.1f} %"


def _nanoseconds(number: int) -> str:
    return duration(number / 1e9)


QUANTITIES: dict[str, tuple[str, Callable[[int], str]]] = {
    "params": ("parameters", count),
    "macs": ("MACs", count),
    "bytes": ("size", size),
    "memory": ("peak memory of activations", size),
    "latency": ("latency, predicted", _nanoseconds),
    "measured": ("latency, measured", _nanoseconds),
    "nonzero": ("parameters that are not zero", count),
    "weights": ("weights of pruned layers", count),
}
"""Quantity -> what people call it, and how they read it."""


def costs(facts: Mapping[str, Any]) -> dict[str, list[int]]:
    """[before, after] of every quantity that a report holds."""
    return {name: list(facts[name]) for name in QUANTITIES if isinstance(facts.get(name), Sequence)}


def facts(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the report of a program says, as plain data."""
    verified, recovery = found.get("verification"), found.get("recovery")
    plain = {"note": found.get("note"), "verification": None if verified is None else asdict(verified)}
    return costs(found) | plain | ({} if recovery is None else {"recovery": recovery.as_json()})


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What follows the table, line by line."""
    verified, note = found.get("verification"), found.get("note")
    lines = [str(verified) if verified else "zeros are where the masks say; the weights that stay were updated"]
    if recovery := found.get("recovery"):
        lines.append(f"error on calibration data: {recovery.before:.3g} before recovery, {recovery.after:.3g} after")
    return [*lines, f"note: {note}"] if note else lines


def optimized(facts: Mapping[str, Any]) -> Table:
    """The table that follows an optimisation, from a report that holds [before, after] of every quantity."""
    rows = []
    for quantity, (before, after) in costs(facts).items():
        name, written = QUANTITIES[quantity]
        rows.append([name, written(before), written(after), change(before, after)])
    return table("", ["", "before", "after", "left"], rows)


def targets(rows: Sequence[Any]) -> Table:
    """What can be compiled for, and what this machine lacks to run it or to build for it."""
    drawn = Table(title="targets", title_justify="left")
    for column in ("target", "for", "vectors", "channels", "runs here", "builds here"):
        drawn.add_column(column, overflow="fold")
    for row in rows:
        runs = "yes" if row.runs else "emulated" if row.emulator else f"no: lacks {row.missing_to_run}"
        builds = "yes" if row.builds else f"no: {row.missing_to_build}"
        drawn.add_row(row.name, row.purpose, row.vectors, f"x {row.alignment}", runs, builds)
    return drawn


def timed(figures: Mapping[str, Any]) -> Table:
    """The time of an artifact's calls."""
    seconds = figures["seconds"]
    row = [figures["target"], figures["machine"], *(duration(seconds[name]) for name in ("median", "least", "largest"))]
    return table("", ["target", "machine", "median", "least", "largest"], [row])


def tuning(figures: Mapping[str, int]) -> str:
    """How far the measurements of candidates got, in a line."""
    found = f"tuned {figures['changed']} of {figures['kernels']} distinct kernels"
    if figures["measured"] == figures["candidates"]:
        return f"{found}; all {figures['candidates']} candidates are measured"
    return f"{found}; {figures['measured']} of {figures['candidates']} candidates are measured, run again to go on"


def picture(
    widths: Sequence[Width],
    path: "str | os.PathLike[str]",
    title: str,
    written: Callable[[int], str] = str,
    names: tuple[str, str] = ("before", "after"),
) -> Path:
    """Draw the channels of every layer before and after as horizontal bars, into an image file (PNG, SVG, PDF).

    Other figures than channels, too: `written` is how they are read, `names` what the two bars are called.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(8, 1.3 + 0.34 * len(widths)), layout="constrained")
    axes = figure.subplots()
    places = range(len(widths))
    axes.barh(places, [width.before for width in widths], height=0.72, color=GREY, label=names[0])
    axes.barh(places, [width.after for width in widths], height=0.72, color=BLUE, label=names[1])
    for place, width in zip(places, widths, strict=True):
        axes.annotate(
            written(width.before) + (f" → {written(width.after)}" if width.after != width.before else ""),
            (width.before, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    # names are no formulas, whatever is in them
    axes.set_yticks(places, [width.name for width in widths], fontsize=9, color=INK, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max((width.before for width in widths), default=1))
    axes.set_xticks([])  # every bar carries its number
    axes.margins(y=0.02)
    axes.set_title(title, fontsize=11, color=INK, loc="left", parse_math=False)
    axes.legend(fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    axes.tick_params(length=0, colors=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    final = Path(path)
    with atomic_path(final) as temporary:
        figure.savefig(temporary, format=final.suffix[1:] or "png", dpi=150)
    return final
