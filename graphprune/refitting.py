"""Fit a layer to rows of calibration data: which rows it is fitted on, and which its new weights are checked on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .reconstruction import Fit, Matrix, Moments, Numbers, fit

ROWS = 40
"""Rows of calibration data per feature that a fit looks at, at most; beyond, they are chosen at random."""

WIDEST = 6144
"""Features of a layer above which weights are left alone, and only biases move: moments would not fit into memory."""

HELD = 5
"""Every so many samples one is held out: it chooses among fits, and tells whether they are better."""

TOO_FEW = f"fewer than {HELD} rows of calibration data reach it"
"""Why a layer is left alone where there is nothing to fit it on, or to check it on."""

Indices = NDArray[np.int64]


def too_wide(features: int) -> str:
    """Why the moments of so many features are not there."""
    return f"reads {features:,} features, and what belongs to more than {WIDEST:,} would not fit into memory"


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
class Alone:
    """The same rows, every channel a group of its own whose one feature is what some weights give.

    That is all that a bias has to know, however many features there are.
    """

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
        """(groups x channels, rows, 1)."""
        features = self.of.features(rows)
        return _apart(features @ self.weight.astype(features.dtype))  # a wide layer's would not fit in float64

    def targets(self, rows: Indices) -> Numbers:
        """(groups x channels, rows, 1)."""
        return _apart(self.of.targets(rows))


def _apart(rows: Numbers) -> Numbers:
    return np.asarray(rows.transpose(0, 2, 1).reshape(-1, rows.shape[1], 1), dtype=np.float64)


def fit_rows(batches: Sequence[Rows], weight: Matrix, bias: Matrix, with_bias: bool, solve: bool) -> Fit | None:
    """Fit weights (groups, features, channels) and biases (groups, channels) to rows; None where these are too few.

    Without `solve` only the bias moves, and no products of features are made.
    """
    if solve:
        seen, checked = moments_of(batches, weight.shape)
        return fit(seen, checked, weight, bias, with_bias) if seen.rows and checked.rows else None
    once = np.ones((bias.size, 1, 1))
    seen, checked = moments_of([Alone(batch, weight) for batch in batches], once.shape)
    if not seen.rows or not checked.rows:
        return None
    found = fit(seen, checked, once, bias.reshape(-1, 1), with_bias, solve=False)
    return replace(found, weight=weight, bias=found.bias.reshape(bias.shape))


def moments_of(batches: Sequence[Rows], shape: tuple[int, ...]) -> tuple[Moments, Moments]:
    """Moments to fit weights of a shape (groups, features, channels) on, and those of other samples to check them on.

    Every fifth sample is held out; where there are fewer than five, every fifth row.
    """
    groups, features, channels = shape
    seen, checked = (Moments.zero(groups, features, channels) for _ in range(2))
    random = np.random.default_rng(0)
    share = max(ROWS * features, 8192) // max(len(batches), 1) + 1
    many, first = sum(batch.samples for batch in batches) >= HELD, 0
    for batch in batches:
        rows = chosen(batch.positions, share, random)
        index = first + (rows // max(batch.positions // batch.samples, 1) if many else rows)
        held = index % HELD == HELD - 1
        for moments, part in ((seen, rows[~held]), (checked, rows[held])):
            if part.size:
                moments.add(batch.features(part), batch.targets(part))
        first += batch.samples if many else batch.positions
    return seen, checked


def chosen(total: int, share: int, random: np.random.Generator) -> Indices:
    """As many of `total` positions as wanted, all of them where they are fewer."""
    return random.permutation(total)[:share] if total > share else np.arange(total)
