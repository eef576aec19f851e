"""Latencies for a report: what `graphprune bench` measured, now or into a file."""

import json
import os
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..errors import FileFormatError, OptionError
from .layers import Pair

if TYPE_CHECKING:
    from ..bench import Bench

NAMES = {"artifact": "GraphPrune"}
"""Programs that are called something else on the page."""


class Times(NamedTuple):
    """Median seconds by program, (dense, slim), ours first; the costs of both models; where they were measured.

    `difference` is how far the results of our code are from those of the others, relative to the largest number.
    """

    seconds: dict[str, tuple[float, float]]
    params: Pair
    macs: Pair
    target: str
    threads: int
    difference: float


def times_of(bench: "Bench | Mapping[str, Any] | str | os.PathLike[str]") -> Times:
    """The latencies of a `Bench`, of its figures, or of the file that `graphprune bench --json` printed.

    Raises `FileFormatError` where they are missing or damaged.
    """
    place, found = "bench=", cast(Any, bench)
    if isinstance(bench, (str, os.PathLike)):
        place = os.fspath(bench)
        try:
            found = json.loads(Path(bench).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{place} cannot be read as JSON: {error}") from error
    elif hasattr(bench, "figures"):
        found = bench.figures()
    try:
        dense, slim = found["seconds"]["dense"], found["seconds"]["slim"]
        seconds = {NAMES.get(name, name): (float(dense[name]), float(slim[name])) for name in dense}
        if not seconds or not all(0 < one < inf for pair in seconds.values() for one in pair):
            raise ValueError("its seconds are no times")
        return Times(
            seconds,
            Pair(*map(int, found["params"])),
            Pair(*map(int, found["macs"])),
            str(found["target"]),
            int(found["threads"]),
            max(map(float, found["difference"].values())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FileFormatError(
            f"{place} holds no latencies of a dense and a slim model ({type(error).__name__}: {error}): give what "
            "graphprune bench MODEL --json printed"
        ) from error


def check_same(what: str, found: Mapping[str, Pair], costs: Mapping[str, Pair], slim: bool) -> None:
    """Raise `OptionError` where figures belong to another model than the page: their costs differ.

    Those of the pruned model are compared, too, where `slim` says so.
    """
    for name, pair in found.items():
        for which, other, own in zip(("dense", "slim"), pair, costs[name], strict=True):
            if other != own and (slim or which == "dense"):
                raise OptionError(
                    f"{what} is of another model: its {which} one has {other:,} {name}, that of this report {own:,}. "
                    "Measure this model, with the same example inputs"
                )
