"""Where a layer's result counts: how it goes on, affinely and by itself, to the sum that joins it to a stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from .contractions import Contraction, contraction_of
from .graph import Node, Value

AFFINE = ("identity", "batch_norm", "mul", "div", "add", "sub")  # "identity" also multiplies by numbers
MOVING = ("permute", "reshape", "roll", "flip")


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
                chains[earlier.start] = alone(earlier)
            chains[chain.end] = chain
    return [chains[end] for end in sorted(chains)]


def alone(chain: Chain) -> Chain:
    """The same contraction, compared where its own result stands."""
    return Chain(chain.contraction, chain.start, (), chain.start)


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
    plain = node.op == "add" and not node.attrs.get("scaled")
    return plain and computed and others[0].shape == value.shape


def _goes_on(node: Node, value: Value) -> bool:
    """An invertible operation on this value and stored tensors alone."""
    rest = [other for other in node.inputs if other is not value and other is not None]
    if node.op in MOVING:
        return node.inputs[0] is value and not rest and prod(node.outputs[0].shape) == prod(value.shape)
    return (
        node.op in AFFINE
        and (node.inputs[0] is value or node.op in ("mul", "add", "sub"))
        and all(other.is_leaf for other in rest)
        and node.outputs[0].shape == value.shape
    )


def absorber_of(chain: Chain, nodes: Sequence[Node]) -> tuple[Node, int] | None:
    """What takes up a constant: the node and the input that hold it; None where nothing does.

    That is the bias of the contraction, or the mean that the batch norm behind it takes away.
    """
    contraction = chain.contraction
    if contraction.bias is not None:
        return contraction.node, [value.name if value else None for value in contraction.node.inputs].index(
            contraction.bias
        )
    value = contraction.node.outputs[0]
    reader = next((node for node in nodes[chain.start + 1 :] if value in node.inputs), None)
    if reader is None or reader.op != "batch_norm" or value.uses != 1 or len(reader.inputs) < 4:
        return None
    mean = reader.inputs[3]
    return (reader, 3) if mean is not None and mean.is_leaf and mean.uses == 1 else None
