"""Choose the rows of calibration data that a layer is fitted on, and those that its new weights are checked on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .reconstruction import Matrix, Moments, Numbers

ROWS = 40
"""Rows of calibration data per feature that a fit looks at, at most; beyond, they are chosen at random."""

WIDEST = 6144
"""Features of a layer above which weights are left alone, and only biases move: moments would not fit into memory."""

HELD = 5
"""Every so many samples one is held out: it chooses among fits, and tells whether they are better."""

Indices = NDArray[np.int64]


class Rows(Protocol):
    """One batch at one layer: `positions` rows, as many of each of its `samples`.

    `features` and `targets` give some of the rows, each (groups, rows, ...): what the layer sees, and what it should
    give.
    """

    @property
    def positions(self) -> int:
        """How many rows there are."""
        ...

    @property
    def samples(self) -> int:
        """How many samples they come from."""
        ...

    def features(self, rows: Indices) -> Numbers:
        """(groups, rows, features)."""
        ...

    def targets(self, rows: Indices) -> Numbers:
        """(groups, rows, channels)."""
        ...


@dataclass(frozen=True)
class Residuals:
    """Rows without features, whose targets are what some weights leave over: all that a bias has to know."""

    of: Rows
    weight: Matrix

    @property
    def positions(self) -> int:
        """How many rows there are."""
        return self.of.positions

    @property
    def samples(self) -> int:
        """How many samples they come from."""
        return self.of.samples

    def features(self, rows: Indices) -> Numbers:
        """(groups, rows, 0)."""
        return np.zeros((len(self.weight), rows.size, 0))

    def targets(self, rows: Indices) -> Numbers:
        """(groups, rows, channels)."""
        return np.asarray(self.of.targets(rows) - self.of.features(rows) @ self.weight)


def moments_of(batches: Sequence[Rows], shape: tuple[int, ...]) -> tuple[Moments, Moments]:
    """Moments to fit weights of a shape (groups, features, channels) on, and those of other samples to check them on.

    Every fifth sample is held out; where there are fewer than five, every fifth row.
    """
    groups, features, channels = shape
    seen, checked = (Moments.zero(groups, features, channels) for _ in range(2))
    random = np.random.default_rng(0)
    share = max(ROWS * features, 8192) // len(batches) + 1
    many, first = sum(batch.samples for batch in batches) >= HELD, 0
    for batch in batches:
        rows = chosen(batch.positions, share, random)
        index = first + rows // max(batch.positions // batch.samples, 1) if many else rows
        held = index % HELD == HELD - 1
        for moments, part in ((seen, rows[~held]), (checked, rows[held])):
            if part.size:
                moments.add(batch.features(part), batch.targets(part))
        first += batch.samples
    return seen, checked


def chosen(total: int, share: int, random: np.random.Generator) -> Indices:
    """As many of `total` positions as wanted, all of them where they are fewer."""
    return random.permutation(total)[:share] if total > share else np.arange(total)
