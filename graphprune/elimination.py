"""The criterion "reconstruction": what it costs to do without a group when all that reads it is refitted.

For every weight that reads the groups of a layer, the error of its least-squares refit is known in closed form from the
products of its inputs (Hassibi and Stork, "Optimal Brain Surgeon", 1993; for channels: Frantar and Alistarh, "Optimal
Brain Compression", 2022). The groups of a layer are taken away one after the other, the cheapest first, so that of two
groups that can stand in for each other one stays. What the model's outputs make of it is then measured: some of the
refitted weights are tried on calibration data, layer by layer, and the relative error of the outputs scales the costs
of that layer. So costs of different layers are in one unit, and a budget can be spread over all layers by them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from .labels import Labels
from .statistics import Matrix, Products, Statistics
from .units import Units, build_units

if TYPE_CHECKING:
    from .analysis import Analysis

RIDGE = 1e-3
"""By how much the products of features are loaded, as a share of the mean feature's energy."""

POINTS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Shares of a layer's groups with which the outputs are tried."""

STEPS = 128
"""In how many steps a layer is emptied, at most; costs are known anew after each."""


SHRINK = 0.75
"""Share of a reader's channels that are left when those that went are taken out of its products."""


@dataclass
class _Reader:
    """One group of one weight that reads a layer: which unit each of its input channels belongs to.

    `inverse` and `weight` are those of the channels in `left`; what went is taken out of them now and then. The layer's
    own weights are `scale` times those that it starts with.
    """

    name: str
    group: int
    unit: Labels
    kernel: int
    inverse: Matrix
    weight: Matrix
    left: Labels
    scale: float

    def features(self, channels: Labels) -> Labels:
        """Where the features of sets of channels are, (sets, channels): (sets, channels x kernel)."""
        each = np.searchsorted(self.left, channels)[:, :, None] * self.kernel + np.arange(self.kernel)
        return np.asarray(each.reshape(len(channels), -1))

    def costs(self, channels: Labels) -> Matrix:
        """The squared error of doing without each of these sets of channels, (sets, channels), the rest refitted."""
        rows = self.features(channels)
        blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
        weights = self.weight[rows]
        return np.asarray((weights * np.linalg.solve(blocks, weights)).sum(axis=(1, 2)))

    def drop(self, channels: Labels) -> None:
        """Refit the rest without these channels, (channels,)."""
        rows = self.features(channels[None])[0]
        columns = self.inverse[:, rows]
        solved = np.linalg.solve(self.inverse[np.ix_(rows, rows)], np.hstack([self.weight[rows], columns.T]))
        width = self.weight.shape[1]
        self.weight -= columns @ solved[:, :width]
        self.inverse -= columns @ solved[:, width:]
        self.weight[rows] = 0
        self.inverse[rows] = 0
        self.inverse[:, rows] = 0
        self.inverse[rows, rows] = 1

    def shrink(self, gone: NDArray[np.bool_]) -> None:
        """Take out the channels that are gone, of all, once they are many: what is left costs less from then on."""
        stays = ~gone[self.left]
        if stays.sum() <= SHRINK * stays.size:
            rows = np.flatnonzero(np.repeat(stays, self.kernel))
            self.inverse, self.weight = self.inverse[np.ix_(rows, rows)], self.weight[rows]
            self.left = self.left[stays]

    def whole(self) -> Matrix:
        """The weights of all channels, zero where they are gone."""
        result = np.zeros((self.unit.size, self.kernel, self.weight.shape[1]))
        result[self.left] = self.weight.reshape(self.left.size, self.kernel, -1)
        return result.reshape(-1, self.weight.shape[1])


def elimination_scores(analysis: "Analysis", statistics: Statistics, free: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cost of every class when its turn comes, as relative error of the outputs; NaN where none is known."""
    key = free.tobytes()
    if key in statistics.costs:
        return statistics.costs[key]
    alone, known = np.zeros(analysis.solution.count), np.zeros(analysis.solution.count, dtype=bool)
    for reader in _readers(analysis, statistics, np.arange(free.size), np.flatnonzero(free)):
        np.add.at(alone, reader.unit, reader.costs(np.arange(reader.unit.size)[:, None]))
        known[reader.unit] = True
    usable = free & known
    scores = np.full(analysis.solution.count, np.nan)
    if not usable.any():
        return scores
    units = build_units(analysis, alone, usable)
    found = np.full(units.count, np.nan)
    families = np.unique(units.family[units.free])
    for number, family in enumerate(families):
        if statistics.progress is not None:
            statistics.progress("try channels", number, len(families))
        order, costs = _eliminated(analysis, statistics, units, family)
        found[order] = np.maximum.accumulate(costs)
    scores[usable] = found[units.of_class[usable]]
    statistics.costs[key] = scores
    return scores


def _reader(name: str, products: Products, group: int, unit: Labels) -> _Reader:
    channels, kernel, width = products.weight.shape[1:]
    second = products.second[group].copy()
    second[np.diag_indices_from(second)] += RIDGE * np.trace(second) / second.shape[0] + 1e-12
    weight = products.weight[group].reshape(channels * kernel, width).copy()
    scale = max(float(np.einsum("fc,fc->", weight, products.second[group] @ weight)), 1e-300) ** 0.5
    inverse = cho_solve(cho_factor(second, check_finite=False), np.eye(second.shape[0]), check_finite=False)
    return _Reader(name, group, unit, kernel, inverse, weight / scale, np.arange(channels), scale)


def _readers(analysis: "Analysis", statistics: Statistics, unit_of: Labels, members: Labels) -> Iterator[_Reader]:
    """What reads some units, group by group; `unit_of` maps classes to units."""
    for name, products in statistics.products.items():
        classes = analysis.leaf_classes.get((name, products.axis))
        if classes is None or not np.isin(unit_of[classes], members).any():
            continue
        own = unit_of[classes].reshape(products.weight.shape[0], -1)
        yield from (_reader(name, products, group, row) for group, row in enumerate(own))


def _eliminated(
    analysis: "Analysis", statistics: Statistics, units: Units, family: int
) -> tuple[Labels, NDArray[np.float64]]:
    """The units of a family in the order in which they go, and what each costs."""
    members = np.flatnonzero((units.family == family) & units.free)
    readers = list(_readers(analysis, statistics, units.of_class, members))
    place = np.full(units.count, -1)
    place[members] = np.arange(members.size)
    living = np.ones(members.size, dtype=bool)
    order: list[int] = []
    costs: list[float] = []
    points = {max(1, round(share * members.size)) for share in POINTS} if statistics.trial is not None else set()
    tried: dict[int, float] = {}
    while living.any():
        total = _costs(readers, place, living)
        step = min(max(1, members.size // STEPS), int(living.sum()))
        step = min([step, *(point - len(order) for point in points if point > len(order))])
        chosen = np.argsort(np.where(living, total, np.inf), kind="stable")[:step]
        for reader in readers:
            gone = np.flatnonzero(np.isin(reader.unit, members[chosen]))
            if gone.size and living.sum() > step:
                reader.drop(gone)
        living[chosen] = False
        for reader in readers:
            where = place[reader.unit]
            reader.shrink((where >= 0) & ~living[where])
        order += chosen.tolist()
        costs += total[chosen].tolist()
        if len(order) in points and living.any():
            tried[len(order)] = _tried(readers, statistics)
    return members[order], _scaled(np.maximum.accumulate(costs), tried)


def _costs(readers: list[_Reader], place: Labels, living: NDArray[np.bool_]) -> Matrix:
    """What each living unit costs now: all channels of a unit go together."""
    total = np.zeros(living.size)
    for reader in readers:
        where = place[reader.unit]
        channels = np.flatnonzero((where >= 0) & living[where])
        channels = channels[np.argsort(where[channels], kind="stable")]
        units, first, counts = np.unique(where[channels], return_index=True, return_counts=True)
        for count in np.unique(counts):
            alike = counts == count
            sets = channels[first[alike][:, None] + np.arange(count)]
            total[units[alike]] += np.maximum(reader.costs(sets), 0.0)
    return total


def _tried(readers: list[_Reader], statistics: Statistics) -> float:
    """The relative error of the outputs with the weights of all readers as they are fitted now."""
    replaced: dict[str, Matrix] = {}
    for reader in readers:
        products = statistics.products[reader.name]
        groups, _, _, width = products.weight.shape
        whole = replaced.setdefault(reader.name, products.weight.reshape(groups, -1, width).copy())
        whole[reader.group] = reader.whole() * reader.scale
    assert statistics.trial is not None
    return statistics.trial(replaced)


def _scaled(costs: NDArray[np.float64], tried: dict[int, float]) -> NDArray[np.float64]:
    """Costs whose sums up to the points that were tried are what came out there; between them the shape is kept."""
    if not tried:
        return costs
    numbers = np.array(sorted(tried))
    measured = np.maximum.accumulate(np.array([tried[number] for number in numbers]))
    sums = np.cumsum(costs)
    known = np.concatenate([[0.0], sums[numbers - 1]])
    known = np.maximum.accumulate(known + np.arange(known.size) * 1e-300)
    level = np.concatenate([[0.0], measured])
    total = np.interp(sums, known, level)
    beyond = np.arange(costs.size) >= numbers[-1]
    slope = level[-1] / max(known[-1], 1e-300)
    total[beyond] = level[-1] + (sums[beyond] - known[-1]) * slope
    return np.asarray(np.maximum(np.diff(total, prepend=0.0), 1e-12))
