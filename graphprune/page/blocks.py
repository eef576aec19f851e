"""Layers gathered into blocks by their names, so that a large model fits into a glance."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from .layers import Layer, Pair

MOST = 24
"""Blocks that are shown at most; of more of them the smallest become one."""

FEW = 4
"""Fewer blocks than these say too little: one of them is taken apart into however many."""


class Block(NamedTuple):
    """Some layers: the start of the name that they share, how many they are, and their costs before and after."""

    name: str
    layers: int
    params: Pair
    macs: Pair


def blocks_of(layers: Sequence[Layer]) -> list[Block]:
    """The modules that layers lie in, in order; one that holds more than half of a cost is taken apart.

    Their costs add up to those of the layers.
    """
    whole = _block("", layers)
    parts = _apart((), layers)
    while len(parts) <= MOST:
        largest = max(parts, key=lambda name: _share(_block("", parts[name]), whole), default=())
        if not parts or _share(_block("", parts[largest]), whole) <= 0.5:
            break
        inner = _apart(largest, parts[largest])
        few = len(parts) - 1 + len(inner) <= MOST or len(parts) < FEW
        if list(inner) == [largest] or not few:
            break
        parts = {key: own for name in parts for key, own in (inner if name == largest else {name: parts[name]}).items()}
    blocks = [_block(".".join(name), own) for name, own in parts.items()]
    if len(blocks) <= MOST:
        return blocks
    ranked = sorted(blocks, key=lambda block: _share(block, whole), reverse=True)
    shown = {id(block) for block in ranked[: MOST - 1]}
    rest = [layer for block, own in zip(blocks, parts.values(), strict=True) if id(block) not in shown for layer in own]
    return [*(block for block in blocks if id(block) in shown), _block(f"{len(rest)} smaller layers", rest)]


def _words(layer: Layer) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[./]", layer.name) if word) or (layer.name,)


def _apart(name: tuple[str, ...], layers: Sequence[Layer]) -> dict[tuple[str, ...], list[Layer]]:
    """Layers by the next word at which their names differ; a layer that has no further word keeps what it has."""
    depth = len(name) + 1
    while True:
        found: dict[tuple[str, ...], list[Layer]] = {}
        for layer in layers:
            found.setdefault(_words(layer)[:depth], []).append(layer)
        if len(found) != 1 or all(len(_words(layer)) <= depth for layer in layers):
            return found
        depth += 1


def _block(name: str, layers: Sequence[Layer]) -> Block:
    pairs = [
        Pair(sum(pair.before for pair in costs), sum(pair.after for pair in costs))
        for costs in ([layer.params for layer in layers], [layer.macs for layer in layers])
    ]
    return Block(name, len(layers), *pairs)


def _share(block: Block, whole: Block) -> float:
    return max(block.params.before / max(whole.params.before, 1), block.macs.before / max(whole.macs.before, 1))
