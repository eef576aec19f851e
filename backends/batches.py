"""Calls with any number of samples, for artifacts that were compiled for several batch sizes.

Samples are independent of each other, so a batch is computed in pieces whose sizes were compiled; the last piece is
filled up where that is cheaper than several small ones.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

# What one more call costs, in samples: pieces of equal work are better taken at once.
_CALL = 0.25


def entry_point(size: int) -> str:
    """The name of the compiled function for a batch size."""
    return f"main_{size}"


@lru_cache(maxsize=1024)
def cover(count: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Compiled sizes, largest first, that together hold `count` samples at the least cost.

    ```python
    cover(21, (1, 4, 16))    # (16, 4, 1)
    cover(15, (1, 4, 16))    # (16,)
    ```
    """
    largest = max(sizes)
    whole = max(count // largest - 1, 0)
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for rest in range(1, count - whole * largest + 1):
        ways = [(best[max(rest - size, 0)], size) for size in sorted(sizes, reverse=True)]
        best.append(min((cost + size + _CALL, (*pieces, size)) for (cost, pieces), size in ways))
    return (largest,) * whole + tuple(sorted(best[-1][1], reverse=True))


def run(
    call: Callable[[int, list[np.ndarray]], list[np.ndarray]],
    inputs: Sequence[np.ndarray],
    batched: Sequence[bool],
    count: int,
    sizes: tuple[int, ...],
) -> list[np.ndarray]:
    """Call a model piece by piece: `call(size, inputs)` computes one piece of a compiled size."""
    results: list[np.ndarray] = []
    start = 0
    for size in cover(count, sizes):
        valid = min(size, count - start)
        # The last sample stands in for missing ones: it is certainly something the model can compute.
        rows = np.minimum(np.arange(start, start + size), count - 1)
        part = slice(start, start + size) if valid == size else rows
        piece = call(size, [value[part] if axis else value for value, axis in zip(inputs, batched, strict=True)])
        if not results:
            results = [np.empty((count, *value.shape[1:]), value.dtype) for value in piece]
        for whole, value in zip(results, piece, strict=True):
            whole[start : start + valid] = value[:valid]
        start += valid
    return results
