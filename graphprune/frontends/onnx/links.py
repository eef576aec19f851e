"""The links of a chain the other way round: what must go into an operator so that a target comes out."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...chains import Chain
from ...graph import Node
from .tracing import STANDARD
from .walk import Array, part_of

_AFFINE = ("BatchNormalization", "Mul", "Div", "Add", "Sub")
_SHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast")
_SUMS = ("Add", "Sum")


def leads_back(chain: Chain, nodes: Sequence[Node], own: Mapping[str, ir.Node]) -> bool:
    """Whether every link, and the sum at the end, is an operator of the model that can be undone.

    What looks affine in an analysis may be more in a model (PRelu, Mean), and nodes may stand for parts of an operator.
    """
    if not chain.meets:
        return True
    allowed = [(link, (*_AFFINE, *_SHAPING, "Transpose")) for link in chain.links] + [(chain.end, _SUMS)]
    made = {value.name for node in own.values() for value in node.outputs} | {value.name for value in _inputs(own)}
    return all(
        (node := own.get(nodes[place].name)) is not None
        and node.domain in STANDARD
        and node.op_type in kinds
        and all(value is None or value.is_leaf or value.name in made for value in nodes[place].inputs)
        for place, kinds in allowed
    )


def _inputs(own: Mapping[str, ir.Node]) -> Sequence[ir.Value]:
    graph = next(iter(own.values())).graph
    return list(graph.inputs) if isinstance(graph, ir.Graph) else []


def other_of(chain: Chain, nodes: Sequence[Node]) -> str:
    """The name of what the result of a chain is added to."""
    last = nodes[chain.links[-1] if chain.links else chain.start].outputs[0]
    (other,) = (value for value in nodes[chain.end].inputs if value is not None and value is not last)
    return other.name


def before(node: Node) -> str:
    """The name of what goes into a link; all else that it reads is stored."""
    return next(value.name for value in node.inputs if value is not None and not value.is_leaf)


def back_through(model: ir.Model, node: ir.Node, name: str, given: Array, target: Array) -> Array:
    """What must go into a node of a model so that `target` comes out; `given` is what goes in now, by `name`.

    An affine operator is asked what it makes of zeros and ones. Where it multiplies by nothing, its input stays.
    """
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        axes = order.as_ints() if order is not None else range(target.ndim)[::-1]
        return np.transpose(target, np.argsort(list(axes)))
    if node.op_type in _SHAPING:
        return target.reshape(given.shape)
    result = node.outputs[0].name or ""
    session = part_of(model, {name: given}, [result])
    offset, sum_of_both = (
        session.run([result], {name: np.full_like(given, fill)})[0].astype(np.float32) for fill in (0, 1)
    )
    gain = sum_of_both - offset
    usable = np.abs(gain) > 1e-3 * np.abs(gain).mean()
    return np.where(usable, (target - offset) / np.where(usable, gain, 1), given)
