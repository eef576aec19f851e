"""Structures: in which pieces a network gets smaller. Channels go whole; weights become zero, one by one or in tiles.

A structure of weights is a tile shape, `outputs x inputs`, that is zero or not as a whole, or a pattern `n:m`: of every
`m` consecutive inputs of an output at most `n` weights are left.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import OptionError

CHANNEL = "channel"
DEFAULT_BLOCK = (16, 1)
"""One vector of outputs for one input, which is what compiled code multiplies at once."""

HOW = (
    "choose 'channel', 'unstructured', a pattern such as '2:4' (of every 4 inputs at most 2 weights stay), or 'block' "
    "with block=(outputs, inputs), for which 'block:16x1' is short"
)


@dataclass(frozen=True)
class Structure:
    """What is zero together: tiles of `block` = (outputs, inputs), or all but `n` of every `m` inputs where `m` > 0."""

    block: tuple[int, int] = (1, 1)
    n: int = 0
    m: int = 0

    def __str__(self) -> str:
        if self.m:
            return f"{self.n}:{self.m}"
        return "unstructured" if self.block == (1, 1) else f"block:{self.block[0]}x{self.block[1]}"


def resolve_structure(text: object, block: Sequence[int] | None = None) -> Structure | None:
    """A structure by name; None for channels. Raises `OptionError` for what is none.

    ```python
    from graphprune.structures import resolve_structure

    print(resolve_structure("2:4"), resolve_structure("block", (8, 1)))  # 2:4 block:8x1
    ```
    """
    name = str(text)
    pattern, tile = re.fullmatch(r"(\d+):(\d+)", name), re.fullmatch(r"block:(\d+)x(\d+)", name)
    if block is not None and name != "block":
        raise OptionError(f"block={block!r} goes with structure='block', not with structure={text!r}")
    if name == CHANNEL:
        return None
    if name == "unstructured":
        return Structure()
    if name == "block":
        return _tiled(DEFAULT_BLOCK if block is None else block)
    if tile:
        return _tiled([int(size) for size in tile.groups()])
    if pattern:
        return _pattern(int(pattern[1]), int(pattern[2]))
    raise OptionError(f"structure={text!r}: {HOW}")


def _tiled(block: Sequence[int]) -> Structure:
    sizes = tuple(block) if isinstance(block, Sequence) else ()
    if len(sizes) != 2 or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise OptionError(f"block={block!r} must be two positive whole numbers: (outputs, inputs), such as (16, 1)")
    return Structure(block=(sizes[0], sizes[1]))


def _pattern(n: int, m: int) -> Structure:
    if not 0 < n < m:
        raise OptionError(
            f"structure='{n}:{m}' leaves {n} of every {m} weights: the first number must be at least 1 and less than "
            "the second, as in '2:4'"
        )
    return Structure(n=n, m=m)
