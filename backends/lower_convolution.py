"""Lowers `conv1d` and `conv2d` with constant weights: dense, grouped, depthwise."""

from collections.abc import Sequence
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
from tvm import relax

from . import convolution, window, winograd
from .choices import Candidate
from .filters import in_order, in_parts, lanes_together, pack_filters
from .layout import Blocked, as_image, count_blocks
from .lower_matmul import product
from .lower_sparse import emit_convolution, ways_of_convolution, with_sparse
from .lowering import Lowering, Value
from .rewriting import shape_of
from .sparse import Sparse
from .winograd_transforms import SIZES

# A plain input of up to this many channels (an image) is read as it is instead of being blocked first.
_FEW_CHANNELS = 4
# How much faster the Winograd algorithm must promise to be: its estimate is the less certain one.
_MARGIN = 0.9
# Windows of so many pixels that lie side by side make a product.
_LARGE_WINDOW = 49


def pair(values: object, fill: int) -> tuple[int, int]:
    """One or two numbers as (vertical, horizontal)."""
    numbers = [int(v) for v in values]
    return (fill, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def border_of(values: object) -> tuple[int, int, int, int]:
    """Padding as (top, left, bottom, right)."""
    numbers = [int(v) for v in values]
    return (0, numbers[0], 0, numbers[1]) if len(numbers) == 2 else tuple(numbers)


def lower(lowering: Lowering, call: relax.Call) -> Value | None:
    """A convolution whose weights are constant, in the blocked layout."""
    weight = lowering.constant(call.args[1])
    attrs = call.attrs
    if weight is None or not lowering.is_image(call.args[0]) or attrs.data_layout not in ("NCHW", "NCW"):
        return None
    if weight.dtype != np.float32 or attrs.kernel_layout not in ("OIHW", "OIW"):
        return None
    weight = weight if weight.ndim == 4 else weight[:, :, None, :]
    data = lowering.value(call.args[0])
    shape = shape_of(call.args[0])
    out_shape = shape_of(call)
    groups = int(attrs.groups)
    if groups > 1 and weight.shape[:2] == (groups, 1) and shape[1] == groups:
        return _depthwise(lowering, call, data, weight, out_shape)
    few = shape[1] <= _FEW_CHANNELS and not isinstance(data, Blocked)
    if few:
        segments, lanes_in = (1,) * shape[1], 1
        source = data if len(shape) == 4 else lowering.builder.emit(relax.op.reshape(data, as_image(shape)))
        if groups == 1 and _takes_patches(attrs, weight.shape):
            return _patches(lowering, source, weight, as_image(shape), out_shape)
    else:
        source = lowering.blocked(data)
        segments, lanes_in, source = source.segments, lowering.lanes, source.expr
    packed, first = pack_filters(weight, groups, segments, lanes_in, lowering.lanes)
    together = lanes_in if few or groups > 1 else lanes_together(segments, lanes_in)
    packed = packed if together == lanes_in else in_parts(packed, shape[1], together)
    per_group = (weight.shape[0] // groups, weight.shape[1])
    last = count_blocks(segments, lanes_in) - packed.shape[1]
    ordered = groups > 1 and in_order(first, per_group, lowering.lanes, lanes_in, last)
    numbers = numbers_of(
        lowering, attrs, shape, segments, lanes_in, packed, first, padding=border_of(attrs.padding),
        weights=lowering.storage(weight), per_group=per_group if ordered else (0, 0),
    )  # fmt: skip
    ways = ways_of_convolution(lowering, weight, data, numbers, segments)
    chosen = lowering.choose(with_sparse(lowering, _candidates(numbers, few or groups > 1), ways.found))
    if isinstance(chosen, Sparse):
        return emit_convolution(lowering, ways, chosen, data, numbers, out_shape, segments)
    numbers = chosen
    if isinstance(numbers, winograd.Winograd):
        packed = relax.const(winograd.pack_weights(weight, segments, numbers))
        result = lowering.kernel("winograd", lambda d, w: winograd.compute(numbers, d, w), source, packed)
        return lowering.wrap(result, out_shape)
    packed = np.pad(packed, [(0, numbers.blocks - len(packed)), *[(0, 0)] * 5])
    table = [relax.const(first)] if numbers.reads_table else []
    arguments = [source, lowering.store(packed, numbers.weights), *table]
    result = lowering.kernel("convolution", lambda d, w, f=None: convolution.compute(numbers, d, w, f), *arguments)
    return lowering.wrap(result, out_shape)


def _takes_patches(attrs: Any, size: tuple[int, ...]) -> bool:
    """Whether windows lie side by side and are so large that each row of them would read all weights from afar."""
    beside = pair(attrs.strides, 1) == size[2:] and pair(attrs.dilation, 1) == (1, 1)
    return beside and not any(border_of(attrs.padding)) and prod(size[2:]) >= _LARGE_WINDOW


def _patches(lowering: Lowering, image: relax.Expr, weight: np.ndarray, shape: tuple, out_shape: tuple) -> relax.Expr:
    """A convolution whose windows do not overlap, as a product: each window is a row."""
    (batch, channels, *_), (columns, _, high, wide) = shape, weight.shape
    _, _, down, along = as_image(out_shape)
    emit, op = lowering.builder.emit, relax.op
    used = (batch, channels, down * high, along * wide)
    if used != shape:
        image = emit(op.strided_slice(image, [0, 1, 2, 3], [0] * 4, list(used)))
    apart = emit(op.permute_dims(op.reshape(image, (batch, channels, down, high, along, wide)), [0, 2, 4, 1, 3, 5]))
    rows = emit(op.reshape(apart, (batch * down * along, channels * high * wide)))
    made = product(lowering, rows, weight.reshape(columns, -1).T, (batch * down * along, columns))
    return emit(op.reshape(op.permute_dims(op.reshape(made, (batch, down, along, columns)), [0, 3, 1, 2]), out_shape))


def _candidates(numbers: convolution.Convolution, direct_only: bool) -> list[Candidate]:
    """Ways to compute a convolution, the most promising first: direct ones and those by Winograd in turn."""
    direct = numbers.candidates()
    once = numbers.stride == (1, 1) and numbers.dilation == (1, 1)
    if direct_only or numbers.kernel != (3, 3) or not once:
        return direct
    size = (numbers.batch, numbers.blocks_in, numbers.blocks_out, numbers.lanes, numbers.height, numbers.width)
    size = (*size, numbers.padding)
    transformed = [winograd.Winograd(*size, tile, numbers.registers, core=numbers.core).candidates() for tile in SIZES]
    transformed.sort(key=lambda plans: plans[0].plan.cycles)
    best = transformed[0][0]
    direct_cycles = winograd.direct_cycles(
        best, np.dtype(numbers.weights).itemsize, inputs=numbers.reach * numbers.lanes_in
    )
    pays = best.plan.cycles < _MARGIN * direct_cycles
    turns = [*transformed, direct] if pays else [direct, *transformed]
    return [candidate for turn in zip_longest(*turns) for candidate in turn if candidate is not None]


def numbers_of(
    lowering: Lowering,
    attrs: Any,
    shape: Sequence[int],
    segments: tuple[int, ...],
    lanes_in: int,
    packed: np.ndarray,
    first: np.ndarray,
    **rest: Any,
) -> convolution.Convolution:
    """The numbers of a convolution of an image of this shape with packed weights, for the target."""
    batch, _, height, width = as_image(shape)
    kinds = [rest.get(name, "float32") for name in ("weights", "data")]  # others need registers to be converted in
    return convolution.Convolution(
        batch=batch,
        blocks_in=count_blocks(segments, lanes_in),
        lanes_in=packed.shape[4],
        parts=lanes_in // packed.shape[4],
        height=height,
        width=width,
        blocks_out=packed.shape[0],
        lanes=lowering.lanes,
        reach=packed.shape[1],
        grouped=bool(first.any()),
        kernel=packed.shape[2:4],
        stride=pair(attrs.strides, 1),
        dilation=pair(attrs.dilation, 1),
        registers=lowering.target.accumulators,
        tall=0 if packed.shape[4] == 1 or any(word != "float32" for word in kinds) else lowering.target.tall,
        core=lowering.target.core,
        **rest,
    )


def _depthwise(lowering: Lowering, call: relax.Call, data: Value, weight: np.ndarray, out_shape: tuple) -> Value:
    """One filter per channel: the result keeps the segments of the input."""
    source = lowering.blocked(data)
    attrs = call.attrs
    batch, _, height, width = as_image(source.shape)
    top, left, _, _ = border_of(attrs.padding)
    numbers = window.Window(
        kind="depthwise",
        size=(batch, source.blocks, height, width, lowering.lanes),
        kernel=tuple(weight.shape[2:]),
        stride=pair(attrs.strides, 1),
        dilation=pair(attrs.dilation, 1),
        before=(top, left),
        out_size=as_image(out_shape)[2:],
        registers=lowering.target.accumulators,
        weights=lowering.storage(weight),
        core=lowering.target.core,
    )
    numbers = lowering.choose(numbers.candidates())
    packed = lowering.store(window.pack_weights(weight, source.segments, lowering.lanes), numbers.weights)
    result = lowering.kernel("depthwise", lambda d, w: window.compute(numbers, d, w), source.expr, packed)
    return lowering.wrap(result, out_shape, source.segments)


HANDLERS = {"relax.nn.conv1d": lower, "relax.nn.conv2d": lower}
