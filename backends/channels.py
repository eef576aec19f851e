"""Moving channels between lanes: shuffles, cuts and joins of channels without leaving the blocked layout.

A vector of the result takes its lanes from a few vectors of the operands, always the same lanes, so that moving is a
handful of permute instructions. Code generators do not find them from loops; the kernel is written with them.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .layout import Blocked, count_blocks, positions

# Below this many numbers waking a thread costs more than it saves.
_WORTH_A_THREAD = 16384
_PIECES = 32


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels of blocked values in any order, not moved yet.

    Channel `c` lies in the value `sources[picks[c, 0]]` at the place `picks[c, 1]` among its `blocks * lanes` places.
    """

    sources: tuple[Blocked, ...]
    picks: np.ndarray
    shape: tuple[int, ...]

    def select(self, order: np.ndarray) -> "Channels":
        """These channels in this order."""
        return Channels(self.sources, self.picks[order], (self.shape[0], len(order), *self.shape[2:]))


def channels_of(value: Blocked) -> Channels:
    """All channels of a value, where they are."""
    places = positions(value.segments, value.lanes)
    return Channels((value,), np.stack([np.zeros_like(places), places], axis=1), value.shape)


def join(parts: list[Channels]) -> Channels:
    """The channels of several values one after the other."""
    sources: list[Blocked] = []
    picks = []
    for part in parts:
        known = [next((i for i, old in enumerate(sources) if old.expr.same_as(new.expr)), -1) for new in part.sources]
        for index, source in enumerate(part.sources):
            if known[index] < 0:
                known[index] = len(sources)
                sources.append(source)
        picks.append(np.stack([np.array(known)[part.picks[:, 0]], part.picks[:, 1]], axis=1))
    shape = parts[0].shape
    whole = np.concatenate(picks)
    return Channels(tuple(sources), whole, (shape[0], len(whole), *shape[2:]))


def whole_parts(channels: Channels) -> list[Blocked] | None:
    """The values whose channels these are, each one complete and in order, or None."""
    parts, start = [], 0
    while start < len(channels.picks):
        source = channels.sources[channels.picks[start, 0]]
        places = positions(source.segments, source.lanes)
        run = channels.picks[start : start + len(places)]
        if len(run) < len(places) or (run[:, 0] != run[0, 0]).any() or (run[:, 1] != places).any():
            return None
        parts.append(source)
        start += len(places)
    return parts


def used(channels: Channels) -> Channels:
    """The same without the values that no channel comes from."""
    indices = sorted(set(channels.picks[:, 0].tolist()))
    picks = channels.picks.copy()
    picks[:, 0] = np.searchsorted(indices, picks[:, 0])
    return Channels(tuple(channels.sources[i] for i in indices), picks, channels.shape)


def move(channels: Channels, height: int, width: int, lanes: int, tensors: tuple[te.Tensor, ...]) -> te.Tensor:
    """The channels, without holes between them, as an expression over the tensors of `channels.sources`."""
    batch, count = channels.shape[:2]
    size = (batch, count_blocks((count,), lanes), height, width, lanes)
    rows, columns = (height, width) if height > 1 else _split(width)
    loop = T.serial if prod(size) < _WORTH_A_THREAD else T.parallel

    def write(sources: list, results: list) -> tirx.Stmt:
        with IRBuilder() as builder:
            with loop(0, batch * rows) as row:
                for block in range(size[1]):
                    picks = channels.picks[block * lanes : (block + 1) * lanes]
                    with T.serial(0, columns) as column:
                        pixel = (row % rows, column) if height > 1 else (0, row % rows * columns + column)
                        place = (row // rows, *pixel)
                        vector = _vector(sources, picks, lanes, place)
                        T.buffer_store(results[0], vector, [place[0], block, *pixel, T.ramp(0, 1, lanes)])
            return builder.get()

    return te.extern(
        [size], list(tensors), lambda ins, outs: write(ins, outs), name="channels", dtype=[str(tensors[0].dtype)]
    )


def _split(width: int) -> tuple[int, int]:
    """One row in equal pieces."""
    pieces = next(n for n in range(min(_PIECES, width), 0, -1) if width % n == 0)
    return pieces, width // pieces


def _vector(buffers: list, picks: np.ndarray, lanes: int, place: tuple) -> tirx.Expr:
    """One vector of the result; lanes without a channel repeat some channel."""
    origins = [(int(source), int(place) // lanes) for source, place in picks]
    vectors = list(dict.fromkeys(origins))
    loads = [
        tirx.BufferLoad(buffers[source], [place[0], block, *place[1:], T.ramp(0, 1, lanes)])
        for source, block in vectors
    ]
    order = [
        vectors.index(origin) * lanes + int(place) % lanes for origin, (_, place) in zip(origins, picks, strict=True)
    ]
    order += [order[0]] * (lanes - len(order))
    if order == list(range(lanes)):
        return loads[0]
    # Permute instructions read one or two vectors: more are taken in by and by.
    result, have = loads[0], list(range(lanes))
    for index, load in enumerate(loads):
        following = [lanes + place % lanes if place // lanes == index else lane for lane, place in enumerate(order)]
        if index == 0:
            first = [place % lanes if place // lanes == 0 else 0 for place in order]
            if len(loads) == 1 or first != have:
                result = _shuffle([load], first)
            continue
        result = _shuffle([result, load], following)
    return result


def _shuffle(vectors: list, order: list[int]) -> tirx.Expr:
    return tirx.Shuffle(vectors, [tirx.IntImm("int32", place) for place in order])
