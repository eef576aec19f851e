"""Criteria: functions that score the positions of one axis of one stored tensor; small scores go first.

A criterion takes a `TensorAxis` and returns one score per position, or None where it has nothing to say of this
tensor. The score of a group is the mean over its members that were scored. To add a criterion: one function,
one line in `CRITERIA`, one test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CriterionError

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class TensorAxis:
    """One axis of one stored tensor, as a criterion sees it.

    `role` is what the tensor is to the operation that reads it: "weight", "bias", "scale", "mean", "variance"
    or "". `rows` is the number of blocks that are sliced separately (groups of a convolution); it is 1 otherwise.
    """

    name: str
    role: str
    axis: int
    shape: tuple[int, ...]
    rows: int
    load: Callable[[], NDArray[Any]]
    random: np.random.Generator

    @property
    def weight(self) -> NDArray[Any]:
        """The numbers, in the shape of the tensor."""
        return self.load()

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape of the scores: (size,) or (rows, size)."""
        return (self.rows, self.shape[self.axis]) if self.rows > 1 else (self.shape[self.axis],)

    def sum_over_slices(self, values: NDArray[Any]) -> Scores:
        """Add up values of the tensor's shape over all elements of each slice."""
        if self.rows > 1:
            values = values.reshape(self.rows, self.shape[0] // self.rows, *self.shape[1:])
        kept = (0, self.axis + 1) if self.rows > 1 else (self.axis,)
        others = tuple(axis for axis in range(values.ndim) if axis not in kept)
        return np.asarray(values.sum(axis=others), dtype=np.float64)


Criterion = Callable[[TensorAxis], "Scores | None"]


def _is_weight(tensor: TensorAxis) -> bool:
    return len(tensor.shape) > 1 and tensor.role in ("weight", "")


def l1(tensor: TensorAxis) -> Scores | None:
    """Sum of absolute weights of the slice: Li et al., "Pruning Filters for Efficient ConvNets", 2017."""
    return tensor.sum_over_slices(np.abs(tensor.weight)) if _is_weight(tensor) else None


def l2(tensor: TensorAxis) -> Scores | None:
    """Euclidean norm of the slice: He et al., "Soft Filter Pruning", 2018."""
    return np.sqrt(tensor.sum_over_slices(np.square(tensor.weight))) if _is_weight(tensor) else None


def bn_scale(tensor: TensorAxis) -> Scores | None:
    """Absolute scale of the normalisation: Liu et al., "Network Slimming", 2017. Other groups are left alone."""
    return np.abs(tensor.weight).astype(np.float64) if tensor.role == "scale" else None


def random(tensor: TensorAxis) -> Scores | None:
    """Uniform noise: the baseline that a criterion has to beat. Needs no weights; seeded."""
    return tensor.random.random(tensor.positions)


CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2, "bn_scale": bn_scale, "random": random}


def resolve(criterion: "str | Criterion") -> Criterion:
    """A criterion by name, or the callable itself. Raises `CriterionError` for unknown names."""
    if callable(criterion):
        return criterion
    if criterion not in CRITERIA:
        raise CriterionError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)} or pass a callable")
    return CRITERIA[criterion]
