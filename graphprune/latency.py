"""Latency as a function of living channels: what the kernels of a model take, from times of some of them.

Convolutions, depthwise convolutions and products with stored matrices are kernels whose time is modelled as
`a + b inner + c outer + d inner outer`, with channel counts rounded up to whole vectors (the staircase of compiled
code) and coefficients that are not negative, fitted to measurements. What the rest of a model takes is spread over its
activations by their bytes. The measurements are a matter of `graphprune.backends.latency`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from .errors import OptionError
from .graph import Node, Value
from .labels import Labels, Product
from .layout import covering
from .memory import VIEWS, size_of

if TYPE_CHECKING:
    from .analysis import Analysis

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def latency_of(text: Any, dense: float) -> float:
    """Seconds that are asked for, of a model that takes `dense` seconds: `"2.5 ms"`, `"800 us"`, or a share, `"60 %"`.

    Raises `OptionError` for anything else: a number alone could be either.

    ```python
    from graphprune.latency import latency_of

    assert latency_of("60 %", dense=0.01) == 0.006
    ```
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|ms|us|µs|%)\s*", text) if isinstance(text, str) else None
    if found is None or float(found[1]) <= 0 or found[2] == "%" and float(found[1]) >= 100:
        raise OptionError(
            f"latency={text!r}: say a time with its unit, '2.5 ms', '800 us' or '0.1 s', or a share of what the model "
            "takes now, '60 %'"
        )
    number = float(found[1])
    return dense * number / 100 if found[2] == "%" else number * _UNITS[found[2]]


class Kernel(NamedTuple):
    """A kind of kernel, whatever its channel counts.

    `kind` is "conv", "depthwise" or "product"; `rows` is the batch of a convolution, or the rows of a product;
    `image` is (height, width) of the input, `window` and `stride` are those of the convolution.
    """

    kind: str
    rows: int
    image: tuple[int, int] = (1, 1)
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1


class Layer(NamedTuple):
    """One call of a kernel: sizes and labels of its input and output channels; None where they are fixed."""

    kernel: Kernel
    sizes: tuple[int, int]
    labels: tuple[Labels | None, Labels | None]


Point = tuple[int, int]
"""Input and output channels that a kernel is measured with."""


def layers_of(analysis: "Analysis") -> list[Layer]:
    """The calls of kernels whose times are modelled one by one, in the order of the program."""
    found = (_layer(analysis, node) for node in analysis.graph.nodes if node.measured)
    return [layer for layer in found if layer is not None]


def _layer(analysis: "Analysis", node: Node) -> Layer | None:
    kernel = _READERS[node.op](node) if node.op in _READERS else None
    if kernel is None:
        return None
    position = 1 if node.op == "addmm" else 0
    value, result = node.inputs[position], node.outputs[0]
    assert value is not None
    axis = 1 if kernel.kind != "product" else -1
    ends = [_channels(analysis, value, axis), _channels(analysis, result, axis)]
    return Layer(kernel, (ends[0][0], ends[1][0]), (ends[0][1], ends[1][1]))


def _channels(analysis: "Analysis", value: Value, axis: int) -> tuple[int, Labels | None]:
    place = axis % len(value.shape)
    array = covering(analysis.layouts.get(value, ()), place)
    return value.shape[place], array.labels if array is not None and array.axes == (place,) else None


def _convolution(node: Node) -> Kernel | None:
    value, weight = node.inputs[0], node.inputs[1]
    if value is None or weight is None or not weight.is_leaf or node.attrs.get("transposed") or len(value.shape) > 4:
        return None
    if len(value.shape) != len(weight.shape) or len(value.shape) < 3:
        return None
    image, window, made = ((1, *shape[2:])[-2:] for shape in (value.shape, weight.shape, node.outputs[0].shape))
    stride = tuple(max(1, round(before / after)) for before, after in zip(image, made, strict=True))
    groups = int(node.attrs.get("groups", 1))
    kind = "depthwise" if groups == value.shape[1] == node.outputs[0].shape[1] else "conv"
    return Kernel(kind, value.shape[0], image, window, stride, 1 if kind == "depthwise" else groups)  # type: ignore[arg-type]


def _product(position: int) -> Callable[[Node], Kernel | None]:
    def read(node: Node) -> Kernel | None:
        value, weight = node.inputs[position], node.inputs[position + 1]
        if value is None or weight is None or not weight.is_leaf or len(weight.shape) != 2:
            return None
        return Kernel("product", prod(value.shape[:-1]))

    return read


_READERS: dict[str, Callable[[Node], Kernel | None]] = {
    "conv": _convolution,
    "linear": _product(0),
    "matmul": _product(0),
    "addmm": _product(1),
}


def points(layers: Sequence[Layer], multiple: int) -> dict[Kernel, list[Point]]:
    """Which channel counts every kernel is to be measured with: corners of what can come out, and the middle.

    Counts are multiples of `multiple` (of every group), where they are not fixed.
    """
    ranges: dict[Kernel, tuple[set[int], set[int]]] = {}
    for layer in layers:
        known = ranges.setdefault(layer.kernel, (set(), set()))
        for sizes, size, labels in zip(known, layer.sizes, layer.labels, strict=True):
            step = multiple if layer.kernel.groups == 1 else layer.kernel.groups
            low = max(step, size // 4 // step * step)
            sizes.update([size] if labels is None else [min(low, size), size])
    found: dict[Kernel, list[Point]] = {}
    for kernel, (inner, outer) in ranges.items():
        step = multiple if kernel.groups == 1 else kernel.groups
        ends = [sorted({min(sizes), max(sizes)}) for sizes in (inner, outer)]
        middle = [ceil(sum(sizes) / len(sizes) / step) * step if len(sizes) > 1 else sizes[0] for sizes in ends]
        if kernel.kind == "depthwise":
            found[kernel] = list(dict.fromkeys((n, n) for n in (*ends[0], middle[0])))
        else:
            found[kernel] = list(dict.fromkeys([*((a, b) for a in ends[0] for b in ends[1]), (middle[0], middle[1])]))
    return found


@dataclass(frozen=True)
class Clock:
    """Nanoseconds of a model as a function of living channels; see the module.

    `curves` are the coefficients of every kernel, for counts rounded up to `lanes`; `rest` is what all else takes when
    nothing is pruned, in proportion to the bytes of `work`.
    """

    layers: tuple[Layer, ...]
    curves: Mapping[Kernel, NDArray[np.float64]]
    lanes: int
    rest: float
    work: tuple[Product, ...]

    @classmethod
    def of(
        cls, analysis: "Analysis", times: Mapping[Kernel, Mapping[Point, float]], lanes: int, dense: float
    ) -> "Clock":
        """Fit the curves to measured seconds; `dense` are those of the whole model, of which the kernels are a part."""
        layers = tuple(layers_of(analysis))
        curves = {kernel: 1e9 * _fitted(kernel, measured, lanes) for kernel, measured in times.items()}
        nodes = [node for node in analysis.graph.nodes if node.measured and node.op not in VIEWS]
        work = tuple(size_of(analysis, value) for node in nodes for value in node.outputs)
        own = sum(float(_basis(np.array(layer.sizes), lanes, layer.kernel) @ curves[layer.kernel]) for layer in layers)
        # where kernels take longer alone than together, there is no rest, and all of them count a little less
        shrink = min(1.0, 1e9 * dense / own) if own else 1.0
        scaled = {kernel: curve * shrink for kernel, curve in curves.items()}
        return cls(layers, scaled, lanes, max(0.0, 1e9 * dense - own), work)

    def loads(self, arrays: Any) -> Callable[[Any], NDArray[np.float64]]:
        """A function from living positions of every array to nanoseconds, shape (..., 1); `arrays` numbers them."""
        from .cost import Terms

        terms = Terms.of(list(self.work), arrays)
        whole = sum(product.coefficient * prod(array.size for array in product.arrays) for product in self.work)
        rows = [tuple(None if own is None else arrays.row(own) for own in layer.labels) for layer in self.layers]

        def nanoseconds(counts: Any) -> NDArray[np.float64]:
            total: NDArray[np.float64] = self.rest * terms.values(counts).sum(axis=-1) / max(whole, 1)
            for layer, own in zip(self.layers, rows, strict=True):
                sizes = [
                    np.full(counts.shape[:-1], size) if row is None else counts[..., row]
                    for size, row in zip(layer.sizes, own, strict=True)
                ]
                total = total + _basis(np.stack(sizes, axis=-1), self.lanes, layer.kernel) @ self.curves[layer.kernel]
            return np.expand_dims(total, -1)

        return nanoseconds


def _basis(sizes: NDArray[Any], lanes: int, kernel: Kernel) -> NDArray[np.float64]:
    """1, inner, outer and their product, along a new last axis; `sizes` holds (inner, outer) along the last one."""
    whole = np.ceil(sizes / lanes) * lanes if kernel.groups == 1 else sizes
    inner, outer = whole[..., 0], whole[..., 1]
    both = np.zeros_like(inner) if kernel.kind == "depthwise" else inner * outer
    return np.stack([np.ones_like(inner, dtype=np.float64), inner, outer, both], axis=-1).astype(np.float64)


def _fitted(kernel: Kernel, measured: Mapping[Point, float], lanes: int) -> NDArray[np.float64]:
    """Coefficients that are not negative, with the least relative error."""
    seconds = np.array(list(measured.values()))
    basis = _basis(np.array(list(measured)), lanes, kernel)
    scale = np.maximum(basis.max(axis=0), 1.0)
    solution, _ = nnls(basis / scale / seconds[:, None], np.ones(seconds.size))
    result: NDArray[np.float64] = solution / scale
    return result
