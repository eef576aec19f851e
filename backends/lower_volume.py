"""Lowers three-dimensional convolutions and pools to the two-dimensional templates.

A convolution reads some slices of the volume for each slice of its result: these are laid side by side as channels, and
the slices of the result become a batch of images. A pool takes the rows and columns of every slice first, then the
slices.
"""

import numpy as np
from tvm import relax, te, tirx

from . import window
from .layout import Blocked
from .lower_pooling import counts_along
from .lowering import Lowering, Value
from .rewriting import shape_of

_INJECTIVE = {"op_pattern": 2}


def convolve(lowering: Lowering, call: relax.Call) -> Value | None:
    """A convolution over three axes with constant weights."""
    weight, attrs = lowering.constant(call.args[1]), call.attrs
    if weight is None or not lowering.is_volume(call.args[0]) or weight.dtype != np.float32:
        return None
    if attrs.data_layout != "NCDHW" or attrs.kernel_layout != "OIDHW":
        return None
    data, out, groups = lowering.blocked(lowering.value(call.args[0])), shape_of(call), int(attrs.groups)
    front, top, left, _, bottom, right = (int(p) for p in attrs.padding)
    (step, *strides), (gap, *dilation) = ([int(n) for n in numbers] for numbers in (attrs.strides, attrs.dilation))
    starts = [tap * gap - front for tap in range(weight.shape[2])]
    options = {"strides": strides, "dilation": dilation, "padding": [top, left, bottom, right], "groups": groups}
    # Groups are runs of channels, which slices side by side would tear apart: one convolution per slice, added up.
    taps = [[start] for start in starts] if groups > 1 else [starts]
    total = None
    for index, part in enumerate(taps):
        flat = weight[:, :, index] if groups > 1 else _side_by_side(weight)
        images = _slices(lowering, data, part, step, out[2])
        plane = relax.op.nn.conv2d(lowering.variable(images), relax.const(np.ascontiguousarray(flat)), **options)
        call2d = lowering.builder.normalize(plane)
        result = lowering.handlers["relax.nn.conv2d"](lowering, call2d)
        sum_of = result.expr if total is None else lowering.builder.emit(relax.op.add(total, result.expr))
        total = sum_of
    return lowering.wrap(_stack(lowering, total, out), out, result.segments)


def _side_by_side(weight: np.ndarray) -> np.ndarray:
    """Weights `(out, in, kd, kh, kw)` as `(out, kd * in, kh, kw)`."""
    out, inside, depth, *kernel = weight.shape
    return weight.swapaxes(1, 2).reshape(out, depth * inside, *kernel)


def _slices(lowering: Lowering, data: Blocked, starts: list[int], step: int, count: int) -> Blocked:
    """For each of `count` slices of the result the slices it reads, side by side as channels of one image."""
    batch, channels, depth, height, width = data.shape
    lanes, blocks = data.lanes, data.blocks
    if starts == [0] and step == 1 and count == depth and (blocks == 1 or depth == 1):
        images = lowering.builder.emit(relax.op.reshape(data.expr, (batch * count, blocks, height, width, lanes)))
        return Blocked(images, (batch * count, channels, height, width), data.segments, lanes)
    gap = starts[1] - starts[0] if len(starts) > 1 else 1

    def compute(source: te.Tensor) -> te.Tensor:
        def value(i, b, y, x, lane):
            place = (i % count) * step + (b // blocks) * gap + starts[0]
            inside = tirx.all(place >= 0, place < depth)
            read = source[i // count, b % blocks, place * height + y, x, lane]
            return tirx.if_then_else(inside, read, tirx.const(0, source.dtype))

        return te.compute((batch * count, len(starts) * blocks, height, width, lanes), value, name="slices")

    images = lowering.builder.emit_te(compute, data.expr, primfunc_name_hint="slices")
    shape = (batch * count, channels * len(starts), height, width)
    return lowering.wrap(images, shape, data.segments * len(starts))


def _stack(lowering: Lowering, images: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    """Images `(batch * depth, blocks, height, width, lanes)` as a volume `(batch, blocks, depth * height, ...)`."""
    batch, _, depth, height, width = shape
    _, blocks, _, _, lanes = (int(extent) for extent in images.ty.shape)
    if depth == 1 or blocks == 1:
        return lowering.builder.emit(relax.op.reshape(images, (batch, blocks, depth * height, width, lanes)))

    def compute(source: te.Tensor) -> te.Tensor:
        return te.compute(
            (batch, blocks, depth * height, width, lanes),
            lambda n, b, y, x, lane: source[n * depth + y // height, b, y % height, x, lane],
            name="stack",
        )

    return lowering.builder.emit_te(compute, images, primfunc_name_hint="stack", primfunc_attrs=_INJECTIVE)


def _pool(lowering: Lowering, call: relax.Call, kind: str) -> Blocked | None:
    """The maxima or sums over windows of a blocked volume."""
    data = lowering.value(call.args[0])
    if not isinstance(data, Blocked) or call.attrs.layout != "NCDHW":
        return None
    batch, _, depth, height, width = data.shape
    out, blocks, lanes = shape_of(call), data.blocks, data.lanes
    kernel, stride, dilation = (
        tuple(int(n) for n in numbers) for numbers in (call.attrs.pool_size, call.attrs.strides, call.attrs.dilation)
    )
    before = tuple(int(p) for p in call.attrs.padding)[:3]

    def slide(expr: relax.Expr, size: tuple, axes: slice, fill: tuple, out_size: tuple) -> relax.Expr:
        numbers = window.Window(
            kind=kind,
            size=(batch, *size, lanes),
            kernel=(*kernel[axes], *fill),
            stride=(*stride[axes], *fill),
            dilation=(*dilation[axes], *fill),
            before=(*before[axes], *(0 for _ in fill)),
            out_size=out_size,
            registers=lowering.target.accumulators,
            core=lowering.target.core,
        )
        shaped = lowering.builder.emit(relax.op.reshape(expr, numbers.size))
        return lowering.kernel(f"{kind}_pool", lambda d: window.compute(numbers, d), shaped)

    planes = slide(data.expr, (blocks * depth, height, width), slice(1, 3), (), out[3:])
    stacks = slide(planes, (blocks, depth, out[3] * out[4]), slice(0, 1), (1,), (out[2], out[3] * out[4]))
    result = lowering.builder.emit(relax.op.reshape(stacks, (batch, blocks, out[2] * out[3], out[4], lanes)))
    return lowering.wrap(result, out, data.segments)


def _max(lowering: Lowering, call: relax.Call) -> Value | None:
    return _pool(lowering, call, "max")


def _average(lowering: Lowering, call: relax.Call) -> Value | None:
    total = _pool(lowering, call, "sum")
    if total is None:
        return None
    attrs, size, out = call.attrs, shape_of(call.args[0])[2:], total.shape[2:]
    padding = [int(p) for p in attrs.padding]
    counts = [
        counts_along(
            size[axis], out[axis], int(attrs.pool_size[axis]), int(attrs.strides[axis]), int(attrs.dilation[axis]),
            (padding[axis], padding[3 + axis]), bool(attrs.count_include_pad),
        )
        for axis in range(3)
    ]  # fmt: skip
    counted = counts[0][:, None, None] * counts[1][None, :, None] * counts[2][None, None, :]
    share = (1 / counted).astype("float32").reshape(1, 1, out[0] * out[1], out[2], 1)
    scaled = relax.op.multiply(total.expr, relax.const(np.ascontiguousarray(share)))
    return lowering.wrap(lowering.builder.emit(scaled), total.shape, total.segments)


def _adaptive(lowering: Lowering, call: relax.Call) -> Value | None:
    """The mean over the whole volume; other adaptive pools are left to the fallback."""
    data = lowering.value(call.args[0])
    out = shape_of(call)
    if not isinstance(data, Blocked) or any(extent != 1 for extent in out[2:]):
        return None
    mean = lowering.builder.emit(relax.op.mean(data.expr, axis=[2, 3], keepdims=True))
    return lowering.wrap(mean, out, data.segments)


HANDLERS = {
    "relax.nn.conv3d": convolve,
    "relax.nn.max_pool3d": _max,
    "relax.nn.avg_pool3d": _average,
    "relax.nn.adaptive_avg_pool3d": _adaptive,
}
