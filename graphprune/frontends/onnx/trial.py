"""Try weights out: by how much the outputs change on calibration data when some weights are replaced."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...contractions import Contraction, weight_of
from .batches import Batch
from .walk import Walk, part_of

WORK = 10**11
"""Multiply-accumulates that one trial may take, about: it decides how many samples are tried."""

Outputs = list[list[NDArray[Any]]]


class Trial:
    """`trial({name: matrix})` is the squared change of the outputs relative to their energy.

    One session serves all trials: weights are inputs of its model.
    """

    def __init__(
        self,
        model: ir.Model,
        contractions: Iterable[Contraction],
        tensors: Mapping[str, Any],
        batches: Sequence[Batch],
    ) -> None:
        self._model, self._batches = model, batches
        self._contractions = {contraction.weight: contraction for contraction in contractions}
        self._weights = {name: np.ascontiguousarray(tensors[name].numpy()) for name in self._contractions}
        self._names = real_outputs(model)
        self._session: Any = None
        self._expected: Outputs = []

    def __call__(self, replaced: dict[str, NDArray[np.float64]]) -> float:
        """The relative error with these weights, each (groups, features, channels out)."""
        if self._session is None:
            given = self._weights | self._batches[0].feeds
            self._session = part_of(self._model, given, self._names)
            self._expected = self._outputs({})
        fresh = {
            name: np.ascontiguousarray(
                weight_of(self._contractions[name], matrix, self._weights[name].shape), self._weights[name].dtype
            )
            for name, matrix in replaced.items()
        }
        error = apart(self._expected, self._outputs(fresh))
        return error if np.isfinite(error) else 1e6

    def _outputs(self, fresh: Mapping[str, NDArray[Any]]) -> Outputs:
        weights = {**self._weights, **fresh}
        return [self._session.run(self._names, weights | batch.feeds) for batch in self._batches]


def real_outputs(model: ir.Model) -> list[str]:
    """The names of the outputs that hold real numbers; all of them where none does."""
    names = [value.name or "" for value in model.graph.outputs]
    real = [value.name or "" for value in model.graph.outputs if value.dtype is not None and value.dtype.is_floating_point()]
    return real or names


def outputs_of(model: ir.Model, batches: Sequence[Batch]) -> Outputs:
    """The outputs of a model that hold real numbers, batch by batch."""
    names, sessions = real_outputs(model), {}
    found = [Walk(model, [batch], sessions).at(names)[0] for batch in batches]
    return [[values[name] for name in names] for values in found]


def apart(expected: Outputs, found: Outputs) -> float:
    """The squared distance of outputs relative to their energy, the mean over those of a model.

    Where outputs have other sizes, such as the boxes that a detector finds, it is 1.
    """
    errors = []
    for before, after in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        if any(old.shape != new.shape for old, new in zip(before, after, strict=True)):
            return 1.0
        pairs = [(np.asarray(old, np.float64), np.asarray(new, np.float64)) for old, new in zip(before, after, strict=True)]
        energy = sum(float(np.square(old).sum()) for old, _ in pairs)
        errors.append(sum(float(np.square(new - old).sum()) for old, new in pairs) / max(energy, 1e-30))
    return float(np.mean(errors))
