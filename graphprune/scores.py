"""Scores of all classes of an analysis: run a criterion over the stored tensors and reduce them per class."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .criteria import REDUCTIONS, Criterion, TensorAxis
from .elimination import elimination_scores
from .errors import CriterionError, WeightsError
from .ops import ROLES
from .statistics import PRODUCTS, Statistics

if TYPE_CHECKING:
    from .analysis import Analysis


def roles(analysis: "Analysis") -> dict[str, str]:
    """What every stored tensor is to the first operation that reads it."""
    found: dict[str, str] = {}
    for node in analysis.graph.nodes:
        for value, role in zip(node.inputs, ROLES.get(node.op, ()), strict=False):
            if value is not None and value.is_leaf and role:
                found.setdefault(value.name, role)
    return found


def check_finite(analysis: "Analysis") -> None:
    """Raise `WeightsError` where a stored tensor holds NaN or infinity."""
    for name, leaf in analysis.graph.leaves.items():
        if "float" not in leaf.dtype:
            continue
        weight = analysis.weights(name)
        with np.errstate(all="ignore"):
            suspicious = not np.isfinite(weight.sum())
        if suspicious and not np.isfinite(weight).all():
            bad = np.argwhere(~np.isfinite(weight))
            first = tuple(int(index) for index in bad[0])
            raise WeightsError(
                f"{name} holds {len(bad)} values that are NaN or infinite (first at {first}): scores would mean "
                "nothing. Load a healthy checkpoint, or use criterion='random' to prune regardless."
            )


def class_scores(
    analysis: "Analysis",
    criterion: Criterion,
    wanted: NDArray[np.bool_],
    seed: int,
    statistics: Statistics | None = None,
    reduction: str | None = None,
) -> NDArray[np.float64]:
    """One score for every wanted class from those of its members; NaN where the criterion scored none of them."""
    if PRODUCTS in criterion.needs and statistics is not None:
        return elimination_scores(analysis, statistics, wanted)
    where, values = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    role, random = roles(analysis), np.random.default_rng(seed)
    for (name, axis), classes in analysis.leaf_classes.items():
        leaf = analysis.graph.leaves[name]
        if leaf.kind != "parameter" or not wanted[classes].any():
            continue
        rows = classes.shape[0] if classes.ndim == 2 else 1
        load = functools.partial(analysis.weights, name)
        tensor = TensorAxis(name, role.get(name, ""), axis, leaf.shape, rows, load, random, statistics)
        scores = _checked(criterion.score(tensor), tensor)
        if scores is not None:
            where.append(classes.ravel())
            values.append(scores.ravel())
    reduce = REDUCTIONS[reduction or criterion.reduction]
    return reduce(np.concatenate(where), np.concatenate(values), analysis.solution.count)


def _checked(scores: Any, tensor: TensorAxis) -> NDArray[np.float64] | None:
    if scores is None:
        return None
    array = np.asarray(scores, dtype=np.float64)
    where = f"the criterion's scores for axis {tensor.axis} of {tensor.name}"
    if array.shape != tensor.positions:
        raise CriterionError(f"{where} have shape {array.shape}; expected {tensor.positions}, one per position")
    if not np.isfinite(array).all():
        raise CriterionError(f"{where} are not finite: NaN or infinity in the weights, or in the criterion")
    return array
