"""Lowers max and average pools of blocked values."""

import numpy as np
from tvm import relax

from . import window
from .layout import Blocked, as_image
from .lower_convolution import border_of, pair
from .lowering import Lowering, Value
from .rewriting import shape_of


def _sliding(lowering: Lowering, call: relax.Call, data: Blocked, kind: str, out_shape: tuple) -> window.Window:
    attrs = call.attrs
    batch, _, height, width = as_image(data.shape)
    top, left, _, _ = border_of(attrs.padding)
    return window.Window(
        kind=kind,
        size=(batch, data.blocks, height, width, lowering.lanes),
        kernel=pair(attrs.pool_size, 1),
        stride=pair(attrs.strides, 1),
        dilation=pair(attrs.dilation, 1),
        before=(top, left),
        out_size=as_image(out_shape)[2:],
        registers=lowering.target.accumulators,
        core=lowering.target.core,
    )


def _max(lowering: Lowering, call: relax.Call) -> Value | None:
    data = lowering.value(call.args[0])
    if not isinstance(data, Blocked):
        return None
    out_shape = shape_of(call)
    numbers = lowering.choose(_sliding(lowering, call, data, "max", out_shape).candidates())
    result = lowering.kernel("max_pool", lambda d: window.compute(numbers, d), data.expr)
    return lowering.wrap(result, out_shape, data.segments)


def _average(lowering: Lowering, call: relax.Call) -> Value | None:
    data = lowering.value(call.args[0])
    if not isinstance(data, Blocked):
        return None
    out_shape = shape_of(call)
    numbers = lowering.choose(_sliding(lowering, call, data, "sum", out_shape).candidates())
    total = lowering.kernel("average_pool", lambda d: window.compute(numbers, d), data.expr)
    share = 1 / _counts(numbers, border_of(call.attrs.padding), bool(call.attrs.count_include_pad))
    factor = relax.const(np.ascontiguousarray(share.astype("float32").reshape(1, 1, *share.shape, 1)))
    return lowering.wrap(lowering.builder.emit(relax.op.multiply(total, factor)), out_shape, data.segments)


def _counts(numbers: window.Window, border: tuple[int, int, int, int], with_border: bool) -> np.ndarray:
    """How many positions each window averages over: those inside the input, or inside its border as well."""
    counts = [
        counts_along(
            numbers.size[2 + axis], numbers.out_size[axis], numbers.kernel[axis], numbers.stride[axis],
            numbers.dilation[axis], (border[axis], border[2 + axis]), with_border,
        )
        for axis in range(2)
    ]  # fmt: skip
    counted = counts[0][:, None] * counts[1][None, :]
    return np.full((1, 1), counted[0, 0]) if (counted == counted[0, 0]).all() else counted


def counts_along(
    size: int, out: int, kernel: int, stride: int, dilation: int, border: tuple[int, int], with_border: bool
) -> np.ndarray:
    """How many positions each window averages over along one axis."""
    low, high = (-border[0], size + border[1]) if with_border else (0, size)
    starts = np.arange(out) * stride - border[0]
    taps = starts[:, None] + np.arange(kernel)[None, :] * dilation
    return ((taps >= low) & (taps < high)).sum(axis=1)


def _adaptive(lowering: Lowering, call: relax.Call) -> Value | None:
    """An adaptive pool whose windows are all alike is a sum over a reshaped tensor."""
    data = lowering.value(call.args[0])
    out_shape = shape_of(call)
    if not isinstance(data, Blocked):
        return None
    batch, _, height, width = as_image(data.shape)
    rows, columns = as_image(out_shape)[2:]
    if height % rows or width % columns:
        return None
    step = (height // rows, width // columns)
    numbers = window.Window(
        kind="sum",
        size=(batch, data.blocks, height, width, lowering.lanes),
        kernel=step,
        stride=step,
        dilation=(1, 1),
        before=(0, 0),
        out_size=(rows, columns),
        registers=lowering.target.accumulators,
        core=lowering.target.core,
    )
    total = lowering.kernel("average_pool", lambda d: window.compute(numbers, d), data.expr)
    scaled = relax.op.multiply(total, relax.const(1 / (step[0] * step[1]), "float32"))
    return lowering.wrap(lowering.builder.emit(scaled), out_shape, data.segments)


HANDLERS = {
    "relax.nn.max_pool1d": _max,
    "relax.nn.max_pool2d": _max,
    "relax.nn.avg_pool1d": _average,
    "relax.nn.avg_pool2d": _average,
    "relax.nn.adaptive_avg_pool1d": _adaptive,
    "relax.nn.adaptive_avg_pool2d": _adaptive,
}
