"""What a plan leaves of a stored tensor, as numpy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .plan import Plan


def slice_array(array: NDArray[Any], axes: Mapping[int, NDArray[np.int64]]) -> NDArray[Any]:
    """The kept indices of every axis; 2-D indices are taken row by row from blocks of axis 0."""
    for axis, index in sorted(axes.items(), key=lambda item: item[1].ndim):
        if index.ndim == 1:
            array = np.take(array, index, axis)
            continue
        rows = len(index)
        blocks = array.reshape(rows, -1, *array.shape[1:])
        view = index.reshape(rows, *[1] * axis, -1, *[1] * (array.ndim - axis - 1))
        chosen = np.take_along_axis(blocks, view, axis + 1)
        array = chosen.reshape(-1, *chosen.shape[2:])
    return np.ascontiguousarray(array)


def slim_array(array: NDArray[Any], plan: Plan, name: str) -> NDArray[Any]:
    """What is left of one tensor; the scale of a repaired norm is brought in line."""
    fresh = slice_array(array, plan.kept.get(name, {}))
    if name in plan.repairs:
        share, offset = plan.repairs[name]
        fresh = ((fresh.astype(np.float64) + offset) * share**0.5 - offset).astype(array.dtype)
    return fresh


def slim_shape(shape: tuple[int, ...], plan: Plan, name: str) -> tuple[int, ...]:
    """The shape of what is left of a tensor."""
    result = list(shape)
    for axis, index in plan.kept.get(name, {}).items():
        result[axis] = index.size if index.ndim == 1 or axis == 0 else index.shape[1]
    return tuple(result)
