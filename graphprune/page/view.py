"""From contents to what the template shows: lengths of bars, coordinates of the coupling map, texts for figures."""

from collections.abc import Mapping, Sequence
from math import log2
from typing import Any, NamedTuple

from .. import report
from . import curves, rails
from .blocks import Block
from .contents import Contents, Group
from .layers import Layer, Pair

STEP, LANE, LEFT = 36, 60, 26
"""Of the coupling map, in pixels: from one layer to the next, from one lane to the next, the margin."""

LETTER = 5.2
"""By how much a letter of a layer's name, which leans over, makes the coupling map higher."""

NAMED = 26
"""Characters of a layer's name that the coupling map has room for."""


class Bar(NamedTuple):
    """A bar: how long it is of the longest one, how much of it stays, and its figures as text."""

    length: float
    share: float
    before: str
    after: str
    value: int


class Card(NamedTuple):
    """One figure at the head of the page; `share` is what is left, None where nothing was before."""

    label: str
    figure: str
    share: float | None = None
    before: str = ""
    note: str = ""


class Row(NamedTuple):
    """The times of one program."""

    name: str
    lengths: tuple[float, float]
    texts: tuple[str, str]
    ratio: str


class Rail(NamedTuple):
    """A width on the map: a strip of which the share `kept` is filled, and how many groups it has at `text_y`."""

    group: int
    status: str
    x: float
    y: float
    width: float
    height: float
    kept: float
    text: str
    text_y: float
    tip: str


class Wire(NamedTuple):
    """A layer on the map: a vertical line, dots where it reads, arrowheads where it writes."""

    layer: int
    x: float
    top: float
    bottom: float
    dots: tuple[float, ...]
    heads: tuple[tuple[float, int], ...]
    text: str
    tip: str


class Drawing(NamedTuple):
    """The coupling map in pixels."""

    width: float
    height: float
    top: float
    rails: list[Rail]
    wires: list[Wire]


NAMES = {"params": "Parameters", "macs": "Multiply-adds", "bytes": "Size of weights", "memory": "Peak of activations"}
"""Quantity -> what its card is called."""


def shown(contents: Contents) -> dict[str, Any]:
    """What the template is filled with beside the contents themselves."""
    charts = [] if contents.sweep is None else curves.charts(contents.sweep)
    rows = {status: 0 for status in ("free", "inexact", "locked")}
    for group in contents.groups.values():
        rows[group.row.status] += 1
    lengths = bars(dict(enumerate(pair for _, pair in contents.widths)), "")
    return {
        "cards": cards(contents),
        "sections": _sections(contents, bool(charts)),
        "times": [] if contents.times is None else times(contents.times.seconds),
        "charts": charts,
        "size": (curves.WIDTH, curves.HEIGHT, curves.LEFT, curves.WIDTH - curves.RIGHT),
        "widths": [(name, lengths[place]) for place, (name, _) in enumerate(contents.widths)],
        "block_bars": _costs_of(contents.blocks),
        "layer_bars": _costs_of(contents.layers),
        "map": drawing(contents),
        "totals": {"": len(contents.groups)} | rows,
        "counted": counted,
    }


def cards(contents: Contents) -> list[Card]:
    """The figures at the head: every cost, the latency where it was measured, the error that verification saw."""
    found = []
    for quantity, name in NAMES.items():
        pair, written = contents.costs[quantity], report.QUANTITIES[quantity][1]
        share = (pair.after / pair.before if pair.before else 1.0) if contents.pruned else None
        name = "Parameters, not zero" if quantity == "params" and contents.masked else name
        found.append(Card(name, written(pair.after), share, written(pair.before)))
    if contents.times is not None:
        dense, slim = next(iter(contents.times.seconds.values()))
        found.append(Card("Latency, compiled", report.duration(slim), slim / dense, report.duration(dense)))
    if contents.status.seen is not None:
        seen = contents.status.seen
        note = f"{seen.precision.tolerance:.0e} allowed, {seen.precision.name}, {seen.runs} run" + "s" * (seen.runs > 1)
        found.append(Card("Error of pruning", f"{seen.error:.0e}" if seen.error else "0", note=note))
    return found


def times(seconds: Mapping[str, tuple[float, float]]) -> list[Row]:
    """Bars of all programs on one scale."""
    longest = max(max(pair) for pair in seconds.values())
    return [
        Row(
            name,
            (dense / longest, slim / longest),
            (report.duration(dense), report.duration(slim)),
            f"{dense / slim:.2f} ×",
        )
        for name, (dense, slim) in seconds.items()
    ]


def _sections(contents: Contents, charts: bool) -> list[tuple[str, str]]:
    """(anchor, text) of the sections that are there."""
    all_of_them = (
        ("latency", "Latency", contents.times is not None),
        ("sweep", "Accuracy", charts),
        ("widths", "Widths", bool(contents.widths)),
        ("costs", "Costs", True),
        ("map", "Coupling", bool(contents.map.links)),
        ("groups", "Groups and locks", True),
        ("details", "Details", True),
    )
    return [(anchor, text) for anchor, text, there in all_of_them if there]


def _costs_of(parts: Sequence[Layer | Block]) -> dict[str, dict[int, Bar]]:
    return {
        quantity: bars({place: getattr(part, quantity) for place, part in enumerate(parts)}, quantity)
        for quantity in ("params", "macs")
    }


def bars(pairs: Mapping[Any, Pair], kind: str) -> dict[Any, Bar]:
    """Bars on one scale; `kind` is a quantity of `graphprune.report`, or "" for plain numbers."""
    longest = max((pair.before for pair in pairs.values()), default=0) or 1
    written = report.QUANTITIES[kind][1] if kind else "{:,}".format
    return {
        key: Bar(
            pair.before / longest,
            pair.after / pair.before if pair.before else 1.0,
            written(pair.before),
            written(pair.after),
            pair.after,
        )
        for key, pair in pairs.items()
    }


def drawing(contents: Contents) -> Drawing:
    """Coordinates of the coupling map."""
    layout, pruned = contents.map, contents.pruned
    layers = [contents.layers[link.layer] for link in layout.links]
    top = 22 + LETTER * max((len(shortened(layer.name)) for layer in layers), default=0)
    strips = [_rail(rail, contents.groups[rail.key], top, pruned) for rail in layout.rails]
    wires = [_wire(link, layer, top, pruned) for link, layer in zip(layout.links, layers, strict=True)]
    width = _x(max(layout.columns - 1, 0)) + 120  # the name of the last layer leans over
    return Drawing(width, _y(max(layout.lanes - 1, 0), top) + 34, top, strips, wires)


def counted(group: Group, pruned: bool) -> str:
    """How many groups there are, and are left: `64 → 37`."""
    return (
        f"{group.row.count:,} → {group.kept:,}" if pruned and group.kept != group.row.count else f"{group.row.count:,}"
    )


def shortened(name: str, length: int = NAMED) -> str:
    """The end of a name, which tells layers apart."""
    return name if len(name) <= length else "…" + name[1 - length :]


def _x(column: int) -> float:
    return LEFT + column * STEP


def _y(lane: int, top: float) -> float:
    return top + 40 + lane * LANE


def _rail(rail: rails.Rail, group: Group, top: float, pruned: bool) -> Rail:
    height = 5 + 1.5 * log2(1 + group.row.count)
    x, y = _x(rail.first) - 8, _y(rail.lane, top) - height / 2
    kept = group.kept / group.row.count if group.row.count else 1.0
    beside = y - 5 if rail.lane == 0 else y + height + 12  # where no line comes from
    text, tip, width = counted(group, pruned), _tip_of_group(group, pruned), _x(rail.last) + 8 - x
    return Rail(rail.key, group.row.status, x, y, width, height, kept, text, beside, tip)


def _wire(link: rails.Link, layer: Layer, top: float, pruned: bool) -> Wire:
    reads, writes = [_y(lane, top) for lane in link.reads], [_y(lane, top) for lane in link.writes]
    source = sum(reads) / len(reads) if reads else top  # what reads no channels takes the input of the model
    heads = tuple((y, 0 if y in reads else 1 if y > source else -1) for y in writes)
    ends = reads + writes if reads else [top, *writes]
    text, tip = shortened(layer.name), _tip_of_layer(layer, pruned)
    return Wire(link.layer, _x(link.column), min(ends), max(ends), tuple(reads), heads, text, tip)


def _tip_of_group(group: Group, pruned: bool) -> str:
    row = group.row
    lines = [f"{row.count:,} groups" + (f", {group.kept:,} stay" if pruned else "") + f" ({row.status})"]
    lines.append(f"each {report.count(row.params)} parameters, {report.count(row.macs)} MACs")
    lines += [row.reason] if row.reason else []
    more = len(row.members) - 4
    return "\n".join([*lines, *row.members[:4], *([f"and {more} more"] if more > 0 else [])])


def _tip_of_layer(layer: Layer, pruned: bool) -> str:
    def both(pair: Pair, text: Any) -> str:
        return f"{text(pair.before)} → {text(pair.after)}" if pruned else str(text(pair.before))

    lines = [f"{layer.name} ({layer.op})"]
    lines += [f"{both(layer.width, str)} outputs"] if layer.width else []
    return "\n".join(
        [*lines, f"{both(layer.params, report.count)} parameters", f"{both(layer.macs, report.count)} MACs"]
    )
