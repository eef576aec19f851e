"""Torch operators that are imported by us: as torch computes them, and so that they can stay in blocked layouts."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.base_fx_graph_translator import BaseFXGraphImporter

from . import resizing
from .rewriting import shape_of

Converter = Callable[[fx.Node, BaseFXGraphImporter], relax.Expr]

# Torch would spell these out in simpler operators, which are slower or lose what they are.
_UPSAMPLING = (
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d",
)  # fmt: skip


def _given(node: fx.Node, *names: str) -> list:
    """Positional or keyword arguments of a node, None where they are absent."""
    return [node.args[i] if i < len(node.args) else node.kwargs.get(name) for i, name in enumerate(names)]


def _upsample(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """Interpolation, axis by axis. A factor that was given counts as it is, not as the ratio of the sizes."""
    kind = node.target.__name__.split(".")[0]
    if "nearest" in kind:
        source, _, factors = _given(node, "input", "output_size", "scale_factors")
        corners = False
    else:
        source, _, corners, factors = _given(node, "input", "output_size", "align_corners", "scale_factors")
    data, out = importer.env[source], [int(extent) for extent in node.meta["val"].shape][2:]
    emit = importer.block_builder.emit
    for index, new in enumerate(out):
        axis, old = 2 + index, shape_of(data)[2 + index]
        step = 1 / factors[index] if factors else old / new
        if "nearest" in kind:
            data = resizing.gather(emit, data, axis, _nearest(old, new, step, "exact" in kind))
            continue
        places = _places(old, new, step, bool(corners))
        taps = resizing.cubic(places, old) if "cubic" in kind else resizing.linear(places, old)
        if old != new or not np.array_equal(places, np.arange(old)):
            data = resizing.weighted(emit, data, axis, taps)
    return data


def _nearest(old: int, new: int, step: float, exact: bool) -> np.ndarray:
    """The old position of each new one, rounded in float32 as torch does."""
    numbers = np.arange(new, dtype=np.float32) + np.float32(0.5 if exact else 0)
    return np.clip(np.floor(numbers * np.float32(step)), 0, old - 1).astype("int64")


def _places(old: int, new: int, step: float, corners: bool) -> np.ndarray:
    """Where new positions lie among the old ones."""
    numbers = np.arange(new, dtype=np.float64)
    if corners:
        return numbers * ((old - 1) / (new - 1) if new > 1 else 0.0)
    return (numbers + 0.5) * step - 0.5


def _by_axis(widths: list[int], rank: int) -> dict[int, tuple[int, int]]:
    """Torch names borders from the last axis backwards."""
    return {rank - 1 - i: (int(widths[2 * i]), int(widths[2 * i + 1])) for i in range(len(widths) // 2)}


def _pad(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """Borders of a number, or of positions inside; negative ones cut off."""
    source, widths, mode, value = _given(node, "self", "pad", "mode", "value")
    data, emit = importer.env[source], importer.block_builder.emit
    pairs = _by_axis(widths, len(shape_of(data)))
    if mode in (None, "constant"):
        return _constant_pad(data, pairs, value, emit)
    for axis, (before, after) in sorted(pairs.items()):
        old = shape_of(data)[axis]
        places = np.arange(-before, old + after)
        if mode == "reflect":
            places = np.abs(places)
            places = old - 1 - np.abs(old - 1 - places)
        elif mode == "replicate":
            places = np.clip(places, 0, old - 1)
        else:
            places = places % old
        data = resizing.gather(emit, data, axis, places)
    return data


def _constant_pad(
    data: relax.Expr, pairs: dict[int, tuple[int, int]], value: float | None, emit: Callable
) -> relax.Expr:
    shape = shape_of(data)
    cut = {
        axis: (max(-low, 0), shape[axis] - max(-high, 0)) for axis, (low, high) in pairs.items() if min(low, high) < 0
    }
    if cut:
        starts, ends = ([ends[side] for ends in cut.values()] for side in (0, 1))
        data = emit(relax.op.strided_slice(data, list(cut), starts, ends))
    if not any(max(pair) > 0 for pair in pairs.values()):
        return data
    widths = [max(number, 0) for axis in range(len(shape)) for number in pairs.get(axis, (0, 0))]
    return emit(relax.op.nn.pad(data, widths, "constant", float(value or 0)))


def _constant_pad_nd(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    source, widths, value = _given(node, "self", "pad", "value")
    data = importer.env[source]
    return _constant_pad(data, _by_axis(widths, len(shape_of(data))), value, importer.block_builder.emit)


def _elu(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """scale * x above zero, scale * alpha * (exp(input_scale * x) - 1) below."""
    source, alpha, scale, input_scale = _given(node, "self", "alpha", "scale", "input_scale")
    data, emit = importer.env[source], importer.block_builder.emit
    alpha, scale, input_scale = (1.0 if value is None else float(value) for value in (alpha, scale, input_scale))

    def number(value: float) -> relax.Expr:
        return relax.const(value, str(data.ty.dtype))

    grown = emit(relax.op.exp(emit(relax.op.minimum(relax.op.multiply(data, number(input_scale)), number(0.0)))))
    below = emit(relax.op.multiply(emit(relax.op.subtract(grown, number(1.0))), number(alpha * scale)))
    return emit(relax.op.add(emit(relax.op.multiply(relax.op.nn.relu(data), number(scale))), below))


def _divide(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """Division rounded down or towards zero; a number takes the type of the result."""
    left, right = (importer.env.get(value, value) if isinstance(value, fx.Node) else value for value in node.args[:2])
    mode, dtype = node.kwargs.get("rounding_mode"), str(node.meta["val"].dtype).removeprefix("torch.")
    emit = importer.block_builder.emit

    def operand(value: object) -> relax.Expr:
        if not isinstance(value, relax.Expr):
            return relax.const(value, dtype)
        return value if str(value.ty.dtype) == dtype else emit(relax.op.astype(value, dtype))

    left, right = operand(left), operand(right)
    if mode is None:
        return emit(relax.op.divide(left, right))
    if mode == "floor":
        return emit(relax.op.floor_divide(left, right))
    if not dtype.startswith("int"):
        return emit(relax.op.trunc(emit(relax.op.divide(left, right))))
    # Rounded down, and one up again where that was below zero and not exact.
    low = emit(relax.op.floor_divide(left, right))
    rest = emit(relax.op.subtract(left, emit(relax.op.multiply(low, right))))
    zero = relax.const(0, dtype)
    up = emit(relax.op.logical_and(emit(relax.op.less(low, zero)), emit(relax.op.not_equal(rest, zero))))
    return emit(relax.op.add(low, emit(relax.op.astype(up, dtype))))


def _concatenate(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """Tensors one after the other; torch passes over those of shape (0,) whatever the others' shapes: empty caches."""
    sources, axis = _given(node, "tensors", "dim")
    filled = [source for source in sources if tuple(source.meta["val"].shape) != (0,)] or sources[:1]
    if len(filled) == 1:
        return importer.env[filled[0]]
    return importer.block_builder.emit(relax.op.concat([importer.env[source] for source in filled], axis or 0))


CONVERTERS: dict[str, Converter] = {
    **{f"{name}.vec": _upsample for name in _UPSAMPLING},
    "cat.default": _concatenate,
    "pad.default": _pad,
    "elu.default": _elu,
    "div.Tensor": _divide,
    "div.Scalar": _divide,
    "div.Tensor_mode": _divide,
    "div.Scalar_mode": _divide,
    "constant_pad_nd.default": _constant_pad_nd,
}


def decompositions(converters: Iterable[str]) -> dict:
    """Torch's table of what it spells out, without the operators that we convert whole."""
    table = torch.export.default_decompositions()
    for name in converters:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if operator is not None:
            table.pop(operator, None)
    return table
