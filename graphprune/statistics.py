"""What calibration data says of the stored weights; frontends collect it, criteria read it. Knows no framework."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

INPUTS, PRODUCTS, GRADIENTS, SENSITIVITIES = "inputs", "products", "gradients", "sensitivities"
KINDS = (INPUTS, PRODUCTS, GRADIENTS, SENSITIVITIES)
"""What can be collected; a criterion says which of these it needs."""


@dataclass(frozen=True)
class InputMoments:
    """What flows into the input channels of a weight: means over samples and positions, one per channel.

    `magnitude` is the mean absolute value, `zeros` the share of zeros, `axis` the axis of the stored tensor whose
    positions the channels are.
    """

    mean: Matrix
    magnitude: Matrix
    square: Matrix
    zeros: Matrix
    axis: int

    @property
    def variance(self) -> Matrix:
        """The variance of every channel."""
        return np.maximum(self.square - self.mean**2, 0.0)

    def shaped(self, shape: tuple[int, ...]) -> "InputMoments":
        """The same numbers in another shape: one row per group of a convolution."""
        parts = self.mean, self.magnitude, self.square, self.zeros
        mean, magnitude, square, zeros = (part.reshape(shape) for part in parts)
        return InputMoments(mean, magnitude, square, zeros, self.axis)


@dataclass(frozen=True)
class Products:
    """A weight as the matrix that it is to its features, with what is known of these.

    `weight` is (groups, channels in, kernel, channels out), `second` the mean products of features,
    (groups, channels in x kernel, channels in x kernel), `axis` the axis of the stored tensor that holds the inputs.
    """

    weight: Matrix
    second: Matrix
    axis: int


@dataclass
class Statistics:
    """What was seen, by the name of the weight.

    `inputs`; `products`; `gradients`, the mean gradient of a sample's loss by every element; `squares`, the squared
    gradients of whole batches' losses, added up and divided by the number of samples, which is the mean squared
    gradient of a sample where samples are independent; `sensitivities`, the mean squared gradient of the loss by every
    output channel, summed over positions. `unseen` says why nothing is known of the products of a weight. `trial`
    tells by how much the outputs change, relative to their energy, when some weights are replaced: by name, (groups,
    features, channels out). `costs` remembers what eliminations came to; `progress` is told how far they are.
    """

    samples: int = 0
    inputs: dict[str, InputMoments] = field(default_factory=dict)
    products: dict[str, Products] = field(default_factory=dict)
    gradients: dict[str, Matrix] = field(default_factory=dict)
    squares: dict[str, Matrix] = field(default_factory=dict)
    sensitivities: dict[str, Matrix] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    trial: Callable[[dict[str, Matrix]], float] | None = None
    costs: dict[bytes, Matrix] = field(default_factory=dict)
    progress: Callable[[str, int, int | None], None] | None = None


def added(sums: list[Any] | None, more: list[Any]) -> list[Any]:
    """Running sums with one batch more; `more` alone where there are none yet."""
    return more if sums is None else [old + new for old, new in zip(sums, more, strict=True)]
