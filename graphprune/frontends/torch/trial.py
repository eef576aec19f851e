"""Try weights out: by how much the outputs change on calibration data when some weights are replaced."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from ...contractions import Contraction
from ...statistics import Matrix
from .follow import moved
from .inputs import Inputs
from .losses import first_output
from .products import stored_as
from .twins import device_of


class Trial:
    """`trial({name: matrix})` is the squared change of the outputs relative to their energy."""

    def __init__(
        self,
        module: torch.nn.Module,
        contractions: dict[str, Contraction],
        weights: dict[str, torch.Tensor],
        batches: Sequence[Inputs],
    ) -> None:
        self._module, self._contractions, self._weights, self._batches = module, contractions, weights, batches
        self._device = device_of(module)
        self._expected: list[torch.Tensor] | None = None

    def __call__(self, replaced: dict[str, Matrix]) -> float:
        """The relative error with these weights, each (groups, features, channels out)."""
        if self._expected is None:
            self._expected = self._outputs({})
        fresh = {
            name: stored_as(self._contractions[name], matrix, self._weights[name]) for name, matrix in replaced.items()
        }
        apart = energy = 0.0
        for expected, found in zip(self._expected, self._outputs(fresh), strict=True):
            if expected.shape != found.shape:  # how many boxes a detector finds
                return 1.0
            apart += float((found.double() - expected.double()).square().sum())
            energy += float(expected.double().square().sum())
        error = apart / max(energy, 1e-30)
        return error if np.isfinite(error) else 1e6

    def _outputs(self, fresh: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        found = []
        with torch.no_grad():
            for given in self._batches:
                own = moved(given, self._device, copy=True)  # some models write into their inputs
                found.append(first_output(torch.func.functional_call(self._module, fresh, own.args, own.kwargs)))
        return found


def some_of(batches: Sequence[Inputs], samples: int) -> list[Inputs]:
    """The first batches, up to about so many samples; at least one batch, cut where all of its tensors allow it."""
    chosen: list[Inputs] = []
    left = samples
    for given in batches:
        if left <= 0:
            break
        sizes = {leaf.shape[0] for leaf in tree_leaves(given) if _is_tensor(leaf) and leaf.dim()}
        size = sizes.pop() if len(sizes) == 1 else None
        chosen.append(_first(given, left) if size is not None and size > left else given)
        left -= size or 1
    return chosen


def _first(given: Inputs, samples: int) -> Inputs:
    cut: Inputs = tree_map(lambda leaf: leaf[:samples] if _is_tensor(leaf) and leaf.dim() else leaf, given)
    return cut


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)
