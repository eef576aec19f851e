"""Where a layer's result counts: how it goes on, affinely and by itself, to the sum that joins it to a stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...graph import Node, Value
from .contractions import Contraction, contraction_of

_AFFINE = ("batch_norm", "mul", "div", "add", "sub")
_MOVING = ("identity", "permute", "reshape", "roll", "flip")


@dataclass(frozen=True, eq=False)
class Chain:
    """A contraction, the nodes that only its result goes through, and the sum where it meets something else.

    `end` is the position of the node at which the result is compared with that of the original.
    """

    contraction: Contraction
    start: int
    links: tuple[int, ...]
    end: int

    @property
    def meets(self) -> bool:
        """Whether it ends in a sum with another value."""
        return self.end != self.start


def chains_of(nodes: Sequence[Node]) -> list[Chain]:
    """The chain of every contraction, in the order of their ends. Of two that meet, the later one takes the sum."""
    readers: dict[Value, int] = {}
    for position, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and not value.is_leaf:
                readers[value] = position
    chains: dict[int, Chain] = {}
    for position, node in enumerate(nodes):
        contraction = contraction_of(node)
        if contraction is not None:
            chain = _chain(nodes, readers, contraction, position)
            earlier = chains.get(chain.end)
            if earlier is not None and chain.meets:
                chains[earlier.start] = Chain(earlier.contraction, earlier.start, (), earlier.start)
            chains[chain.end] = chain
    return [chains[end] for end in sorted(chains)]


def _chain(nodes: Sequence[Node], readers: dict[Value, int], contraction: Contraction, start: int) -> Chain:
    links: list[int] = []
    value = nodes[start].outputs[0]
    while value.uses == 1 and value in readers:
        position = readers[value]
        node = nodes[position]
        if _meets(node, value):
            return Chain(contraction, start, tuple(links), position)
        if not _goes_on(node, value):
            break
        links.append(position)
        value = node.outputs[0]
    return Chain(contraction, start, (), start)


def _meets(node: Node, value: Value) -> bool:
    """A sum with another computed value of the same shape."""
    others = [other for other in node.inputs if other is not value and other is not None]
    computed = len(node.inputs) == 2 and len(others) == 1 and not others[0].is_leaf
    return node.op == "add" and computed and others[0].shape == value.shape


def _goes_on(node: Node, value: Value) -> bool:
    """An invertible operation on this value and stored tensors alone."""
    rest = [other for other in node.inputs if other is not value and other is not None]
    if node.op in _MOVING:
        return node.inputs[0] is value and not rest and _size(node.outputs[0]) == _size(value)
    return (
        node.op in _AFFINE
        and node.inputs[0] is value
        and all(other.is_leaf for other in rest)
        and node.outputs[0].shape == value.shape
    )


def _size(value: Value) -> int:
    size = 1
    for length in value.shape:
        size *= length
    return size


Call = Callable[[torch.Tensor], torch.Tensor]


def inverse(node: Node, call: Call, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """What must go into a link so that `target` comes out; `given` is what goes in now.

    How the operation computes is asked of it: an affine one by what it makes of zeros and ones, a moving one by where
    it takes numbered places. Where an affine one multiplies by nothing, its input stays as it is.
    """
    if node.op in _MOVING:
        places = torch.arange(given.numel(), device=given.device).reshape(given.shape)
        order = call(places).reshape(-1)
        back = torch.empty_like(given).reshape(-1)
        back[order] = target.reshape(-1).to(given.dtype)
        return back.reshape(given.shape)
    offset = call(torch.zeros_like(given))
    gain = call(torch.ones_like(given)) - offset
    usable = gain.abs() > 1e-3 * gain.abs().mean()
    return torch.where(usable, (target - offset) / torch.where(usable, gain, 1.0), given)
