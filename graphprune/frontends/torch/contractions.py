"""Products with a stored weight as plain linear algebra: rows of features times a matrix, group by group.

A convolution is a linear layer on patches, a transposed one a convolution on an input spread out with zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...graph import Node, Value
from .calls import base_name

Tensor = torch.Tensor

_OPERANDS: dict[str, tuple[int, int]] = {
    "linear": (0, 1),
    "conv": (0, 1),
    "matmul": (0, 1),
    "addmm": (1, 2),
}
"""Operation -> which of its inputs are the data and the weight."""

_NAMES = ("input", "self", "weight", "other", "mat1", "mat2")
"""What these are called where they are given by name, in their order."""


@dataclass(frozen=True, eq=False)
class Contraction:
    """One product with a stored weight and perhaps a bias, by their names, that nothing else reads."""

    node: Node
    weight: str
    bias: str | None
    groups: int
    transposed: bool

    @property
    def is_convolution(self) -> bool:
        """Whether it slides over its input."""
        return self.node.op == "conv"

    @property
    def stores_inputs_first(self) -> bool:
        """Whether the first axis of the weight is that of the inputs."""
        return self.transposed or self.node.op in ("matmul", "addmm")

    @property
    def input_axis(self) -> int:
        """The axis of the weight along which inputs are summed up."""
        return 0 if self.stores_inputs_first else 1

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has a kernel of its own."""
        value, weight = self.node.inputs[0], self.node.inputs[1]
        return self.groups > 1 and value is not None and weight is not None and self.groups == weight.shape[0]

    @property
    def channel_axis(self) -> int:
        """The axis of the output, counted from its end, that holds the output channels."""
        value = self.node.inputs[1]
        return 1 - len(value.shape) if self.is_convolution and value is not None else -1


def contraction_of(node: Node) -> Contraction | None:
    """How a node contracts its input with a weight of its own; None for other nodes."""
    if not is_product(node) or refusal_of(node):
        return None
    weight = _input(node, _OPERANDS[node.op][1])
    bias = _input(node, 0 if node.op == "addmm" else 2)
    assert weight is not None
    groups, transposed = int(node.attrs.get("groups", 1)), bool(node.attrs.get("transposed"))
    return Contraction(node, weight.name, None if bias is None else bias.name, groups, transposed)


def is_product(node: Node) -> bool:
    """Whether a node multiplies what is computed with a stored weight."""
    if node.op not in _OPERANDS or not node.measured:
        return False
    data, weight = (_input(node, place) for place in _OPERANDS[node.op])
    return data is not None and weight is not None and not data.is_leaf and weight.is_leaf


def refusal_of(node: Node) -> str:
    """Why the weight of a product is not one that can be looked at and moved alone; empty where it is."""
    weight = _input(node, _OPERANDS[node.op][1])
    bias = _input(node, 0 if node.op == "addmm" else 2)
    assert weight is not None
    if weight.uses != 1:
        return f"its weight is used {weight.uses} times"
    if weight.kind != "parameter":
        return "its weight is not a parameter"
    if len(weight.shape) < 2 or node.op in ("matmul", "addmm") and len(weight.shape) != 2:
        return "it is no product with a matrix"
    if node.attrs.get("scaled"):
        return "its result is scaled"
    if bias is not None and not (bias.is_leaf and bias.kind == "parameter"):
        return "its bias is not a parameter"
    if bias is not None and bias.uses != 1:
        return f"its bias is used {bias.uses} times"
    return ""


def _input(node: Node, place: int) -> Value | None:
    return node.inputs[place] if place < len(node.inputs) else None


def operands_of(op: str, func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The data and the weight of a call of an operation ("linear", "conv", "matmul", "addmm")."""
    data, weight = _OPERANDS[op]
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
    def _batched(self) -> Tensor:
        return self.x if self.x.dim() == self.weight.dim() else self.x[None]

    def features(self, rows: Tensor) -> Tensor:
        """(groups, rows, features per group) of the input."""
        if self.windows is None:
            return self.x.reshape(-1, self.x.shape[-1])[rows][None]
        patches = self.windows.patches(self._batched, rows)
        return patches.reshape(len(rows), self.contraction.groups, -1).transpose(0, 1)

    def targets(self, output: Tensor, rows: Tensor) -> Tensor:
        """(groups, rows, channels per group) of a tensor of the output's form."""
        groups = self.contraction.groups
        if self.windows is None:
            return output.reshape(-1, output.shape[-1])[rows][None]
        if output.dim() < self.weight.dim():
            output = output[None]
        flat = output.movedim(1, -1).reshape(-1, output.shape[1])
        return flat[rows].reshape(len(rows), groups, -1).transpose(0, 1)

    def matrix(self) -> Tensor:
        """The weight as (groups, features per group, channels per group)."""
        return matrix_of(self.contraction, self.weight)


def matrix_of(contraction: Contraction, weight: Tensor) -> Tensor:
    """A weight as (groups, features per group, channels per group): features times it give channels."""
    groups = contraction.groups
    if not contraction.is_convolution:
        return (weight if contraction.stores_inputs_first else weight.T)[None]
    if contraction.transposed:
        split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return _flipped(split).reshape(groups, -1, weight.shape[1])
    return weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)


def _flipped(split: Tensor) -> Tensor:
    """(groups, in, out, kernel...) as (groups, in, kernel..., out) with the kernel the other way round."""
    return split.flip(list(range(3, split.dim()))).movedim(2, -1)


def weight_of(contraction: Contraction, matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `matrix_of`, in the shape and dtype of a weight."""
    if not contraction.is_convolution:
        weight = matrix[0] if contraction.stores_inputs_first else matrix[0].T
    elif contraction.transposed:
        groups, kernel = contraction.groups, like.shape[2:]
        split = matrix.reshape(groups, like.shape[0] // groups, *kernel, like.shape[1]).movedim(-1, 2)
        weight = split.flip(list(range(3, split.dim())))
    else:
        weight = matrix.transpose(1, 2)
    return weight.reshape(like.shape).to(like.dtype)


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

    def patches(self, x: Tensor, rows: Tensor) -> Tensor:
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
        places = np.unravel_index(rows.cpu().numpy(), [x.shape[0], *counts])
        return x.movedim(1, len(self.kernel) + 1)[tuple(torch.from_numpy(place).to(x.device) for place in places)]


def _every(steps: tuple[int, ...]) -> Any:
    """An index that takes every so many positions of the last axes."""
    return (Ellipsis, *(slice(None, None, step) for step in steps))


def _argument(args: Any, kwargs: Any, position: int, name: str, default: Any) -> Any:
    return args[position] if position < len(args) else kwargs.get(name, default)


def _each(given: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    return values * len(kernel) if len(values) == 1 else values
