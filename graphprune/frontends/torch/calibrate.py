"""What the weights of a module are multiplied with: Gram matrices of their inputs over calibration batches.

A copy of the module is run under a mode that sees the calls of torch. The inputs of a convolution are the patches that
its window sees. Sums are in float64, and made from a bounded number of rows at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from ...errors import CriterionError, DataError
from ...matrices import WeightMatrix
from ...plan import UNTOUCHED
from ...progress import Progress
from .attention import open_attention
from .batches import NO_BATCHES, batches_of, running
from .calls import base_name
from .follow import moved
from .inputs import Inputs
from .products import Windows, operands_of
from .slicing import slim_copy
from .twins import device_of, stored_tensors

PIECE = 1 << 23
"""Numbers of patches that are held at once."""

Gram = NDArray[np.float64]
Measure = Callable[[torch.Tensor], torch.Tensor]


class Calibration:
    """A copy of a module, in evaluation mode, that runs calibration batches; its weights may be changed."""

    def __init__(self, module: torch.nn.Module, example: Inputs, data: Iterable[Any] | None, criterion: str) -> None:
        if data is None:
            raise DataError(
                f"criterion={criterion!r} looks at the inputs of every layer: pass data=, an iterable of batches such "
                "as a DataLoader's"
            )
        self.batches = [batch.inputs for batch in batches_of(data, example)]
        if not self.batches:
            raise DataError(NO_BATCHES)
        self.module = slim_copy(module, UNTOUCHED).eval()
        open_attention(self.module)
        self.tensors = {name: tensor for name, tensor, _ in stored_tensors(self.module)}
        self.device = device_of(self.module)

    def set(self, name: str, weight: NDArray[Any]) -> None:
        """Let a weight have other numbers from now on."""
        with torch.no_grad():
            self.tensors[name].copy_(torch.from_numpy(weight))

    def grams(self, weights: Sequence[WeightMatrix]) -> dict[str, Gram]:
        """The sum of x x^T by name: (groups, kernel x inputs, kernel x inputs)."""
        return self._sums(weights, lambda x: x.transpose(1, 2) @ x)

    def norms(self, weights: Sequence[WeightMatrix], progress: Progress | None = None) -> dict[str, Gram]:
        """The squared length of every input over all batches, by name: (groups, kernel, inputs)."""
        sums = self._sums(weights, lambda x: x.square().sum(1), progress)
        shapes = {weight.name: (weight.shape[0], *weight.shape[2:]) for weight in weights}
        return {name: total.reshape(shapes[name]) for name, total in sums.items()}

    def _sums(
        self, weights: Sequence[WeightMatrix], measure: Measure, progress: Progress | None = None
    ) -> dict[str, Gram]:
        watcher = _Watcher({id(self.tensors[weight.name]): weight for weight in weights}, measure)
        with torch.no_grad():
            for number, batch in enumerate(self.batches):
                if progress is not None:
                    progress("look at inputs", number, len(self.batches))
                inputs = moved(batch, self.device)
                with running(number), watcher:
                    self.module(*inputs.args, **inputs.kwargs)
        for weight in weights:
            total = watcher.sums.get(weight.name)
            if total is None:
                raise CriterionError(
                    f"no batch of data= reaches {weight.name} in a way that shows its inputs: name it in keep=, or "
                    "take criterion='magnitude'"
                )
            if not bool(torch.isfinite(total).all()):
                raise DataError(f"the inputs of {weight.name} are not finite with data=: give other batches")
        return {name: total.cpu().numpy() for name, total in watcher.sums.items()}


class _Watcher(TorchFunctionMode):
    """Adds up what is measured of the inputs of wanted weights."""

    def __init__(self, wanted: dict[int, WeightMatrix], measure: Measure) -> None:
        super().__init__()
        self.wanted, self.measure = wanted, measure
        self.sums: dict[str, torch.Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one call; look at what goes into it."""
        kwargs = kwargs or {}
        name = base_name(func)
        if name in _OPS:
            x, weight = operands_of(_OPS[name], func, args, kwargs)
            wanted = self.wanted.get(id(weight))
            if wanted is not None and _OPS[name] == "conv":
                for piece in _patches(Windows.of(name, weight, args, kwargs), x, wanted):
                    self._add(wanted.name, self.measure(piece.double()))
            elif wanted is not None:
                self._add(wanted.name, self.measure(_rows(x, wanted).double()))
        return func(*args, **kwargs)

    def _add(self, name: str, measured: torch.Tensor) -> None:
        self.sums[name] = self.sums[name] + measured if name in self.sums else measured


_OPS = {
    "linear": "linear",
    "addmm": "addmm",
    **dict.fromkeys(("matmul", "__matmul__", "__rmatmul__", "mm", "bmm"), "matmul"),
    **{f"conv{kind}{n}d": "conv" for kind in ("", "_transpose") for n in (1, 2, 3)},
    "convolution": "conv",
}
"""Call of torch -> what it is."""


def _rows(x: torch.Tensor, weight: WeightMatrix) -> torch.Tensor:
    """The rows that a matrix, or each of a batch of them, is multiplied with: (groups, rows, inputs)."""
    if weight.shape[0] == 1:
        return x.reshape(1, -1, x.shape[-1])
    return x.reshape(-1, weight.shape[0], *x.shape[-2:]).transpose(0, 1).flatten(1, 2)


def _patches(windows: Windows, x: torch.Tensor, weight: WeightMatrix) -> Iterator[torch.Tensor]:
    """What a kernel sees, some samples at a time: (groups, rows, kernel x inputs)."""
    x = x if x.dim() == len(windows.kernel) + 2 else x[None]
    size = prod(windows.counts(x)) * x.shape[1] * prod(windows.kernel)
    for piece in x.split(max(1, PIECE // max(1, size))):
        count = len(piece) * prod(windows.counts(piece))
        seen = windows.patches(piece, np.arange(count)).flatten(2)
        if windows.turned:
            seen = seen.flip(2)
        yield seen.unflatten(1, (weight.shape[0], -1)).permute(1, 0, 3, 2).flatten(2)
