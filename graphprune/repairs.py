"""Root-mean-square norms whose width shrinks: recognised in a graph, and repaired so that dropping stays masking.

Over n positions of which m stay and the others hold zero, the mean of squares is S/n before and S/m after. With the
scale multiplied by sqrt(n/m) and eps by n/m the result is the same: x / sqrt(S/n + eps) * w. Layer norms subtract a
mean, and have no such repair.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .graph import Graph, Node, Value


class RmsNorm(NamedTuple):
    """One norm: the node that averages squares (or does it all), its scale, and the node that adds eps.

    The scale is used as `offset` + what is stored. `eps` is None where the norm has no number of its own.
    """

    node: Node
    scale: Value
    offset: float
    eps: Node | None


def find_rms_norms(graph: Graph) -> list[RmsNorm]:
    """Every norm over the last axis with a stored scale of its own, as one operation or written out."""
    makers = {value: node for node in graph.nodes for value in node.outputs}
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None:
                readers.setdefault(value, []).append(node)
    return [norm for node in graph.nodes if (norm := _whole(node) or _written_out(node, makers, readers))]


def _whole(node: Node) -> RmsNorm | None:
    if node.op != "rms_norm" or node.attrs.get("dims") != 1 or len(node.inputs) < 2:
        return None
    scale = node.inputs[1]
    if scale is None or not _own(scale):
        return None
    return RmsNorm(node, scale, 0.0, None if node.attrs.get("eps") is None else node)


def _written_out(mean: Node, makers: dict[Value, Node], readers: dict[Value, list[Node]]) -> RmsNorm | None:
    """x * rsqrt(mean(x * x) + eps) * scale, or x / sqrt(...) * scale, with casts anywhere."""
    if mean.op != "mean" or not mean.attrs.get("keepdims") or mean.inputs[0] is None:
        return None
    if mean.attrs.get("axes") != [len(mean.inputs[0].shape) - 1]:
        return None
    x = _squared(mean.inputs[0], makers)
    added = _only_reader(mean.outputs[0], readers)
    if x is None or added is None or added.op != "add" or not added.attrs.get("scalar"):
        return None
    root = _only_reader(added.outputs[0], readers)
    if root is None or root.op not in ("rsqrt", "sqrt"):
        return None
    normed = _only_reader(root.outputs[0], readers)
    if root.op == "sqrt" and normed is not None and _inverts(normed):
        normed = _only_reader(normed.outputs[0], readers)
        joins = "mul"
    else:
        joins = "mul" if root.op == "rsqrt" else "div"
    if normed is None or normed.op != joins or x not in [_plain(value, makers) for value in normed.inputs]:
        return None
    scaled = _only_reader(normed.outputs[0], readers)
    if scaled is None or scaled.op != "mul" or len(scaled.inputs) != 2:
        return None
    for value in scaled.inputs:
        for scale, offset in _stored(value, makers):
            return RmsNorm(mean, scale, offset, added)
    return None


def _inverts(node: Node) -> bool:
    """1 / x."""
    return node.op == "reciprocal" or node.op == "scalar_rdiv" and node.attrs.get("value") == 1


def _squared(value: Value, makers: dict[Value, Node]) -> Value | None:
    """What was squared to give a value."""
    node = makers.get(value)
    if node is None or node.inputs[0] is None:
        return None
    twice = node.op == "mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    square = node.op == "square" or node.op == "power" and node.attrs.get("value") == 2
    return _plain(node.inputs[0], makers) if twice or square else None


def _stored(value: Value | None, makers: dict[Value, Node]) -> Iterator[tuple[Value, float]]:
    """The stored scale behind an operand, and the number that is added to it."""
    plain = _plain(value, makers)
    if plain is not None and plain.is_leaf and _own(plain):
        yield plain, 0.0
    node = makers.get(plain) if plain is not None else None
    if node is not None and node.op == "add" and isinstance(node.attrs.get("value"), (int, float)):
        inner = _plain(node.inputs[0], makers)
        if inner is not None and inner.is_leaf and _own(inner):
            yield inner, float(node.attrs["value"])


def _own(scale: Value) -> bool:
    return scale.is_leaf and scale.kind == "parameter" and len(scale.shape) == 1 and scale.uses == 1


def _plain(value: Value | None, makers: dict[Value, Node]) -> Value | None:
    """The value before casts and copies."""
    while value is not None and value in makers and makers[value].op == "identity":
        value = makers[value].inputs[0]
    return value


def _only_reader(value: Value, readers: dict[Value, list[Node]]) -> Node | None:
    """The node that reads a value, past casts and copies, where there is just one."""
    nodes = readers.get(value, [])
    if len(nodes) != 1:
        return None
    return _only_reader(nodes[0].outputs[0], readers) if nodes[0].op == "identity" else nodes[0]
