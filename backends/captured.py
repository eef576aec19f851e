"""Graphs that `torch.compile` captured: what is a weight in them; the same graph as a module that holds its weights.

Weights are arguments of a captured graph: where it serves several modules, or a parameter is replaced, the next call
brings others.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from ..errors import CompileError, TraceError
from .import_torch import CONVERTERS
from .torch_program import check_effects, decompose, first_line, title

# What torch calls the places in which modules keep their parts.
_PLACES = ("_modules", "_parameters", "_buffers")

# Arguments by which an operator that could be random is not.
_CERTAIN = {"train": False, "training": False, "dropout_p": 0.0}


def weight_names(graph: fx.GraphModule) -> dict[int, str]:
    """The arguments that are parameters or other tensors of modules: names in the module, by position.

    To be asked while the graph is being captured: torch forgets it afterwards.
    """
    names: dict[int, str] = {}
    for position, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        if "_dynamo_static_input_type" in node.meta.get("tensor_dict", {}):
            name = _path(_source(node)) or node.name
            while any(taken == name or taken.startswith(f"{name}.") for taken in names.values()):
                name += "_"
            names[position] = name
    return names


def _source(node: fx.Node) -> str:
    """Where an argument comes from: `L['self']._modules['fc']._parameters['weight']`, or `L['self'].fc.weight`."""
    source = getattr(node, "_dynamo_source", None) or getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", "")
    return str(name() if callable(name) else name)


def _path(source: str) -> str:
    """The name of a tensor in the module whose code was captured, `fc.weight`; empty where it has none."""
    words = [first or second for first, second in re.findall(r"\[['\"]?([\w.]+)['\"]?\]|\.(\w+)", source)]
    return ".".join(word for word in words[1:] if word not in _PLACES)


def bound(graph: fx.GraphModule, names: dict[int, str], arguments: Sequence[Any]) -> fx.GraphModule:
    """The graph as a module that holds the weights of one call under their names; nothing is copied.

    What it still takes are the other tensors. Sizes and other numbers among the arguments are written into it.
    """
    module = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    nodes = module.graph.find_nodes(op="placeholder")
    for position, (node, argument) in enumerate(zip(nodes, arguments, strict=True)):
        if position in names:
            _store(module, names[position], argument)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(names[position]))
        elif isinstance(argument, torch.Tensor):
            continue
        else:
            _write(node, argument)
        module.graph.erase_node(node)
    for node in module.graph.find_nodes(op="call_function", target=torch._C._set_grad_enabled):
        module.graph.erase_node(node)  # nothing has gradients here
    module.graph.lint()
    module.recompile()
    return module.eval()


def _store(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    *folders, leaf = name.split(".")
    for folder in folders:
        if folder not in module._modules:
            module.add_module(folder, torch.nn.Module())
        module = module.get_submodule(folder)
    if isinstance(tensor, torch.nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor)


def _write(node: fx.Node, value: Any) -> None:
    """Put a number in the place of an argument, everywhere, also where it is taken out of a tensor first."""

    def put(item: fx.Node) -> Any:
        return value if item is node else item

    for user in list(node.users):
        if _takes_out(user):
            _write(user, value)
            user.graph.erase_node(user)
        else:
            user.args, user.kwargs = fx.map_arg(user.args, put), fx.map_arg(user.kwargs, put)


def _takes_out(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "item"


def wrapped_numbers(graph: fx.GraphModule) -> set[int]:
    """The positions of arguments that are numbers, which torch wraps in tensors where they may vary."""
    nodes = graph.graph.find_nodes(op="placeholder")
    return {place for place, node in enumerate(nodes) if node.users and all(map(_takes_out, node.users))}


def why_shared(graph: fx.GraphModule) -> str:
    """Why copies cannot take the place of the graph's results: the empty string where they can.

    A result that shares memory with an argument or with another result changes together with it.
    """
    arguments = {_storage(node): node for node in graph.graph.find_nodes(op="placeholder") if _storage(node)}
    seen: dict[int, fx.Node] = {}
    for node in tree_leaves(graph.graph.output_node().args):
        if not isinstance(node, fx.Node):
            continue
        other = arguments.get(_storage(node)) or seen.get(_storage(node))
        if other is not None and _storage(node):
            return f"the result {node.name!r} shares its memory with {other.name!r}"
        seen[_storage(node)] = node
    return ""


def _storage(node: fx.Node) -> int:
    """Which memory the value of a node lies in, as the capture saw it; 0 for values without."""
    value = node.meta.get("example_value")
    return int(value.untyped_storage()._cdata) if isinstance(value, torch.Tensor) else 0


def enables_gradients(graph: fx.GraphModule) -> bool:
    """Whether the graph switches gradients on, whatever they are when it is called."""
    nodes = graph.graph.find_nodes(op="call_function", target=torch._C._set_grad_enabled)
    return any(node.args[0] is True for node in nodes)


def exported(module: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """The module as a program without random numbers and without effects on what it is given.

    Raises `TraceError` or `CompileError` for any other.
    """
    try:
        program = torch.export.export(module, inputs, strict=False)
    except Exception as error:
        raise TraceError(f"torch.export could not trace a captured graph: {first_line(error)}") from error
    decomposed = decompose(program, CONVERTERS)
    check_effects(decomposed)
    for node in decomposed.graph.nodes:
        if node.op == "call_function" and _is_random(node):
            raise CompileError(f"{title(node)} draws random numbers")
    return program


def _is_random(node: fx.Node) -> bool:
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return random and not any(_argument(node, name) == value for name, value in _CERTAIN.items())


def _argument(node: fx.Node, name: str) -> Any:
    """What an operator is called with under a name of its schema; None where it has no such argument."""
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name == name:
            given = node.args[position] if position < len(node.args) else argument.default_value
            return node.kwargs.get(name, given)
    return None
