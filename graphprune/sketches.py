"""Sketches of matrices: a few numbers by which a stored tensor is known again under another name.

An exporter renames weights, transposes them and multiplies every row by the scale of a batch norm. The sketch of a
matrix looks at the directions of some of its rows only, so that it tells matrices apart and stays the same when a row
is scaled.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 16
"""How many rows are looked at, evenly spread."""

TOLERANCE = 3e-3
"""How far apart two numbers of one row may be: sketches are rounded, and weights perhaps stored in half precision."""

Sketch = list[float]


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether more than one axis of a tensor has a size: vectors are too easily equal to be known by their numbers."""
    return sum(size > 1 for size in shape) > 1 and shape[0] > 1


def sketch(matrix: NDArray[Any]) -> Sketch:
    """For some rows (axis 0, the others flattened) how much of a fixed random vector each has; 0 for a zero row.

    ```python
    import numpy as np
    from graphprune.sketches import alike, sketch

    matrix = np.random.default_rng(0).standard_normal((8, 5))
    print(alike(sketch(matrix), sketch(matrix * np.arange(1, 9)[:, None])))  # True
    ```
    """
    rows = np.linspace(0, len(matrix) - 1, min(ROWS, len(matrix))).astype(np.int64)
    picked = matrix[rows].reshape(len(rows), -1).astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", picked, picked))
    probe = np.random.default_rng(0).standard_normal(picked.shape[1])
    share = np.abs(picked @ probe) / np.where(length > 0, length, 1)
    return [round(float(number), 4) for number in share]


def alike(one: Sketch, other: Sketch) -> bool:
    """Whether two sketches are of one matrix, up to scales of rows; rows that are zero in one of them say nothing."""
    if len(one) != len(other):
        return False
    first, second = np.asarray(one), np.asarray(other)
    telling = (first > 0) & (second > 0)
    return 2 * int(telling.sum()) > len(one) and bool((np.abs(first - second)[telling] <= TOLERANCE).all())
