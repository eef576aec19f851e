"""Large pages for weights: reading memory takes fewer look-ups of addresses, which are slow in virtual machines.

Programs allocate their constants themselves. Where those lie shows in the arguments of kernels: they are noted down
during a first call, and become large pages afterwards, where the system has them (Linux; at once from 6.1).
"""

import ctypes
import mmap
from collections.abc import Iterable
from functools import cache
from typing import Any

Region = tuple[int, int]
"""Where a piece of memory begins and ends, in bytes."""

WORTH = 4 << 20
"""Bytes of code and weights that are worth it: less is within reach of the tables that addresses are looked up in."""

_LARGE, _SMALL = 2 << 20, 64 << 10
"""Bytes of a large page; of a tensor that is not worth one."""

_HUGEPAGE, _COLLAPSE = getattr(mmap, "MADV_HUGEPAGE", None), 25
"""Advice to Linux: these may be large pages; make them such now. Python does not name the second one."""


def use_large_pages(regions: Iterable[Region]) -> None:
    """Put memory that is in use into large pages. A system that does not take the advice keeps its small ones."""
    for start, end in joined(whole_pages(region) for region in regions if region[1] - region[0] >= _SMALL):
        for advice in (_HUGEPAGE, _COLLAPSE):
            if _HUGEPAGE is not None:
                _library().madvise(start, end - start, advice)


def whole_pages(region: Region) -> Region:
    """The large pages that a region lies in: what lies beside it becomes large as well."""
    return region[0] // _LARGE * _LARGE, -(-region[1] // _LARGE) * _LARGE


def joined(regions: Iterable[Region]) -> list[Region]:
    """The same memory in as few regions as possible, in ascending order."""
    found: list[Region] = []
    for start, end in sorted(regions):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif start < end:
            found.append((start, end))
    return found


@cache
def _library() -> Any:
    library = ctypes.CDLL(None)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return library
