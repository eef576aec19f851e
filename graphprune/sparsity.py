"""Which weights stay: the best tiles within a budget, or the best n of every m inputs. Pure functions on arrays.

Scores are squares (how much the output changes, to second order), so that those of a tile can be averaged. Arrays are
(groups, outputs, kernel, inputs), see `graphprune.matrices`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .structures import Structure

Scores = NDArray[np.float64]
Kept = NDArray[np.bool_]


def best(scores: Scores, count: int) -> Kept:
    """True for exactly `count` of the scores, the largest; the first ones among equals.

    ```python
    import numpy as np
    from graphprune.sparsity import best

    print(best(np.array([3.0, 1.0, 3.0, 3.0]), 2))  # [ True False  True False]
    ```
    """
    flat = scores.ravel()
    if count <= 0 or count >= flat.size:
        return np.full(scores.shape, count > 0)
    least = np.partition(flat, flat.size - count)[flat.size - count]
    kept = flat > least
    equal = np.flatnonzero(flat == least)
    kept[equal[: count - int(kept.sum())]] = True
    return np.asarray(kept.reshape(scores.shape))


def zeros_first(scores: Scores, weights: NDArray[Any], structure: Structure) -> Scores:
    """Single weights that are zero already go before all others, whatever their inputs are; tiles are not touched."""
    return np.where(weights == 0, -1.0, scores) if structure.block == (1, 1) else scores


def best_in_rows(scores: Scores, counts: NDArray[np.int64]) -> Kept:
    """For every row (axis 0) of a matrix, True for its `counts[row]` largest scores."""
    rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    kept: Kept = rank < counts[:, None]
    return kept


def best_pattern(scores: Scores, n: int, m: int) -> Kept:
    """Of every `m` consecutive positions of the last axis, the `n` of the largest scores."""
    rows = scores.reshape(-1, m)
    return best_in_rows(rows, np.full(len(rows), n)).reshape(scores.shape)


def shared(sizes: Sequence[int], total: int) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to sizes; none differs by one or more from its share."""
    ends = np.cumsum(sizes, dtype=np.int64)
    exact = [int(end) * total // int(ends[-1]) for end in ends]
    return [int(count) for count in np.diff(exact, prepend=0)]


def tiled(scores: Scores, block: tuple[int, int]) -> tuple[Scores, NDArray[np.int64]]:
    """The mean score and the size of every tile; those at the ends of axes may be smaller."""
    outputs, inputs = block
    starts = np.arange(0, scores.shape[1], outputs), np.arange(0, scores.shape[3], inputs)
    sums = np.add.reduceat(np.add.reduceat(scores, starts[0], axis=1), starts[1], axis=3)
    rows, columns = (np.diff(start, append=size) for start, size in zip(starts, scores.shape[1::2], strict=True))
    sizes = np.broadcast_to(rows[:, None, None] * columns, sums.shape)
    return sums / sizes, sizes


def spread(tiles: Kept, block: tuple[int, int], shape: tuple[int, ...]) -> Kept:
    """Every weight like its tile."""
    whole = tiles.repeat(block[0], axis=1).repeat(block[1], axis=3)
    return whole[:, : shape[1], :, : shape[3]]


def within(scores: Scores, sizes: NDArray[np.int64], limit: int) -> Kept:
    """The best tiles whose sizes add up to at most `limit`, those that still fit among them."""
    if limit <= 0:
        return np.zeros(scores.shape, dtype=bool)
    if (sizes == sizes[0]).all():
        return best(scores, limit // int(sizes[0]))
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(scores.shape, dtype=bool)
    fits = np.cumsum(sizes[order]) <= limit
    kept[order[fits]] = True
    left = limit - int(sizes[kept].sum())
    for size in np.unique(sizes)[::-1]:  # tiles at the ends of axes are smaller: some may fill the rest
        candidates = order[~kept[order] & (sizes[order] == size)][: left // int(size)]
        kept[candidates] = True
        left -= int(size) * candidates.size
    return kept


def choose(scores: Sequence[Scores], structure: Structure, limits: Sequence[int], alike: bool = False) -> list[Kept]:
    """Which weights of several layers stay.

    **Arguments:** `limits`: how many weights may stay, in all layers together (one number) or in each of them. Where
    the structure is a pattern they say nothing. `alike` compares weights with those of their own output only (Sun et
    al. 2023), so that every output keeps the same share.
    """
    if structure.m:
        return [best_pattern(own, structure.n, structure.m) for own in scores]
    if len(limits) == len(scores):
        kept, ends, done = [], np.cumsum(limits), 0
        for own, end in zip(scores, ends, strict=True):  # what tiles leave unused goes to the next layer
            kept.append(_layer(own, structure, int(end) - done, alike))
            done += int(kept[-1].sum())
        return kept
    parts = [tiled(own, structure.block) for own in scores]
    flat = np.concatenate([score.ravel() for score, _ in parts])
    sizes = np.concatenate([size.ravel() for _, size in parts])
    split = np.split(within(flat, sizes, limits[0]), np.cumsum([score.size for score, _ in parts])[:-1])
    return [
        spread(own.reshape(score.shape), structure.block, whole.shape)
        for own, (score, _), whole in zip(split, parts, scores, strict=True)
    ]


def _layer(scores: Scores, structure: Structure, limit: int, alike: bool) -> Kept:
    tile, size = tiled(scores, structure.block)
    number = tile.shape[0] * tile.shape[1] if alike else 1
    rows, sizes = tile.reshape(number, -1), size.reshape(number, -1)
    counts = shared([int(row.sum()) for row in sizes], limit)
    if structure.block == (1, 1) and alike:
        kept = best_in_rows(rows, np.array(counts))
    else:
        kept, done = np.zeros(rows.shape, dtype=bool), 0
        for row, end in enumerate(np.cumsum(counts)):
            kept[row] = within(rows[row], sizes[row], int(end) - done)
            done += int(sizes[row][kept[row]].sum())
    return spread(kept.reshape(tile.shape), structure.block, scores.shape)
