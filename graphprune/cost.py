"""What a pruned model costs: sums of products of living positions, evaluated exactly and fast."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .labels import Labels, Product

if TYPE_CHECKING:
    from .analysis import Analysis


class Cost(NamedTuple):
    """`params`: elements of all parameters; `macs`: multiply-accumulates for the example inputs."""

    params: int
    macs: int


@dataclass(frozen=True)
class CostModel:
    """Cost as a function of which classes are alive."""

    positions: Labels
    starts: Labels
    terms: dict[str, "Terms"]

    @classmethod
    def of(cls, analysis: "Analysis") -> "CostModel":
        """Collect the products behind every quantity of `Cost`."""
        equations, classes = analysis.equations, analysis.solution.classes
        products = {
            "params": [
                _leaf_product(analysis, name)
                for name, leaf in analysis.graph.leaves.items()
                if leaf.kind == "parameter"
            ],
            "macs": [product for node, product in equations.macs if node is None or node.measured],
        }
        rows: dict[int, int] = {}
        arrays: list[Labels] = []
        for product in (product for group in products.values() for product in group):
            for array in product.arrays:
                if id(array) not in rows:
                    rows[id(array)] = len(arrays)
                    arrays.append(array)
        flat = [classes[array.ravel()] for array in arrays]
        starts = np.cumsum([0, *(array.size for array in flat)])[:-1]
        positions = np.concatenate(flat) if flat else np.zeros(0, dtype=np.int64)
        return cls(positions, starts, {key: Terms.of(group, rows) for key, group in products.items()})

    def evaluate(self, quantity: str, alive: NDArray[np.bool_]) -> int:
        """One quantity when only the classes marked in `alive` are left."""
        counts = np.add.reduceat(alive[self.positions].astype(np.int64), self.starts) if self.starts.size else None
        return self.terms[quantity].total(counts)

    def cost(self, alive: NDArray[np.bool_]) -> Cost:
        """All quantities."""
        return Cost(self.evaluate("params", alive), self.evaluate("macs", alive))


@dataclass(frozen=True)
class Terms:
    """A sum of coefficient x product of (count / share); counts are padded with a row of ones."""

    coefficients: NDArray[np.float64]
    rows: Labels
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, products: list[Product], rows: dict[int, int]) -> "Terms":
        """Pad all products to the same number of factors."""
        width = max((len(product.arrays) for product in products), default=0)
        index = np.full((len(products), width), -1, dtype=np.int64)
        shares = np.ones((len(products), width))
        for number, product in enumerate(products):
            for position, (array, share) in enumerate(zip(product.arrays, product.shares, strict=True)):
                index[number, position] = rows[id(array)]
                shares[number, position] = share
        return cls(np.array([product.coefficient for product in products], dtype=np.float64), index, shares)

    def total(self, counts: Labels | None) -> int:
        """The sum for the given counts of living positions."""
        padded = np.ones(1) if counts is None else np.append(counts, 1).astype(np.float64)
        factors = padded[self.rows] / self.shares
        return int(round(float((self.coefficients * factors.prod(axis=1)).sum())))


def _leaf_product(analysis: "Analysis", name: str) -> Product:
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
