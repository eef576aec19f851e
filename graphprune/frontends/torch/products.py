"""Calls of contractions with their tensors: rows of features of their inputs, rows of targets of their outputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...contractions import OPERANDS, Contraction, weight_of
from ...reconstruction import Matrix
from ...refitting import Indices
from .calls import base_name

Tensor = torch.Tensor

_NAMES = ("input", "self", "weight", "other", "mat1", "mat2")
"""What these are called where they are given by name, in their order."""


def operands_of(op: str, func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The data and the weight of a call of an operation ("linear", "conv", "matmul", "addmm")."""
    data, weight = OPERANDS[op]
    operands = list(args) + [kwargs[key] for key in _NAMES if key in kwargs]
    if base_name(func) == "__rmatmul__":
        operands.reverse()
    return operands[data], operands[weight]


@dataclass(frozen=True, eq=False)
class Product:
    """One call of a contraction, with its tensors: rows of its input and of its output can be taken from it."""

    contraction: Contraction
    x: Tensor
    weight: Tensor
    windows: "Windows | None"

    @classmethod
    def of(cls, contraction: Contraction, func: Callable[..., Any], args: Any, kwargs: Any) -> "Product":
        """Read the tensors and the geometry off a call."""
        x, matrix = operands_of(contraction.node.op, func, args, kwargs)
        if not contraction.is_convolution:
            return cls(contraction, x, matrix, None)
        name = base_name(func)
        groups = int(_argument(args, kwargs, 8 if name.endswith("convolution") else 6, "groups", 1))
        own = replace(contraction, groups=groups)  # a pruned one may have fewer
        return cls(own, x, matrix, Windows.of(name, matrix, args, kwargs))

    @property
    def positions(self) -> int:
        """How many rows there are."""
        if self.windows is None:
            return int(prod(self.x.shape[:-1]))
        return int(self._batched.shape[0] * prod(self.windows.counts(self._batched)))

    @property
    def samples(self) -> int:
        """How many samples they come from."""
        x = self.x if self.windows is None else self._batched
        return max(int(x.shape[0]), 1) if x.dim() > 1 else 1

    @property
    def _batched(self) -> Tensor:
        return self.x if self.x.dim() == self.weight.dim() else self.x[None]

    def features(self, rows: Indices) -> Tensor:
        """(groups, rows, features per group) of the input."""
        if self.windows is None:
            return self.x.reshape(-1, self.x.shape[-1])[torch.from_numpy(rows)][None]
        return _by_group(self.windows.patches(self._batched, rows), self.contraction.groups)

    def targets(self, output: Tensor, rows: Indices) -> Tensor:
        """(groups, rows, channels per group) of a tensor of the output's form."""
        if self.windows is not None:
            output = (output if output.dim() == self.weight.dim() else output[None]).movedim(1, -1)
        return _by_group(output.reshape(-1, output.shape[-1])[torch.from_numpy(rows)], self.contraction.groups)


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """(rows, channels...) as (groups, rows, channels of a group)."""
    return rows.reshape(len(rows), groups, -1).transpose(0, 1)


def numbers_of(tensor: Tensor) -> Matrix:
    """The numbers of a tensor as numpy, in float64."""
    return np.asarray(tensor.detach().double().cpu().numpy())


def stored_as(contraction: Contraction, matrix: Matrix, like: Tensor) -> Tensor:
    """A matrix as a weight, in the shape and dtype and on the device of another one."""
    weight = weight_of(contraction, matrix, tuple(like.shape))
    return torch.from_numpy(np.ascontiguousarray(weight)).to(like.device, like.dtype)


@dataclass(frozen=True)
class Windows:
    """How a kernel slides: per axis its size, stride, dilation, and padding before and after.

    A transposed convolution slides with stride 1 over an input whose positions lie `spread` apart, its kernel `turned`
    the other way round.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]
    turned: bool = False

    @classmethod
    def of(cls, name: str, weight: Tensor, args: Any, kwargs: Any) -> "Windows":
        """From the arguments of a convolution of torch: input, weight, bias, stride, padding, dilation, ..."""
        kernel = tuple(weight.shape[2:])
        transposed = "transpose" in name or name.endswith("convolution") and _argument(args, kwargs, 6, "transposed", 0)
        dilated = 7 if "transpose" in name else 5
        stride = _each(_argument(args, kwargs, 3, "stride", 1), kernel)
        dilation = _each(_argument(args, kwargs, dilated, "dilation", 1), kernel)
        reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        given = _argument(args, kwargs, 4, "padding", 0)
        if isinstance(given, str):
            padding = [(span // 2, span - span // 2) if given == "same" else (0, 0) for span in reach]
        else:
            padding = [(size, size) for size in _each(given, kernel)]
        if not transposed:
            return cls(kernel, stride, dilation, tuple(padding), (1,) * len(kernel))
        place = 5 if "transpose" in name else 7
        extra = _each(_argument(args, kwargs, place, "output_padding", 0), kernel)
        pads = tuple(
            (span - low, span - high + more) for span, (low, high), more in zip(reach, padding, extra, strict=True)
        )
        return cls(kernel, (1,) * len(kernel), dilation, pads, stride, turned=True)

    def counts(self, x: Tensor) -> list[int]:
        """How many positions there are along every axis of (samples, channels, ...)."""
        sizes = [
            (size - 1) * spread + 1 + sum(pad)
            for size, spread, pad in zip(x.shape[2:], self.spread, self.padding, strict=True)
        ]
        reach = [step * (size - 1) + 1 for step, size in zip(self.dilation, self.kernel, strict=True)]
        return [(size - span) // step + 1 for size, span, step in zip(sizes, reach, self.stride, strict=True)]

    def patches(self, x: Tensor, rows: Indices) -> Tensor:
        """(rows, channels, kernel...) of the windows at some positions."""
        counts = self.counts(x)
        if any(spread > 1 for spread in self.spread):
            wide = [(size - 1) * spread + 1 for size, spread in zip(x.shape[2:], self.spread, strict=True)]
            spread_out = x.new_zeros([*x.shape[:2], *wide])
            spread_out[_every(self.spread)] = x
            x = spread_out
        x = F.pad(x, [size for pair in reversed(self.padding) for size in pair])
        axes = range(len(self.kernel))
        for axis in axes:
            x = x.unfold(axis + 2, self.dilation[axis] * (self.kernel[axis] - 1) + 1, self.stride[axis])
        x = x[_every(self.dilation)]
        places = np.unravel_index(rows, [x.shape[0], *counts])
        return x.movedim(1, len(self.kernel) + 1)[tuple(torch.from_numpy(place).to(x.device) for place in places)]


def _every(steps: tuple[int, ...]) -> Any:
    """An index that takes every so many positions of the last axes."""
    return (Ellipsis, *(slice(None, None, step) for step in steps))


def _argument(args: Any, kwargs: Any, position: int, name: str, default: Any) -> Any:
    return args[position] if position < len(args) else kwargs.get(name, default)


def _each(given: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    return values * len(kernel) if len(values) == 1 else values
