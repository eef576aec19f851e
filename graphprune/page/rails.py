"""Where the coupling map draws what: widths as rails in lanes, layers as links between them, as the program runs.

A width is a horizontal line from the first layer that touches it to the last one; lines that do not overlap share a
lane. A layer is a vertical line from the widths that it reads to those that it writes. No two layers share a column, so
that nothing crosses unseen, however many there are (Longabaugh, "Combing the hairball with BioFabric", 2012).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Rail(NamedTuple):
    """One width: its key, its lane, and the first and the last column that it spans."""

    key: int
    lane: int
    first: int
    last: int


class Link(NamedTuple):
    """One layer: its index among all layers, its column, and the lanes of the widths that it reads and writes."""

    layer: int
    column: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]


class Map(NamedTuple):
    """The whole drawing: `lanes` and `columns` count rows and columns."""

    rails: tuple[Rail, ...]
    links: tuple[Link, ...]
    lanes: int
    columns: int


def lay_out(layers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Map:
    """Place layers, given as the keys of the widths that each reads and writes; those with neither are left out.

    ```python
    from graphprune.page.rails import lay_out

    drawn = lay_out([((), (1,)), ((1,), (2,)), ((2,), (1,))])  # a stem and one residual block
    print([(rail.key, rail.lane, rail.first, rail.last) for rail in drawn.rails])  # [(1, 0, 0, 2), (2, 1, 1, 2)]
    ```
    """
    shown = [(index, reads, writes) for index, (reads, writes) in enumerate(layers) if reads or writes]
    spans: dict[int, list[int]] = {}
    for column, (_, reads, writes) in enumerate(shown):
        for key in (*reads, *writes):
            spans.setdefault(key, [column, column])[1] = column
    lane_of = _lanes(spans)
    rails = tuple(Rail(key, lane_of[key], *span) for key, span in spans.items())
    links = tuple(
        Link(index, column, tuple(lane_of[key] for key in reads), tuple(lane_of[key] for key in writes))
        for column, (index, reads, writes) in enumerate(shown)
    )
    return Map(rails, links, max(lane_of.values(), default=-1) + 1, len(shown))


def _lanes(spans: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """The first lane that is free over the whole span, for long spans first: streams lie on top, blocks under them."""
    taken: list[list[Sequence[int]]] = []
    found = {}
    for key, (first, last) in sorted(spans.items(), key=lambda item: (item[1][0] - item[1][1], item[1][0])):
        lane = 0
        while lane < len(taken) and any(first <= other[1] and other[0] <= last for other in taken[lane]):
            lane += 1
        if lane == len(taken):
            taken.append([])
        taken[lane].append((first, last))
        found[key] = lane
    return found
