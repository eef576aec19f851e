"""Resizing along one axis: where new positions lie among the old ones, and what they are made of.

Every kind of resizing works on one axis after the other: nearest is a gather of constant places, the others are sums of
such gathers with constant shares.
"""

from collections.abc import Callable

import numpy as np
from tvm import relax

from .rewriting import shape_of

Emit = Callable[[relax.Expr], relax.Expr]
Taps = tuple[np.ndarray, np.ndarray]


def linear(places: np.ndarray, old: int) -> Taps:
    """The two old positions next to each new one, and their shares."""
    places = np.clip(places, 0, old - 1)
    low = np.floor(places).astype("int64")
    share = (places - low).astype("float32")
    return np.stack([low, np.minimum(low + 1, old - 1)]), np.stack([1 - share, share])


def cubic(places: np.ndarray, old: int, a: float = -0.75, exclude_outside: bool = False) -> Taps:
    """The four old positions around each new one, and their shares."""
    places = places.astype("float64")
    low = np.floor(places)
    t = places - low
    near, far = (lambda x: ((a + 2) * x - (a + 3)) * x * x + 1), (lambda x: a * (((x - 5) * x + 8) * x - 4))
    shares = np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)])
    taps = low + np.array([[-1], [0], [1], [2]])
    if exclude_outside:
        shares = np.where((taps < 0) | (taps >= old), 0, shares)
        shares = shares / shares.sum(axis=0)
    return np.clip(taps, 0, old - 1).astype("int64"), shares.astype("float32")


def gather(emit: Emit, data: relax.Expr, axis: int, places: np.ndarray) -> relax.Expr:
    """The elements at constant places along an axis; the same places again are no work."""
    old = shape_of(data)[axis]
    if np.array_equal(places, np.arange(old)):
        return data
    return emit(relax.op.take(data, relax.const(places.astype("int32")), axis, mode="clip"))


def weighted(emit: Emit, data: relax.Expr, axis: int, taps: Taps) -> relax.Expr:
    """The sum of what lies at the taps, times their shares."""
    shape = [1] * len(shape_of(data))
    shape[axis] = taps[0].shape[1]
    total = None
    for places, shares in zip(*taps, strict=True):
        if not shares.any():
            continue
        part = gather(emit, data, axis, places)
        if not (shares == 1).all():
            part = emit(relax.op.multiply(part, relax.const(shares.reshape(shape))))
        total = part if total is None else emit(relax.op.add(total, part))
    return total
