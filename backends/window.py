"""Windows that slide over each channel alone: depthwise convolution, max pooling, average pooling.

All lanes of a vector do the same, so channels need no mixing; the output is computed in tiles of columns that
stay in registers.
"""

from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np
from tvm import s_tir, te, tirx

from .cores import SERVER, Core
from .halving import widened
from .layout import pack_constant
from .targets import Target
from .tiling import (
    PARTS,
    accumulate,
    annotation_of,
    extent,
    find,
    inline_epilogue,
    partition,
    register_tiles,
    split_for_threads,
    unroll,
    vectorize,
)

_TILE = "graphprune.window"
# More columns than this at once are slower: their sums are many, and each one reads little.
_COLUMNS = 8
# With so many channels per pixel, or fewer, the weights of the convolutions beside it are small against their images.
_CHANNELS_PER_PIXEL = 1.25


@dataclass(frozen=True)
class Window:
    """The numbers that make one sliding window different from another; `out_size` is the size of the result.

    `weights` is the element type of the weights of a depthwise convolution, `data` that of what it reads, and `zero`
    the number that its border consists of; it computes in float32. `chosen` is the `choice` to take; None for the one
    that promises to be the fastest.
    """

    kind: Literal["depthwise", "max", "sum"]
    size: tuple[int, int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    out_size: tuple[int, int]
    registers: int
    weights: str = "float32"
    data: str = "float32"
    zero: int = 0
    chosen: tuple[int] | None = None
    core: Core = field(default=SERVER, repr=False)

    @property
    def choice(self) -> tuple[int]:
        """What may be chosen: output columns per register tile."""
        return self.chosen or (self._widths[0],)

    @property
    def columns(self) -> int:
        """Output columns per register tile."""
        return self.choice[0]

    @property
    def macs(self) -> int:
        """Multiply-adds, or comparisons."""
        return prod((*self.size[:2], *self.out_size, *self.kernel, self.size[4]))

    def candidates(self) -> "list[Window]":
        """This window with every choice, the most promising first."""
        wide = [width for width in range(self.registers, _COLUMNS, -1) if width <= self.out_size[1]]
        return [replace(self, chosen=(width,)) for width in (*self._widths, *wide)]

    @property
    def _widths(self) -> list[int]:
        """Numbers of columns that do well, the best first."""
        tiles = register_tiles(self.out_size[1], 1, min(self.registers, _COLUMNS), core=self.core)
        return [tile.width for tile in tiles]


def pack_weights(weight: np.ndarray, segments: tuple[int, ...], lanes: int) -> np.ndarray:
    """Arrange depthwise weights `(channels, 1, kh, kw)` as `(blocks, kh, kw, lanes)`."""
    return pack_constant(weight.transpose(1, 0, 2, 3), segments, lanes)[0]


def compute(window: Window, data: te.Tensor, weight: te.Tensor | None = None) -> te.Tensor:
    """The reduction over the window as an expression, `(batch, blocks, out_height, out_width, lanes)`."""
    batch, blocks, height, width, lanes = window.size
    (rows, columns), (kh, kw) = window.out_size, window.kernel
    (sy, sx), (dy, dx) = window.stride, window.dilation
    wide = window.columns
    tiles = -(-columns // wide)
    top, left = window.before
    # A border that never wins a maximum and never adds to a sum.
    border = te.min_value(data.dtype) if window.kind == "max" else tirx.const(window.zero, data.dtype)
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")

    def term(n, c, y, t, r, lane):
        row, column = y * sy + ky * dy - top, (t * wide + r) * sx + kx * dx - left
        inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
        read = tirx.if_then_else(inside, data(n, c, row, column, lane), border)
        if window.kind == "max":
            return te.max(read, axis=[ky, kx])
        read = read if window.data == "float32" else tirx.Cast("float32", read)
        return te.sum(read if weight is None else read * widened(weight, c, ky, kx, lane), axis=[ky, kx])

    reduced = te.compute((batch, blocks, rows, tiles, wide, lanes), term, name="window", attrs={_TILE: [wide, kh * kw]})
    return te.compute(
        (batch, blocks, rows, columns, lanes),
        lambda n, c, y, x, lane: reduced[n, c, y, x // wide, x % wide, lane],
        name="untile",
    )


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains the template and whatever elementwise work was fused behind it."""
    sch = s_tir.Schedule(function)
    reduced = find(sch, _TILE)
    if reduced is None:
        return None
    wide, taps = annotation_of(sch, reduced, _TILE)
    result = inline_epilogue(sch, reduced)
    n, c, y, x, lane = loops = sch.get_loops(result)
    _, blocks, rows, columns, lanes = (extent(sch, loop) for loop in loops)
    tile, column = sch.split(x, [None, wide])
    # The convolutions beside it share an image between threads by rows where it has more pixels than channels.
    spatial = blocks * lanes <= _CHANNELS_PER_PIXEL * rows * columns
    if spatial:
        part, y = split_for_threads(sch, y, extent(sch, n) * blocks, PARTS)
        sch.reorder(n, part, c, y)
        sch.parallel(sch.fuse(n, part, c))
    else:
        sch.parallel(sch.fuse(n, c, y))
    vectorize(sch, lane)
    unroll(sch, column)
    sch.set_scope(reduced, 0, "local")
    sch.compute_at(reduced, tile, preserve_unit_loops=True)
    accumulate(sch, reduced, outer=3 if spatial else 2, spatial=6, unrolled=2 if taps <= 32 else 1)
    partition(sch, tile)
    return sch
