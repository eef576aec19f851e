"""Criteria: functions that score the positions of one axis of one stored tensor; small scores go first.

A criterion takes a `TensorAxis` and returns one score per position, or None where it has nothing to say of this
tensor. What a group's members got is reduced to one score, and scores are normalised within a layer so that layers can
be compared (`REDUCTIONS`, `NORMALIZERS`). To add a criterion: one function, one line in `CRITERIA`, one test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from .errors import CriterionError
from .statistics import GRADIENTS, INPUTS, KINDS, PRODUCTS, InputMoments, Statistics

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class TensorAxis:
    """One axis of one stored tensor, as a criterion sees it.

    `role` is what the tensor is to the operation that reads it: "weight", "bias", "scale", "mean", "variance"
    or "". `rows` is the number of blocks that are sliced separately (groups of a convolution); it is 1 otherwise.
    `statistics` are those of the calibration data, as far as the criterion asked for them.
    """

    name: str
    role: str
    axis: int
    shape: tuple[int, ...]
    rows: int
    load: Callable[[], NDArray[Any]]
    random: np.random.Generator
    statistics: Statistics | None = None

    @property
    def weight(self) -> NDArray[Any]:
        """The numbers, in the shape of the tensor."""
        return self.load()

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape of the scores: (size,) or (rows, size)."""
        return (self.rows, self.shape[self.axis]) if self.rows > 1 else (self.shape[self.axis],)

    @property
    def gradient(self) -> NDArray[np.float64] | None:
        """The mean gradient of the loss, in the shape of the tensor; None where no gradient reaches it."""
        return self._seen.gradients.get(self.name)

    @property
    def squared_gradient(self) -> NDArray[np.float64] | None:
        """The mean squared gradient of the loss of a sample, in the shape of the tensor; see `Statistics`."""
        return self._seen.squares.get(self.name)

    @property
    def inputs(self) -> InputMoments | None:
        """What flows into the weight, by the positions of this axis; None where this is not the axis of its inputs."""
        found = self._seen.inputs.get(self.name)
        return found.shaped(self.positions) if found is not None and found.axis == self.axis else None

    @property
    def _seen(self) -> Statistics:
        if self.statistics is None:
            raise CriterionError("this criterion looks at data: pass data=, an iterable of batches")
        return self.statistics

    def sum_over_slices(self, values: NDArray[Any]) -> Scores:
        """Add up values of the tensor's shape over all elements of each slice."""
        if self.rows > 1:
            values = values.reshape(self.rows, self.shape[0] // self.rows, *self.shape[1:])
        kept = (0, self.axis + 1) if self.rows > 1 else (self.axis,)
        others = tuple(axis for axis in range(values.ndim) if axis not in kept)
        return np.asarray(values.sum(axis=others), dtype=np.float64)

    def slices(self) -> NDArray[np.float64]:
        """All slices as rows of numbers: (rows, size, elements)."""
        values = self.weight.reshape(self.rows, self.shape[0] // self.rows, *self.shape[1:])
        first = np.moveaxis(values, self.axis + 1, 1)
        return first.reshape(*first.shape[:2], -1).astype(np.float64)


Score = Callable[[TensorAxis], "Scores | None"]


def _is_weight(tensor: TensorAxis) -> bool:
    return len(tensor.shape) > 1 and tensor.role in ("weight", "")


def l1(tensor: TensorAxis) -> Scores | None:
    """Sum of absolute weights of the slice: Li et al., "Pruning Filters for Efficient ConvNets", 2017."""
    return tensor.sum_over_slices(np.abs(tensor.weight)) if _is_weight(tensor) else None


def l2(tensor: TensorAxis) -> Scores | None:
    """Euclidean norm of the slice: He et al., "Soft Filter Pruning", 2018."""
    return np.sqrt(tensor.sum_over_slices(np.square(tensor.weight))) if _is_weight(tensor) else None


def linf(tensor: TensorAxis) -> Scores | None:
    """The largest absolute weight of the slice, the limit of the norms of Li et al., 2017."""
    return np.abs(tensor.slices()).max(axis=2).reshape(tensor.positions) if _is_weight(tensor) else None


def bn_scale(tensor: TensorAxis) -> Scores | None:
    """Absolute scale of the normalisation: Liu et al., "Network Slimming", 2017. Other groups are left alone."""
    return np.abs(tensor.weight).astype(np.float64) if tensor.role == "scale" else None


def fpgm(tensor: TensorAxis) -> Scores | None:
    """Sum of distances to the other slices, so that what others can stand in for goes first.

    He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", 2019.
    """
    if not _is_weight(tensor):
        return None
    distances = [cdist(rows, rows).sum(axis=1) for rows in tensor.slices()]
    return np.stack(distances).reshape(tensor.positions)


def lamp(tensor: TensorAxis) -> Scores | None:
    """Energy of the slice as a share of what is left of its layer once all smaller slices are gone.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021. Comparable between layers as it is.
    """
    if not _is_weight(tensor):
        return None
    energy = tensor.sum_over_slices(np.square(tensor.weight, dtype=np.float64)).ravel()
    order = np.argsort(energy, kind="stable")
    left = np.cumsum(energy[order][::-1])[::-1]
    scores = np.empty_like(energy)
    scores[order] = energy[order] / np.maximum(left, 1e-300)
    return scores.reshape(tensor.positions)


def taylor(tensor: TensorAxis) -> Scores | None:
    """By how much the loss changes to first order when the slice becomes zero: |sum of gradient x weight|.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019.
    """
    if not _is_weight(tensor) or tensor.gradient is None:
        return None
    return np.abs(tensor.sum_over_slices(tensor.gradient * tensor.weight))


def fisher(tensor: TensorAxis) -> Scores | None:
    """Half the sum of squared gradient x squared weight: the diagonal of Optimal Brain Damage with the Fisher matrix.

    LeCun et al., "Optimal Brain Damage", 1990; Theis et al., "Faster gaze prediction with dense networks and Fisher
    pruning", 2018.
    """
    if not _is_weight(tensor) or tensor.squared_gradient is None:
        return None
    return tensor.sum_over_slices(tensor.squared_gradient * np.square(tensor.weight, dtype=np.float64)) / 2


def activation_mean(tensor: TensorAxis) -> Scores | None:
    """Mean absolute activation of the channel, where a weight reads it.

    Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017.
    """
    return tensor.inputs.magnitude if tensor.inputs is not None else None


def activation_variance(tensor: TensorAxis) -> Scores | None:
    """Variance of the channel's activation: a constant channel is as good as a bias.

    Polyak and Wolf, "Channel-level Acceleration of Deep Face Representations", 2015.
    """
    return tensor.inputs.variance if tensor.inputs is not None else None


def apoz(tensor: TensorAxis) -> Scores | None:
    """How often the channel's activation is not zero (one minus the average percentage of zeros).

    Hu et al., "Network Trimming", 2016. For activations that are exactly zero at times, such as ReLU.
    """
    return 1 - tensor.inputs.zeros if tensor.inputs is not None else None


def wanda(tensor: TensorAxis) -> Scores | None:
    """Sum of absolute weights times the norm of the activation that they read.

    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023, added up over channels.
    """
    if not _is_weight(tensor) or tensor.inputs is None:
        return None
    return tensor.sum_over_slices(np.abs(tensor.weight)) * np.sqrt(tensor.inputs.square)


def random(tensor: TensorAxis) -> Scores | None:
    """Uniform noise: the baseline that a criterion has to beat. Needs no weights; seeded."""
    return tensor.random.random(tensor.positions)


def reconstruction(tensor: TensorAxis) -> Scores | None:
    """How much worse the outputs become when the group goes and what reads it is refitted.

    Hassibi and Stork, "Optimal Brain Surgeon", 1993, for groups; see `graphprune.elimination`. Scored for all groups
    of a layer together: this function has nothing to say of one tensor alone.
    """
    return None


@dataclass(frozen=True)
class Criterion:
    """A score function with what belongs to it.

    `needs` names what of calibration data it reads (`graphprune.statistics.KINDS`), `reduction` how the scores of a
    group's members become one (`REDUCTIONS`), `normalizer` how scores of different layers are made comparable
    (`NORMALIZERS`), `allocate` whether groups go in the order of their scores ("score") or of scores per cost
    ("per_cost").
    """

    score: Score
    needs: tuple[str, ...] = ()
    reduction: str = "mean"
    normalizer: str = "mean"
    allocate: str = "score"


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(l1),
    "l2": Criterion(l2),
    "linf": Criterion(linf),
    "bn_scale": Criterion(bn_scale),
    "fpgm": Criterion(fpgm),
    "lamp": Criterion(lamp, normalizer="none"),
    "taylor": Criterion(taylor, needs=(GRADIENTS,)),
    "fisher": Criterion(fisher, needs=(GRADIENTS,)),
    "activation_mean": Criterion(activation_mean, needs=(INPUTS,)),
    "activation_variance": Criterion(activation_variance, needs=(INPUTS,)),
    "apoz": Criterion(apoz, needs=(INPUTS,)),
    "wanda": Criterion(wanda, needs=(INPUTS,)),
    "reconstruction": Criterion(reconstruction, needs=(PRODUCTS,), normalizer="none", allocate="per_cost"),
    "random": Criterion(random),
}


def resolve(criterion: "str | Score | Criterion") -> Criterion:
    """A criterion by name, or what a callable or a `Criterion` of the user says. Raises `CriterionError`."""
    if isinstance(criterion, Criterion):
        unknown = set(criterion.needs) - set(KINDS)
        if unknown:
            raise CriterionError(f"a criterion needs {', '.join(sorted(unknown))}: choose of {', '.join(KINDS)}")
        return criterion
    if callable(criterion):
        return Criterion(criterion)
    if criterion not in CRITERIA:
        raise CriterionError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)} or pass a callable")
    return CRITERIA[criterion]


def _bincount_mean(where: NDArray[np.int64], values: Scores, total: int) -> Scores:
    with np.errstate(invalid="ignore"):
        return np.bincount(where, values, total) / np.bincount(where, minlength=total)


def _folded(function: np.ufunc) -> "Reduction":
    def reduce(where: NDArray[np.int64], values: Scores, total: int) -> Scores:
        result = np.full(total, function.identity if function.identity is not None else -np.inf, dtype=np.float64)
        function.at(result, where, values)
        result[np.bincount(where, minlength=total) == 0] = np.nan
        return result

    return reduce


Reduction = Callable[[NDArray[np.int64], Scores, int], Scores]

REDUCTIONS: dict[str, Reduction] = {
    "mean": _bincount_mean,
    "sum": _folded(np.add),
    "max": _folded(np.maximum),
    "product": _folded(np.multiply),
}
"""How the scores of a group's members become one: from members and their scores to one per group, NaN for none."""


def _per_family(statistic: Callable[[Scores, NDArray[np.int64], int], Scores]) -> "Normalizer":
    def normalise(score: Scores, family: NDArray[np.int64], number: int) -> Scores:
        divisor = statistic(score, family, number)
        return score / np.where(divisor > 0, divisor, 1.0)[family]

    return normalise


def _mean(score: Scores, family: NDArray[np.int64], number: int) -> Scores:
    return np.bincount(family, score, number) / np.maximum(np.bincount(family, minlength=number), 1)


def _max(score: Scores, family: NDArray[np.int64], number: int) -> Scores:
    largest = np.zeros(number)
    np.maximum.at(largest, family, score)
    return largest


def _sum(score: Scores, family: NDArray[np.int64], number: int) -> Scores:
    return np.asarray(np.bincount(family, score, number), dtype=np.float64)


def _norm(score: Scores, family: NDArray[np.int64], number: int) -> Scores:
    return np.sqrt(np.bincount(family, score**2, number))


Normalizer = Callable[[Scores, NDArray[np.int64], int], Scores]

NORMALIZERS: dict[str, Normalizer] = {
    "none": lambda score, family, number: score,
    "mean": _per_family(_mean),
    "max": _per_family(_max),
    "sum": _per_family(_sum),
    "l2": _per_family(_norm),
}
"""By what the scores of a layer's groups are divided, so that those of different layers can be compared."""
