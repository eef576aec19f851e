"""From a model to an artifact.

```python
artifact = compile_model(model, target="x86", example_inputs=torch.zeros(1, 3, 224, 224))
artifact = compile_model("model.onnx", target="x86")
```
"""

import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from typing import Any

from ..errors import CompileError, GraphPruneError, UnsupportedModelError
from .artifact import FORMAT, FORMAT_VERSION, Artifact, describe
from .imported import Imported, brief
from .linker import linker
from .prediction import Facts
from .slow import warn_of_slow
from .targets import Target, get_target

# Which file imports which kind of model. Classes go by name: nothing is imported in vain.
_IMPORTERS = {
    ("torch.nn.modules.module", "Module"): "import_torch",
    ("torch.export.exported_program", "ExportedProgram"): "import_torch",
    ("onnx.onnx_ml_pb2", "ModelProto"): "import_onnx",
    ("onnx_ir", "Model"): "import_onnx",
    ("onnx_graphsurgeon.ir.graph", "Graph"): "import_onnx",
}


def compile_model(
    model: Any,
    target: "str | Target" = "x86",
    example_inputs: Any = None,
    threads: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> Artifact:
    """Compile a model for a target.

    `model` is an `nn.Module`, a `torch.export.ExportedProgram`, an `onnx.ModelProto`, an `onnx_ir.Model`, an
    `onnx_graphsurgeon.Graph` or the path of an .onnx file. `example_inputs` fixes names, shapes and element types of
    the inputs: a tensor, a tuple of positional or a dictionary of keyword inputs; an exported program and an ONNX
    model with static shapes need none. A module is compiled as in `eval()`; no model is changed. `threads` is the
    number of threads that calls of the artifact use. `metadata` is stored in the artifact's manifest under `source`
    and must fit into JSON. With `batch_sizes` the first axis of inputs and outputs is free: a call with any number of
    samples runs in pieces of these sizes.

    Raises `TargetError`, `ExampleInputsError`, `UnsupportedModelError`, `TraceError`, `FileFormatError`, or
    `CompileError`.
    """
    target = get_target(target)
    link = linker()
    imported = _import(model, example_inputs, batch_sizes)
    library, kernels = _build(imported, target, link)
    warn_of_slow(kernels)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "target": {"name": target.name, "triple": target.triple, "cpu": target.cpu, "features": list(target.features)},
        "inputs": [describe(spec) for spec in imported.inputs],
        "outputs": [describe(spec) for spec in imported.outputs],
        "output_tree": imported.tree,
        "kernels": {name: asdict(facts) for name, facts in kernels.items()},
        "source": dict(metadata or {}),
        "tools": {
            "graphprune": version("graphprune"),
            "apache-tvm": version("apache-tvm"),
            **imported.tools,
            "python": platform.python_version(),
        },
    }
    if imported.batch_sizes:
        manifest["batch_sizes"] = list(imported.batch_sizes)
    artifact = Artifact(library, manifest, threads)
    if imported.batch_sizes and not target.missing_features():
        from .buckets import check_independence

        check_independence(artifact, imported.examples)
    return artifact


def _import(model: Any, example_inputs: Any, batch_sizes: Sequence[int] | None) -> Imported:
    """The model as a Relax module, for the shapes of the examples or for several batch sizes."""
    importer = _importer(model)
    if batch_sizes is None:
        imported: Imported = importer.import_model(model, example_inputs)
        return imported
    from .buckets import checked_sizes, import_buckets

    buckets: Imported = import_buckets(importer, model, example_inputs, checked_sizes(batch_sizes))
    return buckets


def _importer(model: Any) -> Any:
    """The module that imports models of this kind."""
    if isinstance(model, (str, os.PathLike)):
        return import_module(".import_onnx", __package__)
    for kind in type(model).__mro__:
        name = _IMPORTERS.get((kind.__module__, kind.__qualname__))
        if name:
            return import_module(f".{name}", __package__)
    raise UnsupportedModelError(
        f"cannot compile a {type(model).__name__}: expected an nn.Module, a torch.export.ExportedProgram, an "
        "onnx.ModelProto, an onnx_ir.Model or the path of an .onnx file"
    )


def _build(imported: Imported, target: Target, link: Any) -> tuple[bytes, dict[str, Facts]]:
    """The shared library, optimised and linked, and the facts of its kernels."""
    import tvm

    from .facts import facts_of
    from .pipeline import llvm_target, pipeline

    try:
        module = pipeline(target)(imported.module)
        executable = tvm.compile(module, target=llvm_target(target), relax_pipeline=None)
        with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
            path = os.path.join(folder, "library.so")
            executable.export_library(path, fcompile=link)
            with open(path, "rb") as file:
                return file.read(), facts_of(module)
    except GraphPruneError:
        raise
    except Exception as error:
        raise CompileError(f"the model could not be compiled for {target.name}: {brief(error)}") from error
