"""Sparse candidates for products and convolutions with constant weights that are mostly zero.

They are read off the weights, whoever made the zeros. What they promise is compared with the dense kernel's promise;
where measurements are recorded, those decide.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from . import sparse, winograd
from .layout import Blocked, as_image, count_blocks, positions
from .lowering import Lowering

_FEWEST = 0.3
"""A weight with a smaller share of zeros has no sparse candidates."""

_MARGIN = 0.85
"""What a sparse kernel promises has to be this share of the dense one's time: the estimate is rough."""

_TURN = {"primfunc_name_hint": "turn"}

# Multiply-adds that moving one number into vectors of pixels, or back, costs.
_CONVERSION = 80

Found = tuple[sparse.Sparse, float]
"""A sparse kernel, and the cost of what has to be converted for it."""


def with_sparse(lowering: Lowering, dense: Sequence[Any], found: Sequence[Found]) -> list[Any]:
    """All candidates, the most promising first.

    A kernel for which something has to be converted is there only where it promises to be the fastest by all that: who
    measures candidates sees the kernels alone.
    """
    ranked = sorted(found, key=lambda item: item[0].cost + item[1])
    wins = bool(ranked) and ranked[0][0].cost + ranked[0][1] < _MARGIN * _dense_cost(dense[0])
    taken = [numbers for place, (numbers, besides) in enumerate(ranked) if not besides or wins and not place]
    turns = [one for numbers in taken for one in numbers.candidates()]
    return [*turns[:1], dense[0], *turns[1:], *dense[1:]] if wins else [dense[0], *turns[:2], *dense[1:], *turns[2:]]


def _dense_cost(candidate: Any) -> float:
    if isinstance(candidate, winograd.Winograd):
        direct = candidate.batch * candidate.blocks_in * candidate.blocks_out * candidate.lanes**2
        direct *= 9 * candidate.height * candidate.width
        return direct * candidate.plan.cycles / winograd.direct_cycles(candidate)
    return float(candidate.macs) * (4 if getattr(candidate, "rows", 8) == 1 else 1)


def is_sparse(lowering: Lowering, weight: np.ndarray) -> bool:
    """Whether sparse kernels are worth a thought."""
    return lowering.sparse and weight.dtype == np.float32 and (weight == 0).mean() >= _FEWEST


class Ways:
    """The sparse kernels for one weight: their numbers, and how each is emitted once it is chosen."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.found: list[Found] = []
        self.lists: dict[str, sparse.Lists] = {}

    def add(
        self, kind: str, weight: np.ndarray, places: np.ndarray, lanes: int, besides: float, **numbers: Any
    ) -> None:
        """One more kind of kernel for a weight (outputs, inputs)."""
        lists = sparse.lists_of(weight, places, lanes if kind == "tiles" else 1)
        target = self.lowering.target
        found = sparse.Sparse(
            kind, lists=len(lists.starts) - 1, entries=len(lists.places), longest=lists.longest, lanes=lanes,
            registers=target.accumulators, core=target.core, weights=self.lowering.storage(weight), **numbers,
        )  # fmt: skip
        self.found.append((found, besides))
        self.lists[kind] = lists

    def emit(self, shape: sparse.Sparse, data: relax.Expr, out: tuple[int, ...]) -> relax.Expr:
        """The chosen kernel on flat data."""
        lists = self.lists[shape.kind]
        weight, table = self.lowering.store(lists.weights, shape.weights), relax.const(lists.table)
        return self.lowering.kernel("sparse", lambda d, w, t: sparse.compute(shape, d, w, t, out), data, weight, table)


def ways_of_product(lowering: Lowering, weight: np.ndarray, rows: int) -> Ways:
    """Sparse kernels for data (rows, inputs) and a weight (inputs, outputs)."""
    ways, lanes = Ways(lowering), lowering.lanes
    if not is_sparse(lowering, weight):
        return ways
    inputs, outputs = weight.shape
    row = {"batch": 1, "rows": 1, "columns": rows}
    ways.add("tiles", weight.T, np.arange(inputs), lanes, 0.0, size=rows * inputs, step=(0, inputs), **row)
    narrow = min(lanes, 1 << (rows - 1).bit_length())
    pitch = sparse.single_span(rows, narrow)
    besides = _CONVERSION * rows * (inputs + outputs) if rows > 1 else 0.0
    ways.add("single", weight.T, np.arange(inputs) * pitch, narrow, besides, size=inputs * pitch, step=(0, 1), **row)
    return ways


def emit_product(
    lowering: Lowering, ways: Ways, shape: sparse.Sparse, data: relax.Expr, outputs: int, out: tuple[int, ...]
) -> relax.Expr:
    """The chosen kernel for a product, as a tensor of the shape `out`."""
    builder, rows = lowering.builder, shape.columns
    inputs = prod(int(size) for size in data.ty.shape) // rows
    if shape.kind == "tiles":
        flat = builder.emit(relax.op.reshape(data, (1, shape.size)))
        result = ways.emit(shape, flat, (rows, outputs))
    else:
        matrix = builder.emit(relax.op.reshape(data, (rows, inputs)))
        turned = matrix if rows == 1 else builder.emit_te(sparse.turn, matrix, shape.size // inputs, **_TURN)
        flat = builder.emit(relax.op.reshape(turned, (1, shape.size)))
        planes = ways.emit(shape, flat, (1, outputs, 1, shape.spanned))
        planes = builder.emit(relax.op.reshape(planes, (outputs, shape.spanned)))
        result = builder.emit_te(sparse.turn_back, planes, rows, **_TURN)
    return result if tuple(out) == (rows, outputs) else builder.emit(relax.op.reshape(result, out))


def ways_of_convolution(
    lowering: Lowering, weight: np.ndarray, data: Any, numbers: Any, segments: tuple[int, ...]
) -> Ways:
    """Sparse kernels for a convolution with a weight (out, in, kh, kw); `numbers` are those of the dense one."""
    ways, lanes = Ways(lowering), lowering.lanes
    if not is_sparse(lowering, weight) or numbers.grouped or numbers.lanes_in == 1:
        return ways
    out, inputs, kh, kw = weight.shape
    matrix = weight.transpose(0, 2, 3, 1).reshape(out, -1)
    (high, wide), (sy, sx), (dy, dx) = _padded(numbers), numbers.stride, numbers.dilation
    rows, columns = numbers.out_size
    ky, kx = np.arange(kh)[:, None, None] * dy, np.arange(kw)[None, :, None] * dx
    place = positions(segments, lanes)
    blocks = count_blocks(segments, lanes)
    places = ((place // lanes * high + ky) * wide + kx) * lanes + place % lanes
    flat = wide * sy == columns * sx
    pixels = {"rows": 1, "columns": rows * columns} if flat else {"rows": rows, "columns": columns}
    ways.add(
        "tiles", matrix, places.ravel(), lanes, 0.0, batch=numbers.batch, size=blocks * high * wide * lanes,
        step=(wide * sy * lanes, sx * lanes), **pixels,
    )  # fmt: skip
    span = (rows - 1) * wide + columns
    if (sy, sx) == (1, 1) and span >= lanes:
        tall = high + -(-(sparse.single_span(span, lanes) - span) // wide)
        plane = (np.arange(inputs) * tall + ky) * wide + kx
        moved = out + (inputs if isinstance(data, Blocked) else 0)
        besides = float(_CONVERSION * numbers.batch * high * wide * moved)
        ways.add(
            "single", matrix, plane.ravel(), lanes, besides, batch=numbers.batch, size=inputs * tall * wide,
            step=(0, 1), rows=1, columns=span,
        )  # fmt: skip
    return ways


def _padded(numbers: Any) -> tuple[int, int]:
    """Height and width of the image with its border."""
    top, left, bottom, right = numbers.padding
    return numbers.height + top + bottom, numbers.width + left + right


def emit_convolution(
    lowering: Lowering,
    ways: Ways,
    shape: sparse.Sparse,
    data: Any,
    numbers: Any,
    out_shape: tuple[int, ...],
    segments: tuple[int, ...],
) -> Any:
    """The chosen kernel for a convolution, blocked or plain as it comes."""
    builder, (high, wide), (top, left, _, _) = lowering.builder, _padded(numbers), numbers.padding
    batch, out, rows, columns = as_image(out_shape)
    if shape.kind == "tiles":
        source = lowering.blocked(data, segments).expr
        if any(numbers.padding):
            source = builder.emit_te(_bordered, source, (top, left), (high, wide), primfunc_name_hint="border")
        flat = builder.emit(relax.op.reshape(source, (batch, shape.size)))
        result = ways.emit(shape, flat, (batch, shape.lists, rows, columns, lowering.lanes))
        return lowering.wrap(result, out_shape)
    plain = lowering.plain(data) if isinstance(data, Blocked) else data
    channels = int(plain.ty.shape[1])
    image = builder.emit(relax.op.reshape(plain, (batch, channels, numbers.height, numbers.width)))
    tall = shape.size // (channels * wide)
    if (tall, wide) != (numbers.height, numbers.width):
        image = builder.emit_te(_planes, image, (top, left), (tall, wide), primfunc_name_hint="planes")
    flat = builder.emit(relax.op.reshape(image, (batch, shape.size)))
    if shape.spanned == rows * columns:
        found = ways.emit(shape, flat, (batch, out, rows, columns))
        return found if len(out_shape) == 4 else builder.emit(relax.op.reshape(found, out_shape))
    found = ways.emit(shape, flat, (batch, out, 1, shape.spanned))
    return builder.emit_te(_cut, found, out_shape, wide, primfunc_name_hint="cut")


def _bordered(data: te.Tensor, before: tuple[int, int], size: tuple[int, int]) -> te.Tensor:
    """A blocked image with a border of zeros."""
    batch, blocks, height, width, lanes = (int(extent) for extent in data.shape)

    def value(n, block, y, x, lane):
        y, x = y - before[0], x - before[1]
        inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
        return tirx.if_then_else(inside, data(n, block, y, x, lane), tirx.const(0, data.dtype))

    return te.compute((batch, blocks, *size, lanes), value, name="border")


def _planes(data: te.Tensor, before: tuple[int, int], size: tuple[int, int]) -> te.Tensor:
    """A plain image with a border of zeros, and zeros below it."""
    batch, channels, height, width = (int(extent) for extent in data.shape)

    def value(n, channel, y, x):
        y, x = y - before[0], x - before[1]
        inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
        return tirx.if_then_else(inside, data(n, channel, y, x), tirx.const(0, data.dtype))

    return te.compute((batch, channels, *size), value, name="planes")


def _cut(planes: te.Tensor, out_shape: tuple[int, ...], wide: int) -> te.Tensor:
    """The pixels of the result, whose rows lie `wide` apart."""

    def value(n, channel, *space):
        *row, x = space
        return planes(n, channel, 0, (row[0] * wide if row else 0) + x)

    return te.compute(out_shape, value, name="cut")
