"""Root-mean-square norms of torch models: where their eps is kept, and how it is brought in line with a plan."""

from typing import Any

import torch
from torch import fx

from ...analysis import Analysis
from ...graph import Graph, Node
from ...plan import Plan
from ...repairs import find_rms_norms
from ...shapes import eps_key, grown_eps


def mark_norms(module: torch.nn.Module, graph: Graph) -> None:
    """Mark the norms that can be repaired: `repaired` at their node (scale, offset), `grows` where eps is added."""
    for norm in find_rms_norms(graph):
        if norm.eps is None or _place(module, norm.eps) is not None:
            norm.node.attrs["repaired"] = (norm.scale.name, norm.offset)
            if norm.eps is not None:
                norm.eps.attrs["grows"] = norm.scale.name


def mend_norms(slim: torch.nn.Module, analysis: Analysis, plan: Plan) -> None:
    """Multiply eps of every repaired norm, in the attribute of its module or in the node of a GraphModule."""
    done: set[tuple[int, str]] = set()
    for node in analysis.graph.nodes:
        old, new = node.attrs.get(eps_key(node)), grown_eps(node, plan)
        place = _place(slim, node) if new is not None else None
        if place is None:
            continue
        owner, name = place
        if isinstance(owner, fx.Node):
            if node.op == "rms_norm" and len(owner.args) < 4:
                owner.kwargs = {"eps": old, **{key: item for key, item in owner.kwargs.items() if item is not None}}
            owner.args = tuple(new if item == old else item for item in owner.args)
            owner.kwargs = {key: new if item == old else item for key, item in owner.kwargs.items()}
        elif (id(owner), name) not in done:
            setattr(owner, name, new)
            done.add((id(owner), name))
    if isinstance(slim, fx.GraphModule):
        slim.recompile()


def _place(module: torch.nn.Module, node: Node) -> tuple[Any, str] | None:
    """What holds eps: an fx node, or a module and the one attribute of this value; None where that is not plain."""
    if isinstance(module, fx.GraphModule) and isinstance(node.call, str):
        found = next((item for item in module.graph.nodes if item.name == node.call), None)
        if found is not None and found.op in ("call_function", "call_method"):
            return found, "args"
        if found is None or found.op != "call_module":
            return None
        owner: Any = module.get_submodule(str(found.target))
    else:
        owner = module.get_submodule(node.scope)
    names = [key for key, item in vars(owner).items() if type(item) is float and item == node.attrs[eps_key(node)]]
    if node.op == "rms_norm" and getattr(owner, "eps", 0) is None:  # what torch takes then depends on the dtype
        names = ["eps"]
    return (owner, names[0]) if len(names) == 1 else None
