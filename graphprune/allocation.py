"""Allocation: which granules go so that every budget is met, none is exceeded, and nothing more could have stayed.

A granule is what goes at once: a bundle of units of one family. Granules are ordered, least important first, and
dropped from the front until all budgets are met; then those that still fit are taken back, the most important first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .cost import CostModel, Counts
from .labels import Labels
from .units import Units

Mask = NDArray[np.bool_]

CLOSE = 0.99
"""Share of the tightest budget that should be used; below it, granules are exchanged for others."""

STEPS = 48
"""In how many steps granules are ordered by importance per cost: after each of them costs are counted anew."""

_EXCHANGES = 4

SLACK = 0.005
"""The share of a budget that may stay unused where layers are to lose the same share."""

LOSS = 0.005
"""The share of the importance that an exchange may cost at most."""


class Granules(NamedTuple):
    """Units in the order in which they are dropped; granule i is `units[ends[i]:ends[i + 1]]`.

    `importance` is that of one unit of each granule; within a family it never falls. The first `forced` ones go anyway.
    `even` tells that layers are to lose the same share, so that little is taken back out of turn.
    """

    units: Labels
    ends: Labels
    importance: NDArray[np.float64]
    forced: int = 0
    even: bool = False

    @property
    def total(self) -> int:
        """How many granules there are."""
        return self.ends.size - 1

    def members(self, number: int) -> Labels:
        """The units of one granule."""
        return self.units[self.ends[number] : self.ends[number + 1]]

    def reordered(self, order: Labels) -> "Granules":
        """The same granules in another order."""
        units = [self.members(number) for number in order]
        ends = np.cumsum([0, *(own.size for own in units)])
        flat = np.concatenate(units) if units else self.units
        return Granules(flat, ends, self.importance[order], self.forced, self.even)


class Bounds(NamedTuple):
    """The fewest and the most units of every family that may stay."""

    least: Labels
    most: Labels


def granules(units: Units, protected: Mask, multiples: Labels, pools: Labels | None, bounds: Bounds) -> Granules:
    """Bundles of units, least important first; within a family the order of the scores is kept.

    Where channel counts are to be multiples, the first bundle of a family brings it to a multiple and every
    further one takes a whole multiple. With `pools`, the pool of every family, each pool loses the same share of its
    units at any time; without, all bundles compete. What exceeds a family's upper bound comes first.
    """
    size = np.bincount(units.family, minlength=multiples.size)
    index = np.flatnonzero(units.free & ~protected)
    index = index[np.lexsort((units.score[index], units.family[index]))]
    edges = np.flatnonzero(np.diff(units.family[index], prepend=-1, append=-1))
    starts, lengths, scores, families, due = [], [], [], [], []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        family = units.family[index[start]]
        width, multiple_of = int(size[family]), int(multiples[family])
        first = width % multiple_of or multiple_of
        usable = min(int(stop - start), width - max(1, int(bounds.least[family])))
        count = (usable - first) // multiple_of + 1 if usable >= first else 0
        if count:
            own = np.full(count, multiple_of)
            own[0] = first
            gone = np.cumsum(own) - own
            means = np.add.reduceat(units.score[index[start : start + own.sum()]], gone) / own
            starts.append(start + gone)
            lengths.append(own)
            scores.append(np.maximum.accumulate(means))
            families.append(np.full(count, family))
            due.append(width - gone > bounds.most[family])
    if not starts:
        return Granules(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64), np.zeros(0))
    start_of, length_of, score, forced = map(np.concatenate, (starts, lengths, scores, due))
    key = score if pools is None else _shares(score, length_of, pools[np.concatenate(families)], pools, size)
    order = np.lexsort((key, ~forced))
    ends = np.cumsum(np.append(0, length_of[order]))
    flat = index[np.repeat(start_of[order] - ends[:-1], length_of[order]) + np.arange(ends[-1])]
    return Granules(flat, ends, score[order], int(forced.sum()), pools is not None)


def _shares(score: Any, length: Labels, pool: Labels, pools: Labels, size: Labels) -> NDArray[np.float64]:
    """Which share of its pool's units goes before each granule, the least important of the pool first."""
    order = np.lexsort((score, pool))
    before = np.cumsum(length[order]) - length[order]
    first = np.flatnonzero(np.diff(pool[order], prepend=-1))
    before -= np.repeat(before[first], np.diff(np.append(first, order.size)))
    key = np.zeros(order.size)
    key[order] = before / np.bincount(pools, weights=size)[pool[order]]
    return key


@dataclass(frozen=True)
class Account:
    """Costs and limits as functions of which units are alive."""

    model: CostModel
    units: Units
    limits: Mapping[str, int]

    @cached_property
    def incidence(self) -> "csr_array[Any, tuple[int, int]]":
        """How many positions of every array a unit has: (arrays, units)."""
        columns = self.units.of_class[self.model.positions]
        shape = (self.model.starts.size - 1, self.units.count)
        return csr_array((np.ones(columns.size), (self.model.rows, columns)), shape=shape)

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """The positions of every array that one unit of a family has: (families, arrays)."""
        number = np.bincount(self.units.family)
        member = csr_array(
            (1 / number[self.units.family], (self.units.family, np.arange(self.units.count))),
            shape=(number.size, self.units.count),
        )
        return np.asarray((member @ self.incidence.T).toarray())

    def counts(self, alive: Mask) -> Counts:
        """Living positions of every array."""
        return np.asarray(np.rint(self.incidence @ alive), dtype=np.int64)

    def fits(self, alive: Mask) -> bool:
        """Whether all budgets are met."""
        counts = self.counts(alive)
        return all(self.model.total(quantity, counts) <= limit for quantity, limit in self.limits.items())

    def used(self, alive: Mask) -> float:
        """The share of its limit that the quantity closest to its limit comes to."""
        counts = self.counts(alive)
        return max(self.model.total(quantity, counts) / max(limit, 1) for quantity, limit in self.limits.items())

    def importance(self, alive: Mask) -> float:
        """The sum of the scores of what is left."""
        return float(self.units.score[alive].sum())

    def excess(self, counts: Any) -> NDArray[np.float64]:
        """What is above the limit, added up over all loads: shape (quantities,) or (cases, quantities)."""
        over = [
            np.maximum(self.model.loads[name](counts) - limit, 0).sum(axis=-1) for name, limit in self.limits.items()
        ]
        return np.stack(over, axis=-1)


def by_cost(account: Account, order: Granules) -> Granules:
    """The granules in the order of importance per cost, that which gains the most for the least first.

    The cost of a granule is what it takes away from the excess over the budgets. Of several budgets each counts by how
    much of its excess is left: the one that is the furthest off the most, those that are met not at all. Costs are
    products of widths: they are counted anew after every step.
    """
    counts = account.counts(np.ones(account.units.count, dtype=bool)).astype(np.float64)
    family = account.units.family[order.units[order.ends[:-1]]]
    length = np.diff(order.ends)
    left = np.arange(order.forced, order.total)
    done = [np.arange(order.forced)]
    for number in done[0]:
        counts -= account.share[family[number]] * length[number]
    first: NDArray[np.float64] | None = None
    while left.size and (excess := account.excess(counts)).any():
        first = np.where(excess > 0, excess, 1.0) if first is None else first
        step = np.ones(account.share.shape[0])
        np.maximum.at(step, family[left], length[left])  # a single unit may save nothing
        saved = np.maximum(excess - account.excess(counts - account.share * step[:, None]), 0) / step[:, None]
        price = (saved / first) @ (excess / first)
        with np.errstate(divide="ignore"):
            key = order.importance[left] / price[family[left]]
        if not np.isfinite(key).any():
            break
        ranked = np.argsort(key, kind="stable")
        # a step takes what should save its share of the excess at the start, in the quantity that is the furthest off
        gain = np.cumsum(saved[family[left[ranked]]] * length[left[ranked], None], axis=0) / first
        enough = int(np.searchsorted(gain[:, int(np.argmax(excess / first))], 1 / STEPS)) + 1
        taken = np.zeros(left.size, dtype=bool)
        taken[ranked[: min(enough, int(np.isfinite(key).sum()))]] = True
        counts -= np.bincount(family[left[taken]], length[left[taken]], account.share.shape[0]) @ account.share
        done.append(left[ranked][taken[ranked]])
        left = left[~taken]
    return order.reordered(np.concatenate([*done, left]))


def cut(account: Account, order: Granules) -> Mask | None:
    """Which units stay when granules go from the front of `order` until all budgets are met; None where they cannot be.

    Nothing that went, but what had to go anyway, could have stayed. Where granules are large and the tightest budget is
    not used by `CLOSE`, some are exchanged for others that fill it better and are about as important.
    """
    if not account.fits(alive_after(account, order, order.total)):
        return None
    low, high = order.forced, order.total
    while low < high:
        middle = (low + high) // 2
        if account.fits(alive_after(account, order, middle)):
            high = middle
        else:
            low = middle + 1
    alive = _refilled(account, alive_after(account, order, low), order)
    for _ in range(_EXCHANGES):
        used = account.used(alive)
        if used >= CLOSE or low == order.forced or order.even:
            break
        least = (1 - LOSS) * account.importance(alive)
        choices = (choice for choice in _exchanged(account, alive, order) if account.importance(choice) >= least)
        best = max(choices, key=account.used, default=alive)
        if account.used(best) <= used:
            break
        alive = best
    return alive


def alive_after(account: Account, order: Granules, number: int) -> Mask:
    """Which units are alive when so many granules went."""
    alive = np.ones(account.units.count, dtype=bool)
    alive[order.units[: order.ends[number]]] = False
    return alive


def _refilled(account: Account, alive: Mask, order: Granules, last: int = -1) -> Mask:
    """Take back what still fits, the most important first, and the family `last` after all others.

    A family gets its granules back in turn. What once did not fit will not fit later: costs only grow.
    """
    family = account.units.family[order.units[order.ends[:-1]]]
    gone = np.flatnonzero(~alive[order.units[order.ends[:-1]]])
    gone = gone[gone >= order.forced][::-1]
    full: set[int] = set()
    alive = alive.copy()
    for number in (*gone[family[gone] != last], *gone[family[gone] == last]):
        if order.even and account.used(alive) >= 1 - SLACK:
            break
        if family[number] in full:
            continue
        members = order.members(number)
        alive[members] = True
        if not account.fits(alive):
            alive[members] = False
            full.add(int(family[number]))
    return alive


def _exchanged(account: Account, alive: Mask, order: Granules) -> Iterator[Mask]:
    """For every family: one more of its granules goes, and others are taken back."""
    family = account.units.family[order.units[order.ends[:-1]]]
    there = np.flatnonzero(alive[order.units[order.ends[:-1]]])
    for number in there[np.unique(family[there], return_index=True)[1]]:
        fewer = alive.copy()
        fewer[order.members(number)] = False
        yield _refilled(account, fewer, order, int(family[number]))
