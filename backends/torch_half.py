"""Models of torch in half precision, as the same models in float32.

The weights keep their numbers, and only their type changes; what the model computes in half precision is computed in
float32.
"""

import copy
from typing import Any

import torch
from torch import fx

from ..errors import TraceError
from . import torch_program

_HALVES = (torch.float16, torch.bfloat16)


def halves_of(program: torch.export.ExportedProgram) -> list[torch.dtype]:
    """The formats of half precision among weights, buffers and inputs, the one with the most numbers first."""
    counts = dict.fromkeys(_HALVES, 0)
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dtype in _HALVES:
            static = [extent for extent in value.shape if isinstance(extent, int)]
            counts[value.dtype] += torch.Size(static).numel()
    return sorted((dtype for dtype in _HALVES if counts[dtype]), key=lambda dtype: -counts[dtype])


def in_float32(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with float32 in the place of every format of half precision; the given one stays as it is."""
    if program.example_inputs is None:
        raise TraceError("a program in half precision needs its example inputs: export it anew, or compile the module")
    module = copy.deepcopy(program.module())
    module._apply(_single)
    for graph_module in (part for part in module.modules() if isinstance(part, fx.GraphModule)):
        for name, value in list(vars(graph_module).items()):
            if isinstance(value, torch.Tensor):
                setattr(graph_module, name, _single(value))
        for node in graph_module.graph.nodes:
            node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _renamed)
        graph_module.recompile()
    args, kwargs = torch.utils._pytree.tree_map(_single, program.example_inputs)
    with torch.no_grad():
        try:
            return torch.export.export(module, args, kwargs, strict=False)
        except Exception as error:
            raise TraceError(
                f"the model cannot be computed in float32: {torch_program.first_line(error)}; "
                "convert it with model.float()"
            ) from error


def _single(value: Any) -> Any:
    """A tensor of half precision as float32."""
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in _HALVES else value


def _renamed(value: Any) -> Any:
    """float32 for the name of a format of half precision."""
    return torch.float32 if isinstance(value, torch.dtype) and value in _HALVES else value
