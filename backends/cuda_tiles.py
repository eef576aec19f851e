"""Which tiles a product is computed in on a GPU: a small model of how busy they keep it.

A tile is what one block of threads computes. Large tiles read each operand less often, small ones keep more
multiprocessors busy; where even small ones are too few, the sum is cut into shares that are added afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# A typical GPU of each architecture; what kernels may use is the same for all of them (CUDA C++ Programming Guide,
# "Compute Capabilities"): 1024 threads and 65536 registers a block, and 48 KB of shared memory without asking.
MULTIPROCESSORS = {
    "sm_75": 40,
    "sm_80": 108,
    "sm_86": 84,
    "sm_87": 16,
    "sm_89": 128,
    "sm_90": 132,
    "sm_100": 148,
    "sm_120": 170,
}
_UNKNOWN = 80
THREADS = 1024
# Every kernel stays within what each GPU grants without asking.
SHARED = 49152
# Shorter sums are not worth a second kernel.
_LEAST_SHARE = 256


def multiprocessors_of(arch: str) -> int:
    """How many multiprocessors a typical GPU of an architecture such as `sm_80` has."""
    return MULTIPROCESSORS.get(arch, _UNKNOWN)


@dataclass(frozen=True)
class Operand:
    """One of the two factors: which of the block's reads it is, whether `k` runs along its memory, and how many of its
    numbers lie side by side in memory in units that a thread may load at once."""

    read: int
    inner_is_fast: bool
    dtype: str
    run: int


@dataclass(frozen=True)
class Product:
    """The sizes of a product and how its operands lie in memory."""

    batch: int
    rows: int
    columns: int
    inner: int
    left: Operand
    right: Operand
    dtype: str

    @property
    def macs(self) -> int:
        """Multiply-adds, without those that tiles add."""
        return self.batch * self.rows * self.columns * self.inner


@dataclass(frozen=True)
class Tile:
    """A tile of `rows` times `columns` results, its sum taken `inner` at a time, in `shares` parts.

    Without tensor cores every thread computes `down` times `across` results. With them, every warp does.
    """

    rows: int
    columns: int
    inner: int
    down: int
    across: int
    shares: int = 1

    @property
    def parts(self) -> tuple[int, int]:
        """Threads, or warps, in rows and columns."""
        return self.rows // self.down, self.columns // self.across


# Results per thread: eight rows of four columns, so that twelve numbers are loaded for 32 multiply-adds.
PLAIN = (
    Tile(128, 64, 16, 8, 4),
    Tile(64, 128, 16, 8, 4),
    Tile(64, 64, 16, 8, 4),
    Tile(32, 64, 16, 4, 4),
    Tile(64, 32, 16, 8, 4),
    Tile(32, 32, 16, 4, 4),
    Tile(16, 64, 16, 4, 4),
    Tile(8, 128, 32, 4, 4),
)
# Results per warp, in fragments of 16 times 16.
TENSOR = (
    Tile(128, 64, 16, 32, 32),
    Tile(64, 128, 32, 32, 32),
    Tile(64, 64, 32, 32, 32),
    Tile(32, 64, 64, 16, 32),
    Tile(64, 32, 64, 32, 16),
    Tile(32, 32, 64, 16, 16),
    Tile(16, 64, 64, 16, 16),
)


def choose(product: Product, tiles: Sequence[Tile], multiprocessors: int) -> Tile:
    """The tile that should take the least time."""
    return min(
        (shared for tile in tiles for shared in _with_shares(product, tile, multiprocessors)),
        key=lambda t: _time(product, t, multiprocessors),
    )


def _with_shares(product: Product, tile: Tile, multiprocessors: int) -> list[Tile]:
    """The tile with one share, and with as many as keep the device busy where tiles alone do not."""
    found = [tile]
    shares = 2
    while shares <= 16 and _blocks(product, tile) * shares <= 2 * multiprocessors:
        if product.inner // shares < _LEAST_SHARE:
            break
        found.append(Tile(tile.rows, tile.columns, tile.inner, tile.down, tile.across, shares))
        shares *= 2
    return found


def _blocks(product: Product, tile: Tile) -> int:
    return product.batch * -(-product.rows // tile.rows) * -(-product.columns // tile.columns)


def _time(product: Product, tile: Tile, multiprocessors: int) -> float:
    """Steps of one multiprocessor: what its blocks multiply and load, and what nobody hides when there are few of
    them."""
    waves = -(-_blocks(product, tile) * tile.shares // multiprocessors)
    inner = -(-product.inner // tile.shares)
    steps = -(-inner // tile.inner)
    multiply = tile.rows * tile.columns * tile.inner / 128
    load = (tile.rows + tile.columns) * tile.inner / 16
    adding = (
        0
        if tile.shares == 1
        else 400 + tile.shares * product.batch * product.rows * product.columns / multiprocessors / 8
    )
    return waves * steps * (multiply + load) + steps * 300 / min(waves, 4) + adding
