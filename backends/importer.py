"""From an exported torch program to a Relax module, including operators that TVM's importer does not know.

To add one, write a function `(node, importer) -> relax.Var` and put it in `CONVERTERS` under the operator's name.
"""

from collections.abc import Callable

import torch
import tvm
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.relax.frontend.torch.base_fx_graph_translator import BaseFXGraphImporter

from ..errors import CompileError

Converter = Callable[[fx.Node, BaseFXGraphImporter], relax.Var]


def _reduction(op: Callable[..., relax.Expr]) -> Converter:
    def convert(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
        data, axes, keepdims = (*node.args, None, False)[:3] if len(node.args) < 3 else node.args[:3]
        axes = node.kwargs.get("dim", axes)
        keepdims = node.kwargs.get("keepdim", keepdims)
        axes = [axes] if isinstance(axes, int) else list(axes or []) or None
        return importer.block_builder.emit(op(importer.env[data], axes, bool(keepdims)))

    return convert


def _cumsum(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
    """A running sum; of truth values and small integers it is an int64, as in torch."""
    dtype = str(node.meta["val"].dtype).removeprefix("torch.")
    data = importer.env[node.args[0]]
    if str(data.ty.dtype) != dtype:
        data = importer.block_builder.emit(relax.op.astype(data, dtype))
    return importer.block_builder.emit(relax.op.cumsum(data, node.args[1], dtype))


def _adaptive_max_pool(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
    """An adaptive pool whose windows are all alike is an ordinary one."""
    data, size = importer.env[node.args[0]], node.args[1]
    space = [int(extent) for extent in list(data.ty.shape)[-2:]]
    if any(extent % count for extent, count in zip(space, size, strict=True)):
        raise CompileError(f"adaptive_max_pool2d from {space} to {list(size)} has windows of several sizes")
    step = [extent // count for extent, count in zip(space, size, strict=True)]
    pooled = importer.block_builder.emit(relax.op.nn.max_pool2d(data, step, step))
    # Like TVM's importer for max_pool2d: nobody asks for the indices at inference time.
    return importer.block_builder.emit(relax.Tuple([pooled, relax.op.zeros_like(pooled)]))


CONVERTERS: dict[str, Converter] = {
    "amax.default": _reduction(relax.op.max),
    "adaptive_max_pool2d.default": _adaptive_max_pool,
    "amin.default": _reduction(relax.op.min),
    "cumsum.default": _cumsum,
}


def import_program(program: torch.export.ExportedProgram) -> tvm.IRModule:
    """The Relax module of a program; its main function takes the user inputs and returns a tuple.

    Raises `CompileError` that names the operators which cannot be imported.
    """
    try:
        return from_exported_program(program, custom_convert_map=dict(CONVERTERS))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1][:500] if lines else type(error).__name__
        raise CompileError(
            f"the model uses something that cannot be compiled: {reason}; "
            "replace the operator in the model, or add it to graphprune.backends.importer.CONVERTERS"
        ) from error
