"""What a pruned model costs: sums of products of living positions, evaluated exactly and fast."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .labels import Labels, Product
from .memory import activations, itemsize

if TYPE_CHECKING:
    from .analysis import Analysis
    from .latency import Clock

Counts = NDArray[np.int64]
"""How many positions of every array are alive: shape (arrays,), or (cases, arrays)."""

Loads = NDArray[np.float64]
"""What a quantity comes to, of which the largest counts: shape (loads,), or (cases, loads)."""


class Cost(NamedTuple):
    """`params`: elements of all parameters; `macs`: multiply-accumulates for the example inputs; `bytes`: of all
    parameters and buffers that are saved with the model; `memory`: the most bytes of inputs, outputs and intermediate
    results that are needed at the same time (see `graphprune.memory`).
    """

    params: int
    macs: int
    bytes: int
    memory: int


@dataclass(frozen=True)
class CostModel:
    """Costs as functions of which classes are alive; `positions[starts[i]:starts[i + 1]]` are those of array i."""

    positions: Labels
    starts: Labels
    loads: dict[str, Callable[[Counts], Loads]]

    @classmethod
    def of(cls, analysis: "Analysis", clock: "Clock | None" = None) -> "CostModel":
        """Collect the products behind every quantity of `Cost`, and of "latency" where there is a `clock`."""
        names, steps = analysis.graph.leaves, activations(analysis)
        saved = [name for name, leaf in names.items() if leaf.kind in ("parameter", "buffer")]
        elements = {name: leaf_product(analysis, name) for name in names}
        sums = {
            "params": [elements[name] for name in saved if names[name].kind == "parameter"],
            "macs": [product for node, product in analysis.equations.macs if node is None or node.measured],
            "bytes": [_scaled(elements[name], itemsize(names[name].dtype)) for name in saved],
        }
        arrays = _Arrays(analysis.solution.classes)
        loads: dict[str, Callable[[Counts], Loads]] = {
            quantity: Sum(Terms.of(products, arrays)) for quantity, products in sums.items()
        }
        loads["memory"] = Peak(Terms.of(steps.sizes, arrays), steps.needed)
        if clock is not None:
            loads["latency"] = clock.loads(arrays)
        flat = arrays.classes
        starts = np.cumsum([0, *(array.size for array in flat)])
        return cls(np.concatenate(flat) if flat else np.zeros(0, dtype=np.int64), starts, loads)

    @cached_property
    def rows(self) -> Labels:
        """The array that every position belongs to."""
        return np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))

    def counts(self, alive: NDArray[np.bool_]) -> Counts:
        """Living positions of every array when only the classes marked in `alive` are left."""
        return np.bincount(self.rows, alive[self.positions], self.starts.size - 1).astype(np.int64)

    def evaluate(self, quantity: str, alive: NDArray[np.bool_]) -> int:
        """One quantity when only the classes marked in `alive` are left."""
        return self.total(quantity, self.counts(alive))

    def total(self, quantity: str, counts: Counts) -> int:
        """One quantity for the given counts of living positions."""
        return round(float(self.loads[quantity](counts).max(initial=0.0)))

    def totals(self, alive: NDArray[np.bool_]) -> dict[str, int]:
        """All quantities by name."""
        counts = self.counts(alive)
        return {quantity: self.total(quantity, counts) for quantity in self.loads}

    def cost(self, alive: NDArray[np.bool_]) -> Cost:
        """The quantities that need no measurement."""
        totals = self.totals(alive)
        return Cost(**{quantity: totals[quantity] for quantity in Cost._fields})


class _Arrays:
    """Numbers the distinct arrays of classes: `row(labels)` is the number of an array of labels."""

    def __init__(self, classes: Labels) -> None:
        self._classes = classes
        self._known: dict[int, int] = {}
        self._alike: dict[bytes, int] = {}
        self._kept: list[Labels] = []  # the arrays whose identity is known
        self.classes: list[Labels] = []

    def row(self, labels: Labels) -> int:
        """The number of an array; arrays with the same positions have the same one."""
        if id(labels) not in self._known:
            own = self._classes[labels.ravel()]
            number = self._alike.setdefault(own.tobytes(), len(self.classes))
            if number == len(self.classes):
                self.classes.append(own)
            self._known[id(labels)] = number
            self._kept.append(labels)
        return self._known[id(labels)]


@dataclass(frozen=True)
class Terms:
    """Numbers of the form coefficient x product of (count / share); counts are padded with a one."""

    coefficients: NDArray[np.float64]
    rows: Labels
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, products: list[Product], arrays: _Arrays) -> "Terms":
        """Pad all products to the same number of factors."""
        width = max((len(product.arrays) for product in products), default=0)
        index = np.full((len(products), width), -1, dtype=np.int64)
        shares = np.ones((len(products), width))
        for number, product in enumerate(products):
            for position, (array, share) in enumerate(zip(product.arrays, product.shares, strict=True)):
                index[number, position] = arrays.row(array)
                shares[number, position] = share
        return cls(np.array([product.coefficient for product in products], dtype=np.float64), index, shares)

    def values(self, counts: Counts) -> NDArray[np.float64]:
        """The numbers, along the last axis."""
        padded = np.concatenate([counts, np.ones((*counts.shape[:-1], 1))], axis=-1)
        factors = padded[..., self.rows] / self.shares
        result: NDArray[np.float64] = self.coefficients * factors.prod(axis=-1)
        return result


@dataclass(frozen=True)
class Sum:
    """A quantity that adds up: one load."""

    terms: Terms

    def __call__(self, counts: Counts) -> Loads:
        """The sum of all terms, shape (..., 1)."""
        result: Loads = self.terms.values(counts).sum(axis=-1, keepdims=True)
        return result


@dataclass(frozen=True)
class Peak:
    """A quantity of which the largest load counts: every row of `needed` says which terms are needed at once."""

    terms: Terms
    needed: "csr_array[Any, tuple[int, int]]"

    def __call__(self, counts: Counts) -> Loads:
        """One load per row of `needed`, along the last axis."""
        values = self.terms.values(counts)
        result: Loads = (self.needed @ values.T).T
        return result


def _scaled(product: Product, factor: float) -> Product:
    return product._replace(coefficient=product.coefficient * factor)


def leaf_product(analysis: "Analysis", name: str) -> Product:
    """The elements of a stored tensor."""
    leaf = analysis.graph.leaves[name]
    size, arrays, shares = 1, [], []
    for axis, length in enumerate(leaf.shape):
        labels = analysis.equations.leaf_axes.get((name, axis))
        if labels is None:
            size *= length
        else:
            arrays.append(labels)
            shares.append(labels.shape[0] if labels.ndim == 2 else 1)
    return Product(float(size), tuple(arrays), tuple(shares))
