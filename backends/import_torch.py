"""From a torch model to a Relax module, including operators that TVM's importer does not know.

To add one, write a function `(node, importer) -> relax.Var` and put it in `CONVERTERS` under the operator's name.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.base_fx_graph_translator import BaseFXGraphImporter

from ..errors import CompileError, ExampleInputsError, TraceError, UnsupportedModelError
from . import import_attention, torch_converters, torch_functions, torch_half, torch_program
from .halving import half_borders
from .imported import Imported
from .precision import SINGLE, half_named
from .specs import TensorSpec

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)

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
    **torch_converters.CONVERTERS,
    **torch_functions.CONVERTERS,
    "amax.default": _reduction(relax.op.max),
    "adaptive_max_pool2d.default": _adaptive_max_pool,
    "amin.default": _reduction(relax.op.min),
    "cumsum.default": _cumsum,
    import_attention.NAME: import_attention.convert,
}


def import_model(model: Any, example_inputs: Any) -> Imported:
    """An `nn.Module` or `torch.export.ExportedProgram` as a Relax module with its signature."""
    program = _export(model, example_inputs)
    _check_element_types(program)
    _check_inputs(program)
    halves = torch_half.halves_of(program)
    module = import_program(torch_half.in_float32(program) if halves else program)
    inputs, outputs, tree = _signature(program)
    module = half_borders(module, *([half_named(spec.dtype) for spec in specs] for specs in (inputs, outputs)))
    precision = half_named(_name(halves[0])).name if halves else SINGLE
    tools = {"torch": torch.__version__}
    return Imported(module, inputs, outputs, tree, tools, precision=precision, named=lambda: _weights(program))


def _weights(program: torch.export.ExportedProgram) -> Iterator[tuple[str, Any]]:
    """The parameters and buffers of a program by their names."""
    for name, value in program.state_dict.items():
        yield name, value.detach().float().numpy()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def prepare_batches(model: Any, example_inputs: Any) -> tuple[Any, Any]:
    """A model that can be imported for several batch sizes, and its example inputs."""
    if not isinstance(model, torch.export.ExportedProgram):
        if example_inputs is None:
            raise ExampleInputsError("batch_sizes needs example_inputs: a tensor, a tuple, or a dictionary")
        return model, example_inputs
    values = [node.meta["val"] for node in model.graph.nodes if node.name in model.graph_signature.user_inputs]
    if not any(isinstance(extent, torch.SymInt) for value in values for extent in getattr(value, "shape", ())[:1]):
        raise UnsupportedModelError(
            "batch_sizes needs an exported program whose first axis is dynamic: export it with dynamic_shapes, "
            "or compile the module instead"
        )
    if example_inputs is None:
        args, kwargs = model.example_inputs or ((), {})
        if bool(args) == bool(kwargs):
            raise ExampleInputsError("batch_sizes needs example_inputs: a tensor, a tuple, or a dictionary")
        example_inputs = tuple(args) if args else dict(kwargs)
    return model.module(), example_inputs


def import_program(program: torch.export.ExportedProgram) -> tvm.IRModule:
    """The Relax module of a program; its main function takes the user inputs and returns a tuple.

    Raises `CompileError` that names the node which cannot be imported.
    """
    return torch_program.import_program(program, CONVERTERS)


def _export(model: Any, example_inputs: Any) -> torch.export.ExportedProgram:
    """The model as an exported program in inference mode."""
    if isinstance(model, torch.export.ExportedProgram):
        return model
    if example_inputs is None:
        raise ExampleInputsError("compiling a module needs example_inputs: a tensor, a tuple, or a dictionary")
    args, kwargs = _arguments(example_inputs)
    with _inference(model), torch.no_grad():
        try:
            return torch.export.export(model, args, kwargs, strict=False)
        except Exception as error:
            raise TraceError(
                f"torch.export could not trace {type(model).__name__}: {torch_program.first_line(error)}"
            ) from error


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


@contextlib.contextmanager
def _inference(model: torch.nn.Module) -> Iterator[None]:
    """Put every submodule into `eval()` and back into the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Modules of exported programs have the mode they were exported in, and refuse to be asked for another.
        with contextlib.suppress(NotImplementedError):
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_element_types(program: torch.export.ExportedProgram) -> None:
    """Floats must be float32 or of half precision; integers and truth values may be anything."""
    signature = program.graph_signature
    named = {name: signature.inputs_to_parameters[name] for name in signature.inputs_to_parameters}
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        relevant = node.name in named or node.name in signature.user_inputs
        strange = isinstance(value, torch.Tensor) and (value.is_complex() or value.layout != torch.strided)
        if relevant and strange:
            kind = str(value.dtype if value.is_complex() else value.layout).removeprefix("torch.")
            raise UnsupportedModelError(
                f"{named.get(node.name, node.name)!r} is {kind}; only dense real tensors are compiled"
            )
        if relevant and isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype not in _FLOATS:
            raise UnsupportedModelError(
                f"{named.get(node.name, node.name)!r} is {_name(value.dtype)}; only float32, float16 and bfloat16 are "
                "compiled: convert the model with model.float() and its inputs likewise"
            )


def _signature(program: torch.export.ExportedProgram) -> tuple[list[TensorSpec], list[TensorSpec], Any]:
    """Inputs and outputs of a program, and the structure of the outputs."""
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = [name for name in signature.user_inputs]
    for name in names:
        if not isinstance(name, str) or not isinstance(values.get(name), torch.Tensor):
            raise CompileError(f"every input must be a tensor; {name!r} is not one: bind it inside the model")
    inputs = [_tensor_spec(name, values[name]) for name in names]
    leaves = list(signature.user_outputs)
    tree, order = _tree(torch.utils._pytree.tree_unflatten(leaves, program.call_spec.out_spec))
    labels = _labels(tree, len(order))
    outputs = [_tensor_spec(label, values[name]) for label, name in zip(labels, order, strict=True) if name is not None]
    return inputs, outputs, tree


def _check_inputs(program: torch.export.ExportedProgram) -> None:
    """Inputs have static shapes, unlike what depends on numbers inside."""
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in program.graph_signature.user_inputs and isinstance(node.meta.get("val"), torch.Tensor):
            _tensor_spec(node.name, node.meta["val"])


def _tensor_spec(name: str, value: torch.Tensor) -> TensorSpec:
    if any(not isinstance(extent, int) for extent in value.shape):
        raise UnsupportedModelError(
            f"{name!r} has the dynamic shape {list(value.shape)}; export the model with static shapes, or give "
            "batch_sizes=(1, 8) where it is the batch that is free"
        )
    return TensorSpec(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))


def _tree(structure: Any) -> tuple[Any, list[str | None]]:
    """The output structure with numbers for tensors, and the leaves' node names in that order (None for None)."""
    order: list[str | None] = []

    def walk(item: Any) -> Any:
        if item is None:
            order.append(None)
            return None
        if isinstance(item, str):
            order.append(item)
            return len(order) - 1
        if isinstance(item, Mapping):
            return {"kind": "dict", "items": {str(key): walk(value) for key, value in item.items()}}
        if isinstance(item, (list, tuple)):
            kind = "list" if isinstance(item, list) else "tuple"
            return {"kind": kind, "items": [walk(value) for value in item]}
        raise CompileError(f"the model returns a {type(item).__name__}; only tensors in tuples, lists, dictionaries")

    return walk(structure), order


def _labels(tree: Any, count: int) -> list[str]:
    """Names for the outputs: dictionary keys where there are some."""
    names = [f"output{index}" for index in range(count)] if count != 1 else ["output"]
    if isinstance(tree, dict) and tree["kind"] == "dict":
        for key, item in tree["items"].items():
            if isinstance(item, int):
                names[item] = key
    return names
