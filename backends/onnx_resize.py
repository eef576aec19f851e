"""ONNX Resize and Upsample, exactly as ONNX Runtime rounds.

Every kind of resizing works on one axis after the other: nearest is a gather of constant places, the others take sums
with constant weights. TVM's own operator is used where both agree.
"""

from dataclasses import dataclass

import numpy as np
from tvm import relax

from ..errors import CompileError
from . import resizing
from .onnx_node import Node
from .rewriting import shape_of

_ROUND = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}
_PLACES = {
    "half_pixel": lambda x, scale, old, new: (x + np.float32(0.5)) / scale - np.float32(0.5),
    "pytorch_half_pixel": lambda x, scale, old, new: (
        (x + np.float32(0.5)) / scale - np.float32(0.5) if new > 1 else np.zeros_like(x)
    ),
    "half_pixel_symmetric": lambda x, scale, old, new: (
        np.float32(old / 2 * (1 - new / (scale * old))) + (x + np.float32(0.5)) / scale - np.float32(0.5)
    ),
    "align_corners": lambda x, scale, old, new: (
        x * np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.zeros_like(x)
    ),
    "asymmetric": lambda x, scale, old, new: x / scale,
    "tf_half_pixel_for_nn": lambda x, scale, old, new: (x + np.float32(0.5)) / scale,
}


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized."""

    old: int
    new: int
    scale: np.float32

    def places(self, mode: str) -> np.ndarray:
        """Where the new positions lie among the old ones."""
        return _PLACES[mode](np.arange(self.new, dtype=np.float32), self.scale, self.old, self.new)


def upsample(node: Node) -> relax.Expr:
    """The older operator: scales only, and places without an offset."""
    scales = node.attributes.get("scales") or node.constant(1)
    if scales is None:
        raise CompileError("its scales are not constant")
    axes = [_scaled(size, scale) for size, scale in zip(shape_of(node.data), np.ravel(scales), strict=True)]
    return _resize(node, axes, "asymmetric", {"nearest_mode": "floor"})


def resize(node: Node) -> relax.Expr:
    """Resize since opset 10."""
    if node.opset < 11:
        return upsample(node)
    mode = node.text("coordinate_transformation_mode", "half_pixel")
    if node.attributes.get("antialias", 0) or mode not in _PLACES:
        what = "antialias" if node.attributes.get("antialias", 0) else mode
        raise CompileError(f"{what} is not compiled")
    return _resize(node, _axes(node), mode, {})


def _axes(node: Node) -> list[_Axis]:
    """Old size, new size and scale of every axis of the tensor."""
    shape = shape_of(node.data)
    which = [int(axis) % len(shape) for axis in node.attributes.get("axes", range(len(shape)))]
    sizes, scales = node.constant(3), node.constant(2)
    result = [_scaled(size, 1.0) for size in shape]
    if sizes is not None and sizes.size:
        policy = node.text("keep_aspect_ratio_policy", "stretch")
        ratios = [int(new) / shape[axis] for axis, new in zip(which, sizes, strict=True)]
        for axis, new in zip(which, sizes, strict=True):
            if policy == "stretch":
                result[axis] = _Axis(shape[axis], int(new), np.float32(int(new) / shape[axis]))
            else:
                scale = (min if policy == "not_larger" else max)(ratios)
                result[axis] = _Axis(shape[axis], int(np.floor(scale * shape[axis] + 0.5)), np.float32(scale))
    elif scales is not None and scales.size:
        for axis, scale in zip(which, scales, strict=True):
            result[axis] = _scaled(shape[axis], scale)
    else:
        raise CompileError("its sizes are not constant")
    return result


def _scaled(size: int, scale: float) -> _Axis:
    return _Axis(size, int(np.floor(np.float32(size) * np.float32(scale))), np.float32(scale))


def _resize(node: Node, axes: list[_Axis], mode: str, defaults: dict[str, str]) -> relax.Expr:
    kind = node.text("mode", "nearest")
    changed = [index for index, axis in enumerate(axes) if axis.old != axis.new or axis.scale != 1]
    data = node.data
    for index in changed:
        axis = axes[index]
        if kind == "nearest":
            rounding = defaults.get("nearest_mode", node.text("nearest_mode", "round_prefer_floor"))
            data = _nearest(node, data, index, axis, mode, rounding)
        elif kind in ("linear", "bilinear", "trilinear"):
            data = resizing.weighted(node.emit, data, index, resizing.linear(axis.places(mode), axis.old))
        elif kind == "cubic":
            taps = resizing.cubic(
                axis.places(mode),
                axis.old,
                float(node.attributes.get("cubic_coeff_a", -0.75)),
                bool(node.attributes.get("exclude_outside", 0)),
            )
            data = resizing.weighted(node.emit, data, index, taps)
        else:
            raise CompileError(f"mode {kind} is not compiled")
    return data


def _nearest(node: Node, data: relax.Expr, index: int, axis: _Axis, mode: str, rounding: str) -> relax.Expr:
    """The nearest old position for each new one; whole factors repeat each position."""
    if mode == "tf_half_pixel_for_nn":
        rounding = "floor"
    places = np.clip(_ROUND[rounding](axis.places(mode)), 0, axis.old - 1).astype("int64")
    return resizing.gather(node.emit, data, index, places)
