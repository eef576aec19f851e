"""From a torch model to an artifact.

```python
artifact = compile_model(model, target="x86", example_inputs=torch.zeros(1, 3, 224, 224))
```
"""

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch

from ..errors import CompileError, ExampleInputsError, GraphPruneError, TraceError, UnsupportedModelError
from .artifact import FORMAT, FORMAT_VERSION, Artifact, TensorSpec, describe
from .linker import linker
from .targets import Target, get_target


def compile_model(
    model: Any,
    target: "str | Target" = "x86",
    example_inputs: Any = None,
    threads: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Artifact:
    """Compile an `nn.Module` or `torch.export.ExportedProgram` for a target.

    `example_inputs` fixes names, shapes and element types of the inputs: a tensor, a tuple of positional or a
    dictionary of keyword inputs; an exported program needs none. A module is compiled as in `eval()`, and is not
    changed. `threads` is the number of threads that calls of the artifact use. `metadata` is stored in the
    artifact's manifest under `source` and must fit into JSON.

    Raises `TargetError`, `ExampleInputsError`, `UnsupportedModelError`, `TraceError`, or `CompileError`.
    """
    target = get_target(target)
    program = _export(model, example_inputs)
    _check_element_types(program)
    inputs, outputs, tree = _signature(program)
    library = _build(program, target)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "target": {"name": target.name, "triple": target.triple, "cpu": target.cpu, "features": list(target.features)},
        "inputs": [describe(spec) for spec in inputs],
        "outputs": [describe(spec) for spec in outputs],
        "output_tree": tree,
        "source": dict(metadata or {}),
        "tools": {
            "graphprune": version("graphprune"),
            "apache-tvm": version("apache-tvm"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    return Artifact(library, manifest, threads)


def _export(model: Any, example_inputs: Any) -> torch.export.ExportedProgram:
    """The model as an exported program in inference mode."""
    if isinstance(model, torch.export.ExportedProgram):
        return model
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedModelError(
            f"cannot compile a {type(model).__name__}: expected an nn.Module or a torch.export.ExportedProgram"
        )
    if example_inputs is None:
        raise ExampleInputsError("compiling a module needs example_inputs: a tensor, a tuple, or a dictionary")
    args, kwargs = _arguments(example_inputs)
    with _inference(model), torch.no_grad():
        try:
            return torch.export.export(model, args, kwargs, strict=False)
        except Exception as error:
            raise TraceError(f"torch.export could not trace {type(model).__name__}: {_brief(error)}") from error


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
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_element_types(program: torch.export.ExportedProgram) -> None:
    """Floating-point inputs and parameters must be float32; integers and truth values may be anything."""
    signature = program.graph_signature
    named = {name: signature.inputs_to_parameters[name] for name in signature.inputs_to_parameters}
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        relevant = node.name in named or node.name in signature.user_inputs
        if relevant and isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float32:
            raise UnsupportedModelError(
                f"{named.get(node.name, node.name)!r} is {str(value.dtype).removeprefix('torch.')}; only float32 is "
                "compiled: convert the model with model.float() and its inputs likewise"
            )


def _signature(program: torch.export.ExportedProgram) -> tuple[list[TensorSpec], list[TensorSpec], Any]:
    """Inputs and outputs of a program, and the structure of the outputs."""
    signature = program.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
    if changed:
        raise CompileError(f"the model changes {', '.join(changed)} in its forward pass; make it free of side effects")
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


def _tensor_spec(name: str, value: torch.Tensor) -> TensorSpec:
    if any(not isinstance(extent, int) for extent in value.shape):
        raise UnsupportedModelError(
            f"{name!r} has the dynamic shape {list(value.shape)}; export the model with static shapes"
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


def _build(program: torch.export.ExportedProgram, target: Target) -> bytes:
    """The shared library: import into Relax, optimise, generate code, link."""
    import tvm

    from .importer import import_program
    from .pipeline import llvm_target, pipeline

    link = linker()
    module = import_program(program)
    try:
        executable = tvm.compile(module, target=llvm_target(target), relax_pipeline=pipeline(target))
        with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
            path = os.path.join(folder, "library.so")
            executable.export_library(path, fcompile=link)
            with open(path, "rb") as file:
                return file.read()
    except GraphPruneError:
        raise
    except Exception as error:
        raise CompileError(f"the model could not be compiled for {target.name}: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    """The last line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
