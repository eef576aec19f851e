"""Units: what is dropped at once. Classes, joined further where rows of a block must keep equal counts."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .labels import Block, Labels

if TYPE_CHECKING:
    from .analysis import Analysis

PRODUCTS = ("linear", "conv", "matmul", "addmm", "grouped_matmul", "bilinear", "einsum", "recurrent")
"""Operations that multiply by stored matrices, whose axes are channels."""


@dataclass(frozen=True)
class Units:
    """`of_class` maps classes to units; `score`, `free` and `family` are per unit.

    A family is a set of units that touch the same axes of the same tensors: the channels of one width.
    """

    of_class: Labels
    score: NDArray[np.float64]
    free: NDArray[np.bool_]
    family: Labels

    @property
    def count(self) -> int:
        """How many units there are."""
        return int(self.score.size)


def build_units(analysis: "Analysis", scores: NDArray[np.float64], free: NDArray[np.bool_]) -> Units:
    """Join classes so that every block stays balanced, lowest scores with lowest scores."""
    of_class = balance(analysis.solution.classes, analysis.equations.blocks, scores, free)
    count = int(of_class.max()) + 1
    members = np.bincount(of_class, minlength=count)
    score = np.bincount(of_class, weights=scores, minlength=count) / members
    unit_free = np.ones(count, dtype=bool)
    unit_free[of_class[~free]] = False
    return Units(of_class, score, unit_free, families(analysis, of_class, count))


def families(analysis: "Analysis", of_class: Labels, count: int) -> Labels:
    """Number the sets of units that occur equally often in every axis of every stored tensor."""
    random = np.random.default_rng(0)
    arrays = [classes.ravel() for classes in analysis.leaf_classes.values()]
    if not arrays:
        return np.zeros(count, dtype=np.int64)
    weights = np.repeat(random.random(len(arrays)), [array.size for array in arrays])
    signature = np.bincount(of_class[np.concatenate(arrays)], weights, minlength=count)
    return np.unique(signature, return_inverse=True)[1].astype(np.int64)


def steps_of(analysis: "Analysis", units: Units, multiple_of: int) -> Labels:
    """In steps of how many units every family goes, so that its channel counts are multiples of `multiple_of`.

    A unit may have several channels, as a head or a group does. Axes of matrices count: what they multiply is computed
    in vectors. Families that no matrix has go in steps of `multiple_of`.
    """
    count = int(units.family.max()) + 1
    steps = np.zeros(count, dtype=np.int64)
    read = [value for node in analysis.graph.nodes if node.op in PRODUCTS for value in node.inputs]
    matrices = {value.name for value in read if value is not None and value.is_leaf and len(value.shape) > 1}
    for (name, _), classes in analysis.leaf_classes.items():
        if name not in matrices:
            continue
        own = units.of_class[classes[0] if classes.ndim > 1 else classes]  # of groups, each has as many
        number = np.bincount(units.family[np.unique(own)], minlength=count)
        channels = np.bincount(units.family[own], minlength=count) // np.maximum(number, 1)
        there = number > 0
        steps[there] = np.lcm(np.maximum(steps[there], 1), multiple_of // np.gcd(multiple_of, channels[there]))
    return np.where(steps > 0, steps, multiple_of)


def isomorphic(analysis: "Analysis", units: Units) -> Labels:
    """Number the kinds of families: alike are those whose units touch the same axes of the same kinds of operations.

    Fang et al., "Isomorphic Pruning for Vision Models", 2024.
    """
    readers: dict[str, tuple[str, int]] = {}
    for node in analysis.graph.nodes:
        for position, value in enumerate(node.inputs):
            if value is not None and value.is_leaf:
                readers.setdefault(value.name, (node.op, position))
    touched: list[Counter[Any]] = [Counter() for _ in range(int(units.family.max()) + 1)]
    for (name, axis), classes in analysis.leaf_classes.items():
        rank = len(analysis.graph.leaves[name].shape)
        for family in np.unique(units.family[units.of_class[classes.ravel()]]):
            touched[family].update([(*readers.get(name, ("", 0)), axis, rank)])
    kinds: dict[frozenset[Any], int] = {}
    return np.array([kinds.setdefault(frozenset(own.items()), len(kinds)) for own in touched], dtype=np.int64)


def balance(classes: Labels, blocks: list[Block], scores: NDArray[np.float64], free: NDArray[np.bool_]) -> Labels:
    """A map from classes to units under which all rows of every block lose equal counts."""
    parent = np.arange(scores.size)
    for _ in range(len(blocks) + 1):
        changed = False
        for block in blocks:
            rows = _distinct(parent[classes[block.labels]])
            pairs = _unbalanced(rows, block.fixed, scores, free)
            if pairs:
                parent = _merged(parent, pairs)
                changed = True
        if not changed:
            break
    return np.unique(parent, return_inverse=True)[1].astype(np.int64)


def _distinct(rows: Labels) -> Labels:
    """Every row once; as keys of a dictionary, which for a few long rows is faster than sorting them."""
    return np.stack(list({row.tobytes(): row for row in np.ascontiguousarray(rows)}.values()))


def _merged(parent: Labels, pairs: list[tuple[Labels, Labels]]) -> Labels:
    """The same map with both sides of every pair joined under their smallest number."""
    left, right = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
    involved, index = np.unique(np.concatenate([left, right]), return_inverse=True)
    links = coo_matrix((np.ones(left.size, np.int8), (index[: left.size], index[left.size :])), (involved.size,) * 2)
    _, component = connected_components(links, directed=False)
    smallest = np.full(component.max() + 1, involved.max())
    np.minimum.at(smallest, component, involved)
    target = np.arange(parent.size)
    target[involved] = smallest[component]
    return target[parent]


def _unbalanced(
    rows: Labels, fixed: bool, scores: NDArray[np.float64], free: NDArray[np.bool_]
) -> list[tuple[Labels, Labels]]:
    """Pairs of units to join until the rows are balanced; none where they are."""
    if len(rows) == 1 or (not fixed and (rows == rows[:, :1]).all()):
        return []
    ordered = np.sort(rows, axis=1)
    if (ordered == ordered[:1]).all():
        return []
    counted = [np.unique(row, return_counts=True) for row in rows]
    common = set.intersection(*(set(zip(units.tolist(), times.tolist(), strict=True)) for units, times in counted))
    ranked = []
    for units, times in counted:
        own = np.array([pair not in common for pair in zip(units.tolist(), times.tolist(), strict=True)])
        units, times = units[own], times[own]
        order = np.lexsort((np.where(free[units], scores[units], np.inf), times))
        ranked.append((units[order], times[order]))
    first_units, first_times = ranked[0]
    every = np.concatenate([units for units, _ in ranked])
    alike = all(np.array_equal(times, first_times) for _, times in ranked)
    if alike and np.unique(every).size == every.size:
        return [(first_units, units) for units, _ in ranked[1:]]
    return [(every[:-1], every[1:])]  # no pairing keeps the counts: all or nothing
