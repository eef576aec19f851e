"""Frontends: read a model into an Analysis, run it, write a plan into it.

A frontend is a module with the functions `analyze(model, example_inputs, policy)`, `apply(model, plan, example_inputs,
analysis)` and `outputs(model, inputs, plan, ...)`. This is the one place that knows which model belongs to which.
"""

import os
from importlib import import_module
from types import ModuleType
from typing import Any

from ..errors import UnsupportedModelError

_FRONTENDS = {
    ("torch.nn.modules.module", "Module"): "torch.modules",
    ("torch.export.exported_program", "ExportedProgram"): "torch.exported",
    ("onnx.onnx_ml_pb2", "ModelProto"): "onnx.models",
    ("onnx_ir", "Model"): "onnx.models",
    ("onnx_graphsurgeon.ir.graph", "Graph"): "onnx.models",
    ("tvm.ir.module", "IRModule"): "relax.models",
}


def frontend_of(model: Any) -> ModuleType:
    """The frontend for a model, found by the names of its classes, so that no framework is imported in vain.

    Raises `UnsupportedModelError` for anything else.
    """
    for kind in type(model).__mro__:
        path = _FRONTENDS.get((kind.__module__, kind.__qualname__))
        if path:
            return import_module(f".{path}", __name__)
    if isinstance(model, (str, os.PathLike)):
        return import_module(".onnx.models", __name__)
    if isinstance(model, dict) and model and all(isinstance(key, str) for key in model):
        return import_module(".torch.state", __name__)
    raise UnsupportedModelError(
        f"a model of type {type(model).__name__} is not supported: pass a torch.nn.Module, a torch.fx.GraphModule, a "
        "torch.export.ExportedProgram, an onnx.ModelProto, an onnx_ir.Model, an onnx_graphsurgeon.Graph, the path of "
        "an .onnx file or a tvm.IRModule"
    )


def source_of(model: str) -> ModuleType:
    """How a command line loads and saves the model that it names: by the ending of what is named."""
    return import_module(".onnx.source" if model.endswith(".onnx") else ".torch.source", __name__)
