"""The blocked layout: channels in groups as wide as a vector, `(batch, blocks, height, width, lanes)`.

Channel counts need not fill the lanes. A `Blocked` value remembers its *segments*: runs of channels that each
start at a new block. Joining values of 51 and 37 channels makes segments `(51, 37)` without moving a single
lane; whoever reads the value packs its weights accordingly. Lanes that hold no channel contain finite numbers
which nobody reads: weights are zero there, and `unpack` drops them.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import relax, te, tirx


@dataclass(frozen=True)
class Blocked:
    """A tensor `(batch, channels, *space)` kept as `expr` of shape `(batch, blocks, height, width, lanes)`."""

    expr: relax.Expr
    shape: tuple[int, ...]
    segments: tuple[int, ...]
    lanes: int

    @property
    def has_holes(self) -> bool:
        """Whether some lanes hold no channel."""
        return any(segment % self.lanes for segment in self.segments)

    @property
    def blocks(self) -> int:
        """How many vectors one pixel takes."""
        return count_blocks(self.segments, self.lanes)


def merge(segments: tuple[int, ...], lanes: int) -> tuple[int, ...]:
    """The canonical form: a segment that fills its lanes runs on into the next one."""
    merged: list[int] = []
    for segment in segments:
        if merged and merged[-1] % lanes == 0:
            merged[-1] += segment
        else:
            merged.append(segment)
    return tuple(merged)


def count_blocks(segments: tuple[int, ...], lanes: int) -> int:
    """Blocks that the segments occupy."""
    return sum(-(-segment // lanes) for segment in segments)


def positions(segments: tuple[int, ...], lanes: int) -> np.ndarray:
    """For each channel, its place among `blocks * lanes` places.

    ```python
    positions((3, 2), 4)    # [0, 1, 2, 4, 5]
    ```
    """
    found, start = [], 0
    for segment in segments:
        found.append(np.arange(start, start + segment))
        start += -(-segment // lanes) * lanes
    return np.concatenate(found)


def spread(array: np.ndarray, axis: int, segments: tuple[int, ...], lanes: int, fill: float = 0.0) -> np.ndarray:
    """Move channels along `axis` to their places; `fill` goes into the lanes that hold none."""
    shape = list(array.shape)
    shape[axis] = count_blocks(segments, lanes) * lanes
    result = np.full(shape, fill, array.dtype)
    index: list[object] = [slice(None)] * array.ndim
    index[axis] = positions(segments, lanes)
    result[tuple(index)] = array
    return result


def pack_constant(array: np.ndarray, segments: tuple[int, ...], lanes: int, fill: float = 0.0) -> np.ndarray:
    """A constant `(batch, channels, height, width)` in blocked layout."""
    places = spread(array, 1, segments, lanes, fill)
    batch, count, height, width = places.shape
    return np.ascontiguousarray(places.reshape(batch, count // lanes, lanes, height, width).transpose(0, 1, 3, 4, 2))


def as_image(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The shape with exactly two space axes: a line becomes one row, the slices of a volume lie above each other."""
    batch, channels, *rows, width = shape
    return batch, channels, prod(rows), width


def pack(builder: relax.BlockBuilder, expr: relax.Expr, segments: tuple[int, ...], lanes: int) -> Blocked:
    """Convert a plain tensor `(batch, channels, *space)` of up to three space axes to the blocked layout."""
    shape = tuple(int(extent) for extent in expr.ty.shape)
    batch, channels, height, width = as_image(shape)
    blocks = count_blocks(segments, lanes)
    if height * width == 1 and segments == (channels,) and channels % lanes == 0:
        packed = builder.emit(relax.op.reshape(expr, (batch, blocks, 1, 1, lanes)))
        return Blocked(packed, shape, segments, lanes)

    def compute(data: te.Tensor) -> te.Tensor:
        def value(n, block, y, x, lane):
            channel, valid = _channel_at(block, lane, segments, lanes)
            read = data(n, channel, *_space(y, x, shape))
            return read if valid is True else tirx.if_then_else(valid, read, tirx.const(0, data.dtype))

        return te.compute((batch, blocks, height, width, lanes), value, name="pack")

    packed = builder.emit_te(compute, expr, primfunc_name_hint="pack")
    return Blocked(packed, shape, segments, lanes)


def _space(y, x, shape: tuple[int, ...]) -> tuple:
    """The place of a pixel along the space axes of the plain tensor."""
    if len(shape) == 5:
        return y // shape[3], y % shape[3], x
    return (y, x) if len(shape) == 4 else (x,)


def _channel_at(block, lane, segments: tuple[int, ...], lanes: int):
    """Which channel a lane holds, and the condition under which it holds one."""
    result = None
    first_block = channels_before = 0
    for segment in segments:
        channel = (block - first_block) * lanes + lane + channels_before
        valid = channel < channels_before + segment
        if result is None:
            result = (channel, valid)
        else:
            here = block >= first_block
            result = (tirx.Select(here, channel, result[0]), tirx.Select(here, valid, result[1]))
        first_block += -(-segment // lanes)
        channels_before += segment
    if all(segment % lanes == 0 for segment in segments):
        return result[0], True
    # A clamped index keeps the speculative load of an empty lane inside the tensor.
    return tirx.min(result[0], channels_before - 1), result[1]


def unpack(builder: relax.BlockBuilder, value: Blocked) -> relax.Expr:
    """Convert back to the plain tensor of shape `value.shape`."""
    lanes, segments, shape = value.lanes, value.segments, value.shape
    _, channels, height, width = as_image(shape)
    if height * width == 1:
        return _unpack_vector(builder, value)

    def compute(data: te.Tensor) -> te.Tensor:
        def read(n, channel, *space):
            *rows, x = space
            y = rows[0] * shape[3] + rows[1] if len(rows) == 2 else rows[0] if rows else 0
            place = _place_of(channel, segments, lanes)
            return data[n, place // lanes, y, x, place % lanes]

        return te.compute(shape, read, name="unpack")

    return builder.emit_te(compute, value.expr, primfunc_name_hint="unpack")


def _unpack_vector(builder: relax.BlockBuilder, value: Blocked) -> relax.Expr:
    """One pixel per image: the lanes already lie in the order of the channels."""
    batch = value.shape[0]
    flat = builder.emit(relax.op.reshape(value.expr, (batch, value.blocks * value.lanes)))
    if value.has_holes:
        starts, begin = [], 0
        for segment in value.segments:
            starts.append((begin, begin + segment))
            begin += -(-segment // value.lanes) * value.lanes
        parts = [builder.emit(relax.op.strided_slice(flat, [1], [low], [high])) for low, high in starts]
        flat = parts[0] if len(parts) == 1 else builder.emit(relax.op.concat(parts, axis=1))
    return flat if prod(value.shape[2:]) == 0 else builder.emit(relax.op.reshape(flat, value.shape))


def _place_of(channel, segments: tuple[int, ...], lanes: int):
    """Where a channel lies: its number plus the empty lanes before its segment."""
    place, channels_before, empty = channel, 0, 0
    for segment in segments:
        if empty:
            place = tirx.Select(channel >= channels_before, channel + empty, place)
        channels_before += segment
        empty += -segment % lanes
    return place
