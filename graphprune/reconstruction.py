"""Least squares on what a layer sees: second moments of its inputs and targets, and weights that fit them.

Framework-neutral: features are (groups, rows, features), targets (groups, rows, channels), float32 or float64.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from .errors import DataError

Numbers = NDArray[np.floating]
Matrix = NDArray[np.float64]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""How much weights are held where they were, as shares of the mean feature's energy; the checked error chooses."""


METHODS = ("least_squares", "bias", "batch_norm")
"""Ways to recover: weights and biases refitted layer by layer; biases alone; batch-norm statistics estimated anew."""


class Refit(NamedTuple):
    """What became of one layer: its error on samples that it was not fitted on, relative to the targets' variance.

    For layers that are left as they are there are no errors, and `note` says why.
    """

    name: str
    before: float | None
    after: float | None
    note: str = ""


class Recovery(NamedTuple):
    """What a recovery came to: the squared error of the outputs relative to their energy, before and after."""

    method: str
    samples: int
    before: float
    after: float
    layers: list[Refit]

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return self._asdict() | {"layers": [layer._asdict() for layer in self.layers]}


@dataclass
class Moments:
    """Sums over rows: enough to know the squared error of any weights."""

    rows: int
    x: Matrix
    y: Matrix
    xx: Matrix
    xy: Matrix
    yy: Matrix

    @classmethod
    def zero(cls, groups: int, features: int, channels: int) -> "Moments":
        """Nothing seen yet."""
        shapes = (groups, features), (groups, channels), (groups, features, features), (groups, features, channels)
        x, y, xx, xy = (np.zeros(shape) for shape in shapes)
        return cls(0, x, y, xx, xy, np.zeros((groups, channels)))

    def add(self, features: Numbers, targets: Numbers) -> None:
        """Take rows into account."""
        turned = features.transpose(0, 2, 1)
        self.rows += features.shape[1]
        self.x += features.sum(axis=1, dtype=np.float64)
        self.y += targets.sum(axis=1, dtype=np.float64)
        self.xx += turned @ features
        self.xy += turned @ targets
        self.yy += np.square(targets, dtype=np.float64).sum(axis=1)

    def centred(self, with_bias: bool) -> "Moments":
        """The moments about the means, where a bias takes care of these; per row."""
        n = max(self.rows, 1)
        if not with_bias:
            return Moments(1, self.x * 0, self.y * 0, self.xx / n, self.xy / n, self.yy / n)
        x, y = self.x / n, self.y / n
        xx = self.xx / n - x[:, :, None] * x[:, None, :]
        xy = self.xy / n - x[:, :, None] * y[:, None, :]
        return Moments(1, x, y, xx, xy, self.yy / n - y * y)

    def errors(self, weight: Matrix, bias: Matrix) -> Matrix:
        """The mean squared error of every channel, (groups, channels), for weights (groups, features, channels)."""
        n = max(self.rows, 1)
        quadratic = np.einsum("gfc,gfc->gc", weight, self.xx @ weight - 2 * self.xy)
        linear = 2 * bias * (np.einsum("gfc,gf->gc", weight, self.x) - self.y)
        return np.asarray(np.maximum((quadratic + self.yy + linear) / n + bias * bias, 0.0))


@dataclass(frozen=True)
class Fit:
    """Weights (groups, features, channels), biases (groups, channels), and checked errors relative to the targets."""

    weight: Matrix
    bias: Matrix
    before: float
    after: float

    @property
    def better(self) -> bool:
        """Whether it is worth writing."""
        return self.after < self.before


def fit(seen: Moments, checked: Moments, weight: Matrix, bias: Matrix, with_bias: bool, solve: bool = True) -> Fit:
    """The weights that fit best among least-squares solutions that stay more or less near those given.

    `seen` makes the solutions, `checked` (other samples) chooses among them, channel by channel, so that no channel
    gets worse than it was on what is checked. Without `solve` only the bias moves (bias compensation).
    """
    if not seen.rows or not checked.rows:
        raise DataError("no rows to fit weights on")
    about = seen.centred(with_bias)
    scale = np.maximum(checked.centred(True).yy, 1e-12 * max(float(checked.centred(True).yy.max(initial=0)), 1e-30))
    best_weight, best_bias = weight.copy(), bias.copy()
    first = best = checked.errors(weight, bias)
    for candidate in _candidates(about, weight, solve):
        offset = about.y - np.einsum("gfc,gf->gc", candidate, about.x) if with_bias else bias
        found = checked.errors(candidate, offset)
        wins = found < best
        best = np.where(wins, found, best)
        best_weight = np.where(wins[:, None, :], candidate, best_weight)
        best_bias = np.where(wins, offset, best_bias)
    return Fit(best_weight, best_bias, float((first / scale).mean()), float((best / scale).mean()))


def _candidates(about: Moments, weight: Matrix, solve: bool) -> "list[Matrix]":
    found = [weight]
    if not solve:
        return found
    energy = np.einsum("gff->gf", about.xx).mean(axis=1)
    for ridge in RIDGES:
        solved = np.empty_like(weight)
        for group, (xx, xy, start) in enumerate(zip(about.xx, about.xy, weight, strict=True)):
            hold = ridge * energy[group] + 1e-12
            matrix = xx.copy()
            matrix[np.diag_indices_from(matrix)] += hold
            try:
                solved[group] = cho_solve(cho_factor(matrix, check_finite=False), xy + hold * start, check_finite=False)
            except np.linalg.LinAlgError:
                solved[group] = start
        found.append(solved)
    return found
