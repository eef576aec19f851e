"""SparseGPT: set weights to zero one input after the other, and let the inputs that follow make up for it.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can be Accurately Pruned in One-Shot", 2023: the optimal brain
surgeon's update, for all outputs of a layer with one shared order of inputs. The inputs of a convolution are the
patches that its window sees.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from .errors import CriterionError
from .sparsity import Kept, choose, shared, zeros_first
from .structures import Structure

Matrix = NDArray[np.float64]

DAMPING = 0.01
"""Share of the mean diagonal that is added to the Gram matrix; the value of the paper."""

COLUMNS = 128
"""How many inputs are decided on at once; the value of the paper."""


def surgeon(gram: Matrix, damping: float = DAMPING) -> Matrix:
    """The upper Cholesky factor of the inverse of a damped Gram matrix (inputs, inputs)."""
    mean = float(np.trace(gram)) / len(gram)
    if not np.isfinite(mean) or mean <= 0:
        raise CriterionError("its calibration inputs are all zero or not finite: give other data")
    damped = gram + damping * mean * np.eye(len(gram))
    inverse = linalg.inv(damped, check_finite=False)
    factor: Matrix = linalg.cholesky((inverse + inverse.T) / 2, lower=False, check_finite=False)
    return factor


def prune(
    weight: Matrix, gram: Matrix, structure: Structure, limit: int, damping: float = DAMPING
) -> tuple[Matrix, Kept]:
    """New weights and which of them stay.

    **Arguments:** `weight`: (outputs, kernel, inputs); `gram`: the sum of x x^T over all that the layer saw, of size
    kernel x inputs; `limit`: how many weights stay (a pattern fixes that by itself).

    **Returns:** the weights, zero where they do not stay, and the mask, both of the weight's shape.

    **Raises:** `CriterionError` where the inputs say nothing.
    """
    outputs, kernel, inputs = weight.shape
    work = weight.astype(np.float64).reshape(outputs, kernel * inputs)
    kept = np.ones(work.shape, dtype=bool)
    factor = surgeon(gram, damping)
    segments = list(_segments(kernel, inputs, structure))
    ends = np.cumsum(shared([outputs * (stop - start) for start, stop in segments], limit))
    for (start, stop), end in zip(segments, ends, strict=True):
        step = factor[start:stop, start:stop]
        scores = np.square(work[:, start:stop] / np.diag(step))
        scores = zeros_first(scores, work[:, start:stop], structure)
        (chosen,) = choose([scores[None, :, None, :]], structure, [int(end) - int(kept[:, :start].sum())])
        kept[:, start:stop] = chosen[0, :, 0, :]
        errors = np.zeros((outputs, stop - start))
        for column in range(stop - start):
            here = start + column
            gone = np.where(kept[:, here], 0.0, work[:, here])
            errors[:, column] = gone / step[column, column]
            work[:, here:stop] -= errors[:, column, None] * step[column, column:]
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    work[~kept] = 0.0
    return work.reshape(weight.shape), kept.reshape(weight.shape)


def _segments(kernel: int, inputs: int, structure: Structure) -> Iterator[tuple[int, int]]:
    """Ranges of columns that are decided on at once; tiles and patterns end where a position of the kernel does."""
    if not structure.m and structure.block[1] == 1:
        yield from ((start, min(start + COLUMNS, kernel * inputs)) for start in range(0, kernel * inputs, COLUMNS))
        return
    grain = structure.m or structure.block[1]
    width = max(grain, COLUMNS // grain * grain)
    for begin in range(0, kernel * inputs, inputs):
        yield from ((begin + start, begin + min(start + width, inputs)) for start in range(0, inputs, width))
