"""The numbers of a convolution in the blocked layout, and which ways to compute it promise to be fast."""

from dataclasses import dataclass, field, replace
from itertools import zip_longest
from math import prod

import numpy as np

from .cores import SERVER, Core
from .prefetch import LARGE_WEIGHTS
from .tiling import Tile, register_tiles

# Output pixels few enough to use large weights in shares; bytes of a share and of the sums of a piece, which lie
# together in the first-level cache.
_SMALL_IMAGE, _NEAR, PIECE = 28 * 28, 9 * 1024, 16 * 1024
# With fewer pixels weights are what takes time, and many streams of them are read no faster.
_LARGE_IMAGE = 128
# Tiles of a single output block read the input once for each block, from further away.
_ALONE = 1.2
# Rows as one may cost this much more than rows apart: they need no padding.
_FLAT = 1.1


@dataclass(frozen=True)
class Convolution:
    """The numbers that make one convolution kernel different from another.

    `lanes_in` is 1 for a plain input `(batch, channels, height, width)`, the vector width for a blocked one, or a
    part of it where the channels do not fill their last block: then a block is read in so many `parts`, and the last
    ones are left out. `reach` is the number of input blocks, or parts of them, that one output block reads; `grouped`
    tells that they start at a different block for each output block: which one is computed from `per_group`, the output
    and input channels of a group, or read from a table where that is (0, 0). `weights` and `data` are the element types
    of both operands, `zero` the number that the border consists of. `registers` may be filled by sums, `tall` by those
    of a tile of several output blocks. `chosen` is the `choice` to take; None for the one that promises to be the
    fastest.
    """

    batch: int
    blocks_in: int
    lanes_in: int
    height: int
    width: int
    blocks_out: int
    lanes: int
    reach: int
    grouped: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    registers: int
    weights: str = "float32"
    data: str = "float32"
    zero: int = 0
    per_group: tuple[int, int] = (0, 0)
    parts: int = 1
    chosen: tuple[int, int, int, int] | None = None
    tall: int = 0
    core: Core = field(default=SERVER, repr=False)

    @property
    def integers(self) -> bool:
        """Whether bytes are multiplied, with int32 sums."""
        return self.data != "float32"

    @property
    def choice(self) -> tuple[int, int, int, int]:
        """What may be chosen: columns and output blocks per register tile, whether rows make one, the share."""
        if self.chosen:
            return self.chosen
        tile = self._flat_tiles[0] if self.flat else self._row_tiles[0]
        return tile.width, tile.depth, int(self.flat), self._share(tile.depth)

    @property
    def macs(self) -> int:
        """Multiply-adds, those of empty lanes included."""
        taps = prod(self.kernel) * self.reach * self.lanes_in
        return self.batch * prod(self.out_size) * taps * self.blocks * self.lanes

    def candidates(self) -> "list[Convolution]":
        """This convolution with every choice, the most promising first."""
        tiles = [(tile.cost, tile.width, tile.depth, 0) for tile in self._row_tiles]
        if self._pointwise:
            tiles += [(tile.cost / _FLAT, tile.width, tile.depth, 1) for tile in self._flat_tiles]
        width, depth, flat, _ = self.choice
        shares = [(width, depth, flat, share) for share in self._shares()]
        others = [(width, depth, flat, self._share(depth)) for _, width, depth, flat in sorted(tiles)]
        turns = [choice for turn in zip_longest(others, shares) for choice in turn if choice is not None]
        return [replace(self, chosen=choice) for choice in dict.fromkeys([self.choice, *turns])]

    def _shares(self) -> list[int]:
        """The shares that are worth a try beside the one that suits."""
        if self.grouped or self.integers or self.reach == 1 or prod(self.out_size) > _SMALL_IMAGE:
            return []
        return [0, *(n for n in self._counts if self.reach % n == 0)]

    @property
    def _counts(self) -> list[int]:
        """Numbers of blocks that a share may have: up to four of 16 by 16, or as many weights in smaller ones."""
        return [1 << power for power in range((4 * (16 // self.lanes) ** 2).bit_length())]

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        top, left, bottom, right = self.padding
        full = (self.height + top + bottom, self.width + left + right)
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return tuple((f - span) // s + 1 for f, span, s in zip(full, spans, self.stride, strict=True))

    @property
    def flat(self) -> bool:
        """A pointwise convolution has no rows: all pixels make one long row, if some tile divides it well."""
        if self.chosen:
            return bool(self.chosen[2])
        return self._pointwise and self._flat_tiles[0].cost <= self._row_tiles[0].cost * _FLAT

    @property
    def tile(self) -> tuple[int, int]:
        """Columns and output blocks per register tile."""
        return self.choice[:2]

    @property
    def blocks(self) -> int:
        """Output blocks that are computed: whole tiles."""
        return -(-self.blocks_out // self.tile[1]) * self.tile[1]

    @property
    def share(self) -> int:
        """How many input blocks all tiles of a piece take in turn; 0 where each tile takes all of them at once."""
        return self.choice[3]

    @property
    def reads_table(self) -> bool:
        """Whether a table says which input block each output block starts at."""
        return self.grouped and not any(self.per_group)

    @property
    def border_by_rows(self) -> bool:
        """Whether each row of results has a border of its own, which stays in the first-level cache.

        It pays where few rows of the input are copied twice, and each of them for one tile of output blocks only. Of
        groups, they must be seen to be one block: blocks must consist of whole groups.
        """
        outputs, inputs = self.per_group
        whole = self.grouped and outputs == inputs > 0 == self.lanes % inputs and self.lanes == self.lanes_in
        once = whole or self.lanes_in == 1 and not self.grouped and self.blocks == self.tile[1]
        return once and (self.kernel[0] - 1) * self.dilation[0] + 1 < 2 * self.stride[0]

    def _share(self, depth: int) -> int:
        """The share that suits tiles of so many output blocks."""
        if self.integers:
            return 0
        taps = self.kernel[0] * self.kernel[1] * self.lanes_in * self.lanes * np.dtype(self.weights).itemsize
        pixels = prod(self.out_size)
        if self._pointwise and depth == 1 < min(pixels, self.reach) and pixels * self.lanes * 4 <= PIECE:
            # Tiles of one output block read all of the input for each: then block by block is faster than tile by tile.
            return int(not self.grouped)
        if self.grouped or self.blocks_out * self.reach * taps < LARGE_WEIGHTS or pixels > _SMALL_IMAGE:
            return 0
        near = [n for n in self._counts if self.reach % n == 0 and n * taps * depth <= _NEAR]
        return max(near, default=1)

    @property
    def _pointwise(self) -> bool:
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding)

    @property
    def _depth(self) -> int:
        return 1 if self.grouped else self.blocks_out

    @property
    def _accumulators(self) -> int:
        """All taps of a plain input are unrolled: two registers more hold what they read."""
        return self.registers - 2 if self.lanes_in == 1 else self.registers

    @property
    def _flat_tiles(self) -> list[Tile]:
        rows, columns = self.out_size
        return self._tiles(rows * columns, exact=True)

    @property
    def _row_tiles(self) -> list[Tile]:
        return self._tiles(self.out_size[1])

    def _tiles(self, columns: int, exact: bool = False) -> list[Tile]:
        tall = self.tall if prod(self.out_size) >= _LARGE_IMAGE else 0
        tiles = register_tiles(columns, self._depth, self._accumulators, exact, self.core, tall)
        if self._depth == 1 or self.lanes_in == 1:
            return tiles
        weighed = [replace(tile, cost=tile.cost * _ALONE) if tile.depth == 1 else tile for tile in tiles]
        return sorted(weighed, key=lambda tile: tile.cost)
