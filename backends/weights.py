"""Weights beside the code: where each of them lies in `weights.bin`, and how compiled functions get them.

The manifest holds the table: `{"tensors": [{"offset", "shape", "dtype"}], "functions": {"main": [0, 1, 2]}}`. A
function takes the listed tensors as additional arguments after its inputs.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from .container import ALIGNMENT, Buffer


def layout(tensors: Sequence[np.ndarray], functions: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], Buffer]:
    """The table of weights, and the bytes of all of them, each at an aligned place."""
    entries, end = [], 0
    for tensor in tensors:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        entries.append({"offset": start, "shape": list(tensor.shape), "dtype": str(tensor.dtype)})
        end = start + tensor.nbytes
    room = aligned_room(end)
    for entry, tensor in zip(entries, tensors, strict=True):
        room[entry["offset"] :][: tensor.nbytes] = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    table = {"tensors": entries, "functions": {name: list(indices) for name, indices in functions.items()}}
    return table, memoryview(room)


def arrays(table: Mapping[str, Any], data: Buffer) -> list[np.ndarray]:
    """The tensors of a table where they lie in memory; nothing is copied."""
    found = []
    for entry in table["tensors"]:
        kind, shape = np.dtype(entry["dtype"]), entry["shape"]
        found.append(np.frombuffer(data, kind, prod(shape), entry["offset"]).reshape(shape))
    return found


def aligned_room(size: int) -> np.ndarray:
    """So many zero bytes in memory, at an aligned address."""
    room = np.zeros(size + ALIGNMENT, np.uint8)
    return room[-room.ctypes.data % ALIGNMENT :][:size]
