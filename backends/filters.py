"""Weights of a convolution as its template reads them: by blocks of outputs and inputs, with zeros in empty lanes."""

from typing import Any

import numpy as np

from .layout import positions

# Fewer inputs than this are not worth a round of a loop.
_FEWEST = 4


def pack_filters(weight: np.ndarray, groups: int, segments_in: tuple[int, ...], lanes_in: int, lanes: int) -> tuple:
    """Arrange weights `(out, in / groups, kh, kw)` for the template, with zeros in empty lanes.

    Returns the packed weights `(blocks_out, reach, kh, kw, lanes_in, lanes)` and, per output block, the first
    input block it reads.
    """
    out, per_group, *kernel = weight.shape
    place = positions(segments_in, lanes_in)
    blocks_in, blocks_out = int(place[-1]) // lanes_in + 1, -(-out // lanes)
    group = np.arange(out) // (out // groups)
    channels = group[:, None] * per_group + np.arange(per_group)[None, :]
    places = place[channels]
    first = np.array([places[b * lanes : (b + 1) * lanes].min() // lanes_in for b in range(blocks_out)])
    last = np.array([places[b * lanes : (b + 1) * lanes].max() // lanes_in for b in range(blocks_out)])
    reach = int((last - first).max()) + 1
    first = np.minimum(first, blocks_in - reach)
    packed = np.zeros((blocks_out, reach, *kernel, lanes_in, lanes), weight.dtype)
    block = np.arange(out) // lanes
    local = places - first[block][:, None] * lanes_in
    index = (
        block[:, None],
        local // lanes_in,
        slice(None),
        slice(None),
        local % lanes_in,
        (np.arange(out) % lanes)[:, None],
    )
    packed[index] = weight
    return packed, first.astype("int32")


def lanes_together(segments: tuple[int, ...], lanes: int) -> int:
    """How many lanes of a block of inputs are read together, so that few of those that hold no channel are."""
    if len(segments) > 1:
        return lanes
    choices = [lanes, *(n for n in (lanes // 2, lanes // 4) if n >= _FEWEST)]
    return min(choices, key=lambda n: (-(-segments[0] // n) * n, -n))


def in_parts(packed: np.ndarray, channels: int, together: int) -> np.ndarray:
    """Packed weights of so many input channels by parts of blocks instead of blocks; parts without channels go."""
    blocks_out, reach, *kernel, lanes_in, lanes = packed.shape
    apart = np.moveaxis(packed.reshape(blocks_out, reach, *kernel, lanes_in // together, together, lanes), -3, 2)
    parts = apart.reshape(blocks_out, -1, *kernel, together, lanes)
    return np.ascontiguousarray(parts[:, : -(-channels // together)])


def first_block(block: Any, per_group: tuple[int, int], lanes_out: int, lanes_in: int) -> Any:
    """The first input block that an output block reads, both without holes: of numbers, arrays and expressions."""
    outputs, inputs = per_group
    return block * lanes_out // outputs * inputs // lanes_in


def in_order(first: np.ndarray, per_group: tuple[int, int], lanes_out: int, lanes_in: int, last: int) -> bool:
    """Whether the first input block of every output block follows from the sizes of groups: there are no holes."""
    starts = first_block(np.arange(len(first)), per_group, lanes_out, lanes_in)
    return bool((np.minimum(starts, last) == first).all())
