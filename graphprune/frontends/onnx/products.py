"""Contractions of an ONNX model on real data: rows of features of their inputs, rows of targets of their outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...contractions import Contraction, contraction_of
from ...graph import Node
from .tracing import STANDARD, first_name

Array = NDArray[Any]

_KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def contraction_in(node: Node, nodes: Mapping[str, ir.Node]) -> Contraction | None:
    """How a node of an analysis contracts its input in a model whose nodes are given by their first outputs.

    None for other nodes, and for those that do more than contract. In a pruned model there may be fewer groups.
    """
    found, own = contraction_of(node), nodes.get(node.name)
    if found is None or own is None or own.op_type not in _KINDS or own.domain not in STANDARD:
        return None
    if own.op_type == "Gemm" and (_number(own, "alpha") != 1 or _number(own, "beta") != 1 or _number(own, "transA", 0)):
        return None
    if own.inputs[0] is None or own.inputs[0].name != data_of(found) or not _is_vector(found):
        return None
    return replace(found, groups=int(_number(own, "group"))) if found.is_convolution else found


def _is_vector(contraction: Contraction) -> bool:
    """Whether the bias, where there is one, is one number per channel: that of a Gemm may be a matrix."""
    bias = next((value for value in contraction.node.inputs if value and value.name == contraction.bias), None)
    return bias is None or prod(bias.shape) == bias.shape[-1]


def nodes_of(model: ir.Model) -> dict[str, ir.Node]:
    """The nodes of a model by their first outputs."""
    return {first_name(node): node for node in model.graph}


def data_of(contraction: Contraction) -> str:
    """The name of what a contraction reads beside its weight."""
    place = 1 if contraction.node.op == "addmm" else 0
    value = contraction.node.inputs[place]
    assert value is not None
    return value.name


def _number(node: ir.Node, name: str, default: float = 1.0) -> float:
    attr = node.attributes.get(name)
    return default if attr is None else attr.value


def _numbers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    attr = node.attributes.get(name)
    return default if attr is None or not attr.value else [int(item) for item in attr.value]


@dataclass(frozen=True, eq=False)
class Product:
    """One call of a contraction: `x` is its input, `target` what it should give, where that matters."""

    contraction: Contraction
    x: Array
    windows: "Windows | None"
    target: Array | None = None

    @classmethod
    def of(cls, contraction: Contraction, own: ir.Node, x: Array, target: Array | None = None) -> "Product":
        """Read the geometry off a node."""
        if not contraction.is_convolution:
            return cls(contraction, x, None, target)
        weight = contraction.node.inputs[1]
        assert weight is not None
        return cls(contraction, x, Windows.of(own, weight.shape[2:], x.shape[2:]), target)

    @property
    def positions(self) -> int:
        """How many rows there are."""
        return prod(self.x.shape[:-1]) if self.windows is None else len(self.x) * prod(self.windows.counts(self.x))

    @property
    def samples(self) -> int:
        """How many samples they come from."""
        return max(len(self.x), 1)

    @property
    def fits(self) -> bool:
        """Whether the target has a row for every one of the input."""
        place = -1 if self.windows is None else 1
        return self.target is not None and self.target.size == self.positions * self.target.shape[place]

    def features(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(groups, rows, features per group) of the input."""
        if self.windows is None:
            return np.asarray(self.x.reshape(-1, self.x.shape[-1])[rows][None], dtype=np.float32)
        patches = self.windows.patches(self.x, rows)
        return _by_group(patches, self.contraction.groups)

    def targets(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(groups, rows, channels per group) of what should come out."""
        assert self.target is not None
        channels = -1 if self.windows is None else 1
        flat = np.moveaxis(self.target, channels, -1).reshape(-1, self.target.shape[channels])[rows]
        return _by_group(flat, self.contraction.groups)


def _by_group(rows: Array, groups: int) -> NDArray[np.float32]:
    """(rows, channels...) as (groups, rows, channels of a group)."""
    return np.asarray(rows.reshape(len(rows), groups, -1).transpose(1, 0, 2), dtype=np.float32)


@dataclass(frozen=True)
class Windows:
    """How a kernel slides: per axis its size, stride, dilation, and padding before and after.

    A transposed convolution slides with stride 1 over an input whose positions lie `spread` apart.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node, kernel: tuple[int, ...], sizes: tuple[int, ...]) -> "Windows":
        """From the attributes of a convolution on an input of some sizes."""
        dims = len(kernel)
        strides, dilations = _numbers(node, "strides", [1] * dims), _numbers(node, "dilations", [1] * dims)
        reach = [step * (size - 1) for step, size in zip(dilations, kernel, strict=True)]
        make = _turned if node.op_type == "ConvTranspose" else _forward
        padding = make(node, sizes, strides, reach)
        ones = [1] * dims
        stride, spread = (ones, strides) if node.op_type == "ConvTranspose" else (strides, ones)
        return cls(tuple(kernel), tuple(stride), tuple(dilations), tuple(padding), tuple(spread))

    def counts(self, x: Array) -> list[int]:
        """How many positions there are along every axis of (samples, channels, ...)."""
        sizes = [
            (size - 1) * spread + 1 + sum(pad)
            for size, spread, pad in zip(x.shape[2:], self.spread, self.padding, strict=True)
        ]
        return [
            (size - wide * (kernel - 1) - 1) // step + 1
            for size, kernel, wide, step in zip(sizes, self.kernel, self.dilation, self.stride, strict=True)
        ]

    def patches(self, x: Array, rows: NDArray[np.int64]) -> Array:
        """(rows, channels, kernel...) of the windows at some positions."""
        axes = tuple(range(2, x.ndim))
        reach = [step * (size - 1) + 1 for step, size in zip(self.dilation, self.kernel, strict=True)]
        seen = np.lib.stride_tricks.sliding_window_view(self._padded(x), reach, axes)
        every = [slice(None, None, step) for step in (1, 1, *self.stride, *self.dilation)]
        seen = np.moveaxis(seen[tuple(every)], 1, len(axes) + 1)
        return np.asarray(seen[np.unravel_index(rows, [len(x), *self.counts(x)])])

    def _padded(self, x: Array) -> Array:
        """The input spread out, with zeros around it; padding below zero cuts off."""
        wide = [(size - 1) * spread + 1 for size, spread in zip(x.shape[2:], self.spread, strict=True)]
        around = [(max(low, 0), max(high, 0)) for low, high in self.padding]
        sizes = [size + low + high for size, (low, high) in zip(wide, around, strict=True)]
        padded = np.zeros([*x.shape[:2], *sizes], dtype=x.dtype)
        inside = [slice(low, low + size, step) for (low, _), size, step in zip(around, wide, self.spread, strict=True)]
        padded[tuple([slice(None), slice(None), *inside])] = x
        cuts = [
            slice(max(-low, 0), size - max(-high, 0)) for (low, high), size in zip(self.padding, sizes, strict=True)
        ]
        return padded[tuple([slice(None), slice(None), *cuts])]


def _forward(node: ir.Node, sizes: tuple[int, ...], strides: list[int], reach: list[int]) -> list[tuple[int, int]]:
    """Padding of a convolution."""
    auto, dims = _auto(node), len(sizes)
    pads = _numbers(node, "pads", [0] * 2 * dims)
    if auto == "VALID":
        return [(0, 0)] * dims
    if auto == "NOTSET":
        return list(zip(pads[:dims], pads[dims:], strict=True))
    totals = [
        max((-(-size // step) - 1) * step + span + 1 - size, 0)
        for size, step, span in zip(sizes, strides, reach, strict=True)
    ]
    return [_halves(total, auto == "SAME_UPPER") for total in totals]


def _turned(node: ir.Node, sizes: tuple[int, ...], strides: list[int], reach: list[int]) -> list[tuple[int, int]]:
    """Padding of the convolution that a transposed one is."""
    auto, dims = _auto(node), len(sizes)
    pads, more = _numbers(node, "pads", [0] * 2 * dims), _numbers(node, "output_padding", [0] * dims)
    wanted = _numbers(node, "output_shape", [])[-dims:]
    found = []
    for axis, (size, step, span) in enumerate(zip(sizes, strides, reach, strict=True)):
        begin, end = (0, 0) if auto == "VALID" else (pads[axis], pads[dims + axis])
        if wanted or auto.startswith("SAME"):
            out = wanted[axis] if wanted else size * step
            begin, end = _halves(max(step * (size - 1) + more[axis] + span + 1 - out, 0), auto == "SAME_UPPER")
        found.append((span - begin, span - end + more[axis]))
    return found


def _auto(node: ir.Node) -> str:
    attr = node.attributes.get("auto_pad")
    return "NOTSET" if attr is None else str(attr.value)


def _halves(total: int, upper: bool) -> tuple[int, int]:
    """Begin and end; the larger half at the end where `upper`."""
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)
