"""Try weights out: by how much the outputs change on calibration data when some weights are replaced."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...contractions import Contraction, weight_of
from ...statistics import Matrix
from .batches import Batch
from .products import data_of, nodes_of
from .walk import Array, Sessions, Values, Walk, part_of
from .writing import numbers_of

Outputs = list[list[Array]]


class Trial:
    """`trial({name: matrix})` is the squared change of the outputs relative to their energy.

    What comes before the weights that are replaced is run once for all trials of the same weights; these are inputs of
    what is run then.
    """

    def __init__(self, model: ir.Model, contractions: Iterable[Contraction], batches: Sequence[Batch]) -> None:
        self._model, self._batches, self._nodes = model, batches, nodes_of(model)
        self._contractions = {contraction.weight: contraction for contraction in contractions}
        self._outputs = real_outputs(model)
        self._expected: Outputs = []
        self._known: list[Values] = []
        self._names: list[str] | None = None
        self._session: Any = None

    def __call__(self, replaced: dict[str, Matrix]) -> float:
        """The relative error with these weights, each (groups, features, channels out)."""
        if not self._expected:
            self._expected = outputs_of(self._model, self._batches)
        fresh = {name: self._weight(name, matrix) for name, matrix in replaced.items()}
        if self._names != list(fresh):
            self._start(fresh)
        error = apart(self._expected, [self._session.run(self._outputs, fresh | values) for values in self._known])
        return error if np.isfinite(error) else 1e6

    def _weight(self, name: str, matrix: Matrix) -> Array:
        contraction = self._contractions[name]
        old = numbers_of(self._nodes[contraction.node.name], 1)
        assert old is not None
        return np.ascontiguousarray(weight_of(contraction, matrix, old.shape), old.dtype)

    def _start(self, fresh: Values) -> None:
        """Run up to where these weights are read."""
        walk, found = Walk(self._model, self._batches), [self._contractions[name] for name in fresh]
        walk.at(map(data_of, found), moving=[self._nodes[contraction.node.name] for contraction in found])
        self._known, self._names = walk.known, list(fresh)
        self._session = part_of(self._model, fresh | walk.known[0], self._outputs)


def real_outputs(model: ir.Model) -> list[str]:
    """The names of the outputs that hold real numbers; all of them where none does."""
    names = [value.name or "" for value in model.graph.outputs]
    real = [
        value.name or "" for value in model.graph.outputs if value.dtype is not None and value.dtype.is_floating_point()
    ]
    return real or names


def outputs_of(model: ir.Model, batches: Sequence[Batch]) -> Outputs:
    """The outputs of a model that hold real numbers, batch by batch."""
    names, sessions = real_outputs(model), Sessions()
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
        pairs = [
            (np.asarray(old, np.float64), np.asarray(new, np.float64)) for old, new in zip(before, after, strict=True)
        ]
        energy = sum(float(np.square(old).sum()) for old, _ in pairs)
        errors.append(sum(float(np.square(new - old).sum()) for old, new in pairs) / max(energy, 1e-30))
    return float(np.mean(errors))
