"""ONNX Resize and Upsample, exactly as ONNX Runtime rounds.

Every kind of resizing works on one axis after the other: nearest is a gather of constant places, the others take sums
with constant weights. TVM's own operator is used where both agree.
"""

from dataclasses import dataclass

import numpy as np
from tvm import relax

from ..errors import CompileError
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
            data = _sum(node, data, index, axis, *_linear(axis, mode))
        elif kind == "cubic":
            data = _sum(node, data, index, axis, *_cubic(node, axis, mode))
        else:
            raise CompileError(f"mode {kind} is not compiled")
    return data


def _nearest(node: Node, data: relax.Expr, index: int, axis: _Axis, mode: str, rounding: str) -> relax.Expr:
    """The nearest old position for each new one; whole factors repeat each position."""
    if mode == "tf_half_pixel_for_nn":
        rounding = "floor"
    places = np.clip(_ROUND[rounding](axis.places(mode)), 0, axis.old - 1).astype("int64")
    factor = axis.new // axis.old
    if factor * axis.old == axis.new and np.array_equal(places, np.repeat(np.arange(axis.old), factor)):
        return node.emit(relax.op.repeat(data, factor, index))
    return node.emit(relax.op.take(data, relax.const(places), index, mode="clip"))


def _linear(axis: _Axis, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """The two old positions next to each new one, and their shares."""
    places = np.clip(axis.places(mode), 0, axis.old - 1)
    low = np.floor(places).astype("int64")
    share = (places - low).astype("float32")
    return np.stack([low, np.minimum(low + 1, axis.old - 1)]), np.stack([1 - share, share])


def _cubic(node: Node, axis: _Axis, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """The four old positions around each new one, and their shares."""
    a = float(node.attributes.get("cubic_coeff_a", -0.75))
    places = axis.places(mode).astype("float64")
    low = np.floor(places)
    t = places - low
    near, far = (lambda x: ((a + 2) * x - (a + 3)) * x * x + 1), (lambda x: a * (((x - 5) * x + 8) * x - 4))
    shares = np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)])
    taps = low + np.array([[-1], [0], [1], [2]])
    if node.attributes.get("exclude_outside", 0):
        shares = np.where((taps < 0) | (taps >= axis.old), 0, shares)
        shares = shares / shares.sum(axis=0)
    return np.clip(taps, 0, axis.old - 1).astype("int64"), shares.astype("float32")


def _sum(node: Node, data: relax.Expr, index: int, axis: _Axis, places: np.ndarray, shares: np.ndarray) -> relax.Expr:
    """The sum over taps of what lies at `places`, times `shares`."""
    shape = [1] * len(shape_of(data))
    shape[index] = axis.new
    total = None
    for taps, weights in zip(places, shares, strict=True):
        part = node.emit(relax.op.take(data, relax.const(taps), index, mode="clip"))
        part = node.emit(relax.op.multiply(part, relax.const(weights.reshape(shape))))
        total = part if total is None else node.emit(relax.op.add(total, part))
    return total
