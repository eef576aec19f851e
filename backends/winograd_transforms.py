"""The numbers of the Winograd algorithm, and its transforms of inputs and products as expressions.

Algorithm: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). The points of size 4 are not
the usual (0, 1, -1, 2, -2): with these the largest error is five times that of (0, 5/8, -5/8, 3/2, -3/2). How points
matter: Barabasz, Anderson, Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution
for Deep Neural Networks" (2020).
"""

from fractions import Fraction
from math import prod

import numpy as np
from tvm import tirx

KERNEL = 3
# Zero and pairs of opposite numbers, one point less than the tile of inputs is wide; the last one is infinity.
POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}
SIZES = tuple(POINTS)


def transforms(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices of the algorithm for outputs, weights and inputs: `y = A ((G w) * (B x))` in one dimension."""
    points, span = POINTS[size], size + KERNEL - 1
    output = [[point**row for point in points] + [Fraction(int(row == size - 1))] for row in range(size)]
    scales = [prod((p - q for q in points if q != p), start=Fraction(1)) for p in points]
    weight = [[p**column / scale for column in range(KERNEL)] for p, scale in zip(points, scales, strict=True)]
    weight.append([Fraction(0)] * (KERNEL - 1) + [Fraction(1)])
    inputs = [_polynomial([q for q in points if q != p], span) for p in points] + [_polynomial(list(points), span)]
    return tuple(np.array(matrix, dtype=object).astype(np.float64) for matrix in (output, weight, inputs))


def _polynomial(roots: list[Fraction], length: int) -> list[Fraction]:
    """Coefficients of the product of all `x - root`, lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [s - root * c for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients + [Fraction(0)] * (length - len(coefficients))


def _scaled(coefficient: float, value: tirx.Expr) -> tirx.Expr:
    return value if coefficient == 1 else tirx.const(coefficient, "float32") * value


def _plus(total: tirx.Expr, coefficient: float, value: tirx.Expr) -> tirx.Expr:
    return total + _scaled(coefficient, value) if coefficient > 0 else total - _scaled(-coefficient, value)


def _sum(coefficients: list[float], values: list[tirx.Expr]) -> tuple[float, tirx.Expr]:
    """A sum as its last coefficient and what that multiplies, which is alike in rows that are multiples."""
    *terms, (scale, total) = [(c, v) for c, v in zip(coefficients, values, strict=True) if c]
    for coefficient, value in terms:
        total = _plus(total, coefficient / scale, value)
    return scale, total


def input_row(row: np.ndarray, values: list[tirx.Expr]) -> tirx.Expr:
    """One row of the input transform: even and odd powers apart, for rows of opposite points share both sums."""
    parts = [_sum(row[first::2].tolist(), values[first::2]) for first in (0, 1) if row[first::2].any()]
    (scale, total), *odd = parts
    total = _scaled(scale, total)
    return _plus(total, *odd[0]) if odd else total


def output_row(row: np.ndarray, values: list[tirx.Expr]) -> tirx.Expr:
    """One row of the output transform: the products of opposite points enter as their sum or difference."""
    total = None
    for first in range(1, len(row) - 1, 2):
        left, right = values[first], values[first + 1]
        term = _scaled(float(row[first]), left + right if row[first + 1] > 0 else left - right)
        total = term if total is None else total + term
    for place in (0, len(row) - 1):
        if row[place]:
            total = total + values[place]
    return total
