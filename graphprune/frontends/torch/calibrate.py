"""What the weights of a module are multiplied with: Gram matrices of their inputs over calibration batches.

A copy of the module is run under a mode that sees the calls of torch. The inputs of a convolution are the patches that
its window sees. Sums are in float64, and made from a bounded number of rows at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ...errors import CriterionError, DataError
from ...matrices import WeightMatrix
from ...plan import UNTOUCHED
from .attention import open_attention
from .batches import batches_of
from .calls import base_name
from .inputs import Inputs
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
            raise DataError(
                f"data= gave no batch, and criterion={criterion!r} needs some; a generator can be read once only: give "
                "a list or a DataLoader"
            )
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

    def norms(self, weights: Sequence[WeightMatrix]) -> dict[str, Gram]:
        """The squared length of every input over all batches, by name: (groups, kernel, inputs)."""
        sums = self._sums(weights, lambda x: x.square().sum(1))
        shapes = {weight.name: (weight.shape[0], *weight.shape[2:]) for weight in weights}
        return {name: total.reshape(shapes[name]) for name, total in sums.items()}

    def _sums(self, weights: Sequence[WeightMatrix], measure: Measure) -> dict[str, Gram]:
        watcher = _Watcher({id(self.tensors[weight.name]): weight for weight in weights}, measure)
        with torch.no_grad():
            for number, batch in enumerate(self.batches):
                inputs = tree_map(self._moved, batch)
                try:
                    with watcher:
                        self.module(*inputs.args, **inputs.kwargs)
                except Exception as error:
                    raise DataError(f"the model does not run on batch {number} of data=: {error}") from error
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

    def _moved(self, item: Any) -> Any:
        return item.to(self.device) if isinstance(item, torch.Tensor) else item


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
        if name in _READERS:
            x, weight, rows = _READERS[name](args, kwargs)
            wanted = self.wanted.get(id(weight))
            if wanted is not None:
                for piece in rows(x, wanted):
                    self._add(wanted.name, self.measure(piece.double()))
        return func(*args, **kwargs)

    def _add(self, name: str, measured: torch.Tensor) -> None:
        self.sums[name] = self.sums[name] + measured if name in self.sums else measured


Rows = Callable[[torch.Tensor, WeightMatrix], Iterator[torch.Tensor]]
"""The rows that a weight is multiplied with, in pieces (groups, rows, kernel x inputs)."""


def _flat(x: torch.Tensor, weight: WeightMatrix) -> Iterator[torch.Tensor]:
    if weight.shape[0] == 1:
        yield x.reshape(1, -1, x.shape[-1])
    else:  # a batch of matrices
        yield x.reshape(-1, weight.shape[0], *x.shape[-2:]).transpose(0, 1).flatten(1, 2)


def _linear(args: Any, kwargs: Any) -> tuple[torch.Tensor, Any, Rows]:
    return _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight"), _flat


def _matmul(args: Any, kwargs: Any) -> tuple[torch.Tensor, Any, Rows]:
    return _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "other"), _flat


def _addmm(args: Any, kwargs: Any) -> tuple[torch.Tensor, Any, Rows]:
    return _argument(args, kwargs, 1, "mat1"), _argument(args, kwargs, 2, "mat2"), _flat


def _argument(args: Any, kwargs: Any, place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _convolution(transposed: bool) -> Callable[[Any, Any], tuple[torch.Tensor, Any, Rows]]:
    """conv: input, weight, bias, stride, padding, dilation, groups; transposed: output_padding before groups."""

    def read(args: Any, kwargs: Any) -> tuple[torch.Tensor, Any, Rows]:
        x, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
        dims = weight.dim() - 2
        stride = _sizes(_argument(args, kwargs, 3, "stride", 1), dims)
        padding = _sizes(_argument(args, kwargs, 4, "padding", 0), dims)
        extra = _sizes(_argument(args, kwargs, 5, "output_padding", 0), dims) if transposed else (0,) * dims
        dilation = _sizes(_argument(args, kwargs, 7 if transposed else 5, "dilation", 1), dims)
        kernel = tuple(weight.shape[2:])

        def rows(x: torch.Tensor, wanted: WeightMatrix) -> Iterator[torch.Tensor]:
            x = x if x.dim() == dims + 2 else x.unsqueeze(0)
            step = max(1, PIECE // max(1, x[:1].numel() * int(np.prod(kernel))))
            for start in range(0, len(x), step):
                piece = x[start : start + step]
                if transposed:
                    yield _patches(*_stuffed(piece, kernel, stride, padding, dilation, extra), kernel, wanted, True)
                else:
                    pads = _pads(padding, kernel, dilation)
                    yield _patches(F.pad(piece, pads), stride, dilation, kernel, wanted, False)

        return x, weight, rows

    return read


def _sizes(value: Any, dims: int) -> Any:
    if isinstance(value, str):
        return value
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return sizes * dims if len(sizes) == 1 else sizes


def _pads(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Padding as `F.pad` takes it: last axis first, both sides."""
    if padding == "valid":
        return [0] * 2 * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return [side for size in reversed(padding) for side in (size, size)]


def _stuffed(
    x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, extra: Any
) -> tuple[torch.Tensor, tuple[int, ...], Any]:
    """The input of the plain convolution that a transposed one is: zeros between positions and around them."""
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *sizes)
    places: Any = (..., *(slice(None, None, step) for step in stride))
    wide[places] = x
    pads = [
        side
        for k, p, d, e in reversed(list(zip(kernel, padding, dilation, extra, strict=True)))
        for side in (d * (k - 1) - p, d * (k - 1) - p + e)
    ]
    return F.pad(wide, pads), (1,) * len(kernel), dilation


def _patches(
    x: torch.Tensor, stride: Any, dilation: Any, kernel: Any, weight: WeightMatrix, flipped: bool
) -> torch.Tensor:
    """(groups, rows, kernel x inputs) of a padded input (samples, channels, ...)."""
    dims = len(kernel)
    for axis, (size, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, spread * (size - 1) + 1, step)[..., ::spread]
    if flipped:
        x = x.flip([*range(2 + dims, 2 + 2 * dims)])
    x = x.unflatten(1, (weight.shape[0], -1))
    places, window = range(3, 3 + dims), range(3 + dims, 3 + 2 * dims)
    return x.permute(1, 0, *places, *window, 2).reshape(weight.shape[0], -1, weight.shape[2] * weight.shape[3])


_READERS: dict[str, Callable[[Any, Any], tuple[torch.Tensor, Any, Rows]]] = {
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm"), _matmul),
    **{f"conv{n}d": _convolution(False) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution(True) for n in (1, 2, 3)},
}
"""Call of torch -> its input, its weight, and how rows come from the input."""
