"""What two frontends say of one network, compared tensor by tensor.

An exporter folds batch norms into convolutions, transposes and renames weights, merges equal tensors. Matrices survive
that, up to the scale of their rows, so the two analyses are compared on those: which positions hang together, which of
them are locked, which rows keep equal counts, and what it all costs.
"""

import numpy as np

from graphprune.analysis import Analysis

Position = tuple[str, int, int]


def assert_same(ours: Analysis, theirs: Analysis) -> None:
    """The same groups, locks, blocks and costs on the tensors that are in both; nearly all matrices have to be."""
    pairs = counterparts(ours, theirs)
    assert pairs, "the two programs have no tensor in common"
    flips = {name: flipped for name, _, flipped in pairs}
    left = _classes(ours, {name: name for name, _, _ in pairs}, {})
    right = _classes(theirs, {leaf: name for name, leaf, _ in pairs}, flips)
    assert left.keys() == right.keys(), left.keys() ^ right.keys()
    numbers, others = _flat(left), _flat(right)
    first, second = _partition(numbers), _partition(others)
    odd = [(one, other) for one, other in zip(first, second, strict=True) if one != other]
    assert not odd, f"coupled differently: {odd[0]}"
    for key in left:
        locks, their_locks = _locked(ours, left[key]), _locked(theirs, right[key])
        assert (locks == their_locks).all(), f"locked differently: {key}: {locks} {their_locks}"
        assert (_inexact(ours, left[key]) == _inexact(theirs, right[key])).all(), f"exact differently: {key}"
    assert _blocks(ours, left, first) == _blocks(theirs, right, second)
    assert ours.cost().macs == theirs.cost().macs


def counterparts(ours: Analysis, theirs: Analysis) -> list[tuple[str, str, bool]]:
    """(name here, name there, transposed) of matrices with the same rows, up to their scale."""
    found = []
    rows = {(leaf, flip): _rows(theirs, leaf, flip) for leaf in matrices(theirs) for flip in (False, True)}
    for name in matrices(ours):
        own = _rows(ours, name, False)
        same = [key for key, other in rows.items() if own.shape == other.shape and _close(own, other)]
        if len(same) == 1:
            found.append((name, *same[0]))
    return found


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether all numbers are; the first row tells most tensors apart."""
    return np.allclose(one[0], other[0], atol=1e-4) and np.allclose(one, other, atol=1e-4)


def matrices(analysis: Analysis) -> list[str]:
    """Names of the parameters with more than one axis that has a size."""
    leaves = analysis.graph.leaves.items()
    return [name for name, leaf in leaves if leaf.kind == "parameter" and sum(n > 1 for n in leaf.shape) > 1]


def _rows(analysis: Analysis, name: str, flip: bool) -> np.ndarray:
    """Every row with length 1; an empty array where a tensor cannot be transposed."""
    numbers = analysis.weights(name).astype(np.float64)
    if flip and numbers.ndim != 2:
        return np.zeros(0)
    numbers = numbers.T if flip else numbers
    flat = numbers.reshape(len(numbers), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    # a batch norm may scale a row by a negative number
    signs = np.sign(np.take_along_axis(flat, np.abs(flat).argmax(1)[:, None], 1))
    return (flat / np.where(length > 0, length, 1) * np.where(signs == 0, 1, signs)).reshape(numbers.shape)


Classes = dict[tuple[str, int], np.ndarray]


def _classes(analysis: Analysis, names: dict[str, str], flips: dict[str, bool]) -> Classes:
    """The classes of every axis under the names of the first analysis, with its axes."""
    result = {}
    for (leaf, axis), classes in analysis.leaf_classes.items():
        if leaf in names:
            name = names[leaf]
            result[name, 1 - axis if flips.get(name) else axis] = classes
    return dict(sorted(result.items()))


def _flat(classes: Classes) -> np.ndarray:
    return np.concatenate([array.ravel() for array in classes.values()])


def _partition(classes: np.ndarray) -> list[int]:
    """For every position the first one that it hangs together with."""
    _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
    return first[inverse].tolist()


def _locked(analysis: Analysis, classes: np.ndarray) -> np.ndarray:
    return analysis.solution.locked[classes] >= 0


def _inexact(analysis: Analysis, classes: np.ndarray) -> np.ndarray:
    """Where nothing locks anyway."""
    return (analysis.solution.inexact[classes] >= 0) & ~_locked(analysis, classes)


def _blocks(analysis: Analysis, classes: Classes, partition: list[int]) -> set[tuple[bool, frozenset]]:
    """Rows that keep equal counts, as sets of positions; those of what is locked or in no common tensor say nothing.

    `chunk` in the code of a module gives even parts; an export has their sizes written down, and they may differ.
    """
    names = dict(zip(_flat(classes).tolist(), partition, strict=True))
    found = set()
    for block in analysis.equations.blocks:
        if block.node is not None and block.node.op == "split":
            continue
        rows = analysis.solution.classes[block.labels]
        if len(rows) > 1 and not _locked(analysis, rows).all():
            sets = frozenset(frozenset(names.get(number, -1) for number in row) for row in rows.tolist())
            if len(sets) > 1 and all(-1 not in row for row in sets):
                found.add((block.fixed, sets))
    return found
