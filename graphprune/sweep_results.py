"""What came out of a sweep: its points, the front, the best for a budget, as a table and as a picture."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import journal, report
from .errors import BudgetError, FileFormatError, OptionError
from .grid import key_of, varying

FORMAT = "graphprune-sweep-1"

Costs = Mapping[str, tuple[int, int]]
"""Quantity -> (before, after); what they are called is in `graphprune.report.QUANTITIES`."""


@dataclass(frozen=True)
class SweepPoint:
    """One set of options, and what came of it.

    `score` and `costs` are those of the pruned model; `error` says in which stage ("prune", "score" or "measure") it
    failed, and why. `record` is the whole line of the file.
    """

    options: Mapping[str, Any]
    score: float | None
    costs: Costs
    error: Mapping[str, Any] | None
    record: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "SweepPoint":
        """A point from its line."""
        costs = {quantity: (before, after) for quantity, (before, after) in record.get("costs", {}).items()}
        return cls(record["options"], record.get("score"), costs, record.get("error"), record)

    @property
    def reason(self) -> str:
        """Why it failed, in a line; empty where it did not."""
        return f"{self.error['type']}: {self.error['message']}".splitlines()[0] if self.error else ""

    def left(self, quantity: str) -> float:
        """The share of a quantity that is left, 1.0 for all. Raises `OptionError` where it is not known."""
        if quantity not in self.costs:
            known = ", ".join(self.costs) or "nothing: it failed"
            hint = ": give measure= to the sweep" if quantity == "measured" else ""
            raise OptionError(f"{quantity!r} is not known of this point{hint}; known is {known}")
        before, after = self.costs[quantity]
        return after / before if before else 1.0


@dataclass(frozen=True)
class Sweep:
    """The results of `graphprune.sweep`: `dense` is the score of the model as it was given.

    `points` are in the order of the grid; `better` is "higher" or "lower", which scores are good.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    x = torch.randn(64, 4)
    wanted = net(x).detach()

    def closeness(slim):
        return -float((slim(x) - wanted).square().mean())

    graphprune.sweep(net, sparsities=(0.25, 0.5), score=closeness, example_inputs=x, out="sweep.jsonl")
    found = graphprune.Sweep.load("sweep.jsonl")
    print(found)  # a table
    print(found.best(params=0.8).options)  # the best score with at most 80 % of the parameters left
    print([point.score for point in found.pareto("params")])
    found.plot("sweep.svg")
    ```
    """

    dense: float
    points: tuple[SweepPoint, ...]
    better: str = "higher"
    header: Mapping[str, Any] | None = None

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Sweep":
        """Read a file of results, also one of a sweep that is not finished. Raises `FileFormatError` for others."""
        header, records = parsed(journal.read(path), path)
        return cls.of(header, list(records.values()))

    @classmethod
    def of(cls, header: Mapping[str, Any], records: "list[Mapping[str, Any]]") -> "Sweep":
        """Results from the lines of a file."""
        return cls(header["score"], tuple(map(SweepPoint.of, records)), header["better"], header)

    @property
    def finished(self) -> list[SweepPoint]:
        """The points that have a score and all costs."""
        return [point for point in self.points if point.error is None]

    @property
    def failed(self) -> list[SweepPoint]:
        """The points that have none, with their errors."""
        return [point for point in self.points if point.error is not None]

    def worth(self, score: float) -> float:
        """A score such that more is better."""
        return score if self.better == "higher" else -score

    @property
    def quantity(self) -> str:
        """What is counted unless another quantity is named: params, or nonzero where no parameter goes."""
        gone = any(point.left("params") < 1 for point in self.finished)
        return "params" if gone or "nonzero" not in self.quantities else "nonzero"

    def pareto(self, quantity: str | None = None) -> list[SweepPoint]:
        """The points that no other one beats, by leaving no more of the quantity with a better score, or less with as
        good a one.

        In the order of what is left, so that scores rise along the list (fall, where lower is better). Points of which
        the quantity is not known stand aside; raises `OptionError` where these are all.
        """
        name, front = quantity or self.quantity, list[SweepPoint]()
        for point in sorted(self._known(name), key=lambda point: (point.left(name), -self._worth(point))):
            if not front or self._worth(point) > self._worth(front[-1]):
                front.append(point)
        return front

    def best(self, **limits: float) -> SweepPoint:
        """The point with the best score among those that leave at most these shares: `best(params=0.5, memory=0.8)`.

        Of equal ones, the one that leaves the least. Raises `BudgetError` where no point does, `OptionError` for
        unknown quantities.
        """
        known = self._known(*limits)
        within = [point for point in known if all(point.left(name) <= share for name, share in limits.items())]
        if not within:
            asked = " and ".join(f"{share:.0%} of the {name}" for name, share in limits.items()) or "anything"
            raise BudgetError(f"no point of the sweep leaves at most {asked}: add sparsities, or allow more")
        return max(within, key=lambda point: (self._worth(point), *(-point.left(name) for name in limits)))

    def smallest(self, quantity: str | None = None, drop: float = 0.0) -> SweepPoint:
        """The point that leaves the least of a quantity and scores at most `drop` worse than the dense model.

        Raises `BudgetError` where every point is worse than that.
        """
        name, least = quantity or self.quantity, self.worth(self.dense) - drop
        good = [point for point in self._known(name) if self._worth(point) >= least]
        if not good:
            raise BudgetError(
                f"no point of the sweep is within {drop:g} of the dense score {self.dense:.4g}: add smaller "
                "sparsities, recover=, or train after pruning in the score function"
            )
        return min(good, key=lambda point: (point.left(name), -self._worth(point)))

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict per point, for `pandas.DataFrame` or `csv.DictWriter`: options, score, costs, `error`."""
        return [
            {
                **point.options,
                "score": point.score,
                **{quantity: after for quantity, (_, after) in point.costs.items()},
                "error": point.error and point.error["message"],
            }
            for point in self.points
        ]

    def table(self, quantity: str | None = None) -> Table:
        """What a person reads; a star marks the front of `quantity`."""
        quantity = quantity or self.quantity
        front, quantities = self.pareto(quantity) if self.finished else [], self.quantities
        rows = [["dense", "", self._written(self.dense), *["100.0 %"] * len(quantities)]]
        for point in self.finished:
            left = [report.percent(point.left(name)) if name in point.costs else "" for name in quantities]
            star = " *" * (point in front)
            rows.append([self.name(point) + star, _sparsity(point), self._written(point.score), *left])
        caption = f"shares that are left; * no other point is better and leaves less of {quantity}"
        lines = [f"{self.name(point)} {_sparsity(point)}: {point.reason}" for point in self.failed]
        return report.table("", ["", "sparsity", "score", *quantities], rows, "\n".join([caption, *lines]))

    def __str__(self) -> str:
        console = Console(width=120, no_color=True)
        with console.capture() as drawn:
            console.print(self.table())
        return drawn.get()

    @property
    def quantities(self) -> list[str]:
        """The quantities that are known of a point."""
        return list(dict.fromkeys(name for point in self.finished for name in point.costs if name in report.QUANTITIES))

    def name(self, point: SweepPoint) -> str:
        """What tells a point from others, apart from its sparsity."""
        names = varying([point.options for point in self.points])
        return ", ".join(_word(name, point.options.get(name)) for name in names) or "pruned"

    def plot(self, path: "str | os.PathLike[str]", quantity: str | None = None, title: str = "") -> Path:
        """Draw score against what is left of a quantity into an image (.png, .svg, .pdf); the front is the grey line.

        Raises `OptionError` for other endings, and where no point is finished.
        """
        from .sweep_plot import draw

        return draw(self, path, quantity or self.quantity, title)

    def _known(self, *quantities: str) -> list[SweepPoint]:
        """The finished points of which quantities are known; raises `OptionError` where there are none of them."""
        found = [point for point in self.finished if all(name in point.costs for name in quantities)]
        for point in self.finished if not found else ():
            for name in quantities:
                point.left(name)
        return found

    def _worth(self, point: SweepPoint) -> float:
        assert point.score is not None
        return self.worth(point.score)

    def _written(self, score: float | None) -> str:
        return "" if score is None else f"{score:.4g}"


def parsed(
    lines: "list[dict[str, Any]]", path: "str | os.PathLike[str]"
) -> "tuple[dict[str, Any], dict[str, dict[str, Any]]]":
    """The header of a file and its points by `key_of` their options; of equal ones the last line counts.

    Raises `FileFormatError` for another format.
    """
    if not lines or lines[0].get("format") != FORMAT:
        raise FileFormatError(f"{os.fspath(path)} is no file of results of graphprune.sweep ({FORMAT})")
    odd = [line for line in lines[1:] if not isinstance(line.get("options"), dict)]
    if odd or not {"model", "score", "better"} <= lines[0].keys():
        raise FileFormatError(f"{os.fspath(path)} lacks parts of {FORMAT}: it was changed or is damaged")
    return lines[0], {key_of(line["options"]): line for line in lines[1:]}


def _sparsity(point: SweepPoint) -> str:
    value = point.options.get("sparsity")
    return "" if value is None else f"{value:g}"


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return name if value else f"no {name}"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "+".join(map(str, value)) or f"no {name}"
    return f"{name}={value}"
