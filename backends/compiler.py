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

from ..errors import CompileError, GraphPruneError, OptionError, UnsupportedModelError
from ..progress import tell
from .artifact import Artifact
from .assembly import Loop, loops_of
from .choices import Choose, first
from .host import host_architecture
from .imported import Imported, brief
from .interrupts import keep_interrupts
from .linker import linker
from .manifest import FORMAT, FORMAT_VERSION
from .precision import SINGLE, Half, half_of
from .prediction import Facts
from .slow import warn_of_slow
from .specs import describe
from .targets import Target, get_target
from .weights import layout

# Which file imports which kind of model. Classes go by name: nothing is imported in vain.
_IMPORTERS = {
    ("torch.nn.modules.module", "Module"): "import_torch",
    ("torch.export.exported_program", "ExportedProgram"): "import_torch",
    ("onnx.onnx_ml_pb2", "ModelProto"): "import_onnx",
    ("onnx_ir", "Model"): "import_onnx",
    ("onnx_graphsurgeon.ir.graph", "Graph"): "import_onnx",
}

# The target that code for a machine of an architecture itself is made for.
_NATIVE = {"x86_64": "x86", "aarch64": "arm"}


def compile_model(
    model: Any,
    target: "str | Target | Mapping[str, Any]" = "x86",
    example_inputs: Any = None,
    threads: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    batch_sizes: Sequence[int] | None = None,
    tune: float | None = None,
    weights: str = "embedded",
    plan: str | None = None,
    examine: bool = False,
    precision: str = SINGLE,
    cuda_graph: bool = False,
    sparse: "str | bool" = "auto",
) -> Artifact:
    """Compile a model for a target.

    `model` is an `nn.Module`, a `torch.export.ExportedProgram`, an `onnx.ModelProto`, an `onnx_ir.Model`, an
    `onnx_graphsurgeon.Graph` or the path of an .onnx file. `example_inputs` fixes names, shapes and element types of
    the inputs: a tensor, a tuple of positional or a dictionary of keyword inputs; an exported program and an ONNX
    model with static shapes need none. A module is compiled as in `eval()`; no model is changed. `threads` is the
    number of threads that calls of the artifact use. `metadata` is stored in the artifact's manifest under `source`
    and must fit into JSON. With `batch_sizes` the first axis of inputs and outputs is free: a call with any number of
    samples runs in pieces of these sizes. With `tune` candidates for the kernels are measured for so many seconds, and
    the fastest known ones are taken; 0 measures nothing, but uses what is known. `weights="separate"` puts them beside
    the code instead of into it. `plan` is the plan that made the model, as JSON; it is stored in the artifact. With
    `examine` the manifest also says what the machine code of every kernel consists of (`artifact.static_cost()`), which
    takes a tenth longer. `precision` is that of the weights of convolutions, products and embeddings: `fp32` leaves
    them as they are, `fp16` and `bf16` round and store them in half of the bits; arithmetic, inputs and outputs stay as
    they are. A weight too large for `fp16` is refused by name. On GPU targets `precision` is what products are computed
    in (`fp32`, `tf32`, `fp16`, `bf16`; sums are float32), and `cuda_graph` records the kernels of a call once, to
    launch them together. `sparse="auto"` takes kernels that pass over zeros for weights of processors that are mostly
    zero where they promise, or were measured, to be faster; False never does.

    Raises `OptionError`, `TargetError`, `ExampleInputsError`, `UnsupportedModelError`, `TraceError`, `FileFormatError`,
    or `CompileError`.
    """
    target = get_target(target)
    link = linker(target.triple)
    separate = _is_separate(weights, target)
    tune = None if tune is None else _checked_budget(tune)
    _check_options(target, tune, examine, precision, cuda_graph)
    if sparse not in ("auto", False):
        raise OptionError(f"sparse={sparse!r}: choose 'auto' or False")
    keep_interrupts()
    tell("import the model")
    imported = _import(model, example_inputs, batch_sizes)
    # A model whose weights have half precision keeps them so.
    precision = imported.precision if precision == SINGLE else precision
    tuning, about = None, dict[str, Any]()
    apart: Any = ()
    code: dict[str, Loop] = {}
    if target.device:
        tell("make machine code")
        library, kernels, about = _build_cuda(imported, target, link, precision, cuda_graph)
    else:
        half = half_of(precision)
        choose, tuning = (first, None) if tune is None else _tune(imported, target, tune, threads, half, bool(sparse))
        library, kernels, apart, code = _build(imported, target, link, choose, half, separate, examine, bool(sparse))
    warn_of_slow(kernels)
    from .fingerprint import fingerprint

    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "target": _entry(target),
        "precision": precision,
        "inputs": [describe(spec) for spec in imported.inputs],
        "outputs": [describe(spec) for spec in imported.outputs],
        "output_tree": imported.tree,
        "kernels": {name: asdict(facts) for name, facts in kernels.items()},
        "fingerprint": fingerprint(imported),
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
    if tuning is not None:
        manifest["tuning"] = tuning
    if about:
        manifest["cuda"] = about
    if examine:
        manifest["code"] = {name: asdict(loop) for name, loop in code.items() if name in kernels}
    table, data = layout(*apart) if separate else (None, None)
    if separate:
        manifest["weights"] = table
    artifact = Artifact(library, manifest, threads, data, None if plan is None else plan.encode())
    if imported.batch_sizes:
        from .buckets import check_independence

        check_independence(artifact if artifact.runs_here else _for_this_machine(imported, artifact), imported.examples)
    return artifact


def _for_this_machine(imported: Imported, artifact: Artifact) -> Artifact:
    """The same model for this machine: whether samples depend on each other is a matter of the model alone."""
    target = get_target(_NATIVE.get(host_architecture(), "x86"))
    library, *_ = _build(imported, target, linker(target.triple), first)
    manifest = {key: value for key, value in artifact.manifest.items() if key not in ("members", "weights")}
    return Artifact(library, {**manifest, "target": _entry(target)})


def _entry(target: Target) -> dict[str, Any]:
    """A target's entry in the manifest."""
    entry = {
        "name": target.name,
        "architecture": target.architecture,
        "triple": target.triple,
        "cpu": target.cpu,
        "features": list(target.features),
    }
    return {**entry, "device": target.device} if target.device else entry


def _check_options(target: Target, tune: float | None, examine: bool, precision: str, cuda_graph: bool) -> None:
    """Raise `OptionError` for options that a target does not have."""
    if not target.device:
        half_of(precision)
        if cuda_graph:
            raise OptionError(f"cuda_graph is for CUDA targets; {target.name} is none")
        return
    from .cuda_pipeline import checked_precision

    checked_precision(precision, target)
    if tune is not None:
        raise OptionError(f"tune measures kernels on this machine's processor; {target.name} has no such kernels")
    if examine:
        raise OptionError("examine counts instructions of processors; artifact.manifest['cuda'] tells of GPU kernels")


def _build_cuda(
    imported: Imported, target: Target, link: Any, precision: str, cuda_graph: bool
) -> tuple[bytes, dict[str, Facts], dict[str, Any]]:
    """The shared library for a GPU, the facts of its kernels, and what the compiler says of them."""
    from .cuda_build import build

    try:
        return build(imported.module, target, link, precision, cuda_graph)
    except GraphPruneError:
        raise
    except Exception as error:
        raise CompileError(f"the model could not be compiled for {target.name}: {brief(error)}") from error


def _is_separate(weights: Any, target: Target) -> bool:
    """Whether the weights go beside the code; raises `OptionError` for an unknown word, or where they cannot."""
    if weights not in ("embedded", "separate"):
        raise OptionError(f"weights must be 'embedded' or 'separate', not {weights!r}")
    if weights == "separate" and target.device:
        raise OptionError(f"weights of {target.name} lie on its device and cannot be mapped: use weights='embedded'")
    return bool(weights == "separate")


def _checked_budget(seconds: Any) -> float:
    """A time budget; raises `OptionError` for anything but a number of seconds that is not negative."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise OptionError(f"tune must be a number of seconds, 0 or more, not {seconds!r}")
    return float(seconds)


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


def _tune(
    imported: Imported, target: Target, seconds: float, threads: int | None, half: Half | None, sparse: bool
) -> tuple[Choose, dict[str, int]]:
    """A choice by what was measured, now and before, and how far the measurements got."""
    from .tuning import tune

    try:
        record, coverage = tune(imported.module, target, seconds, threads, half=half, sparse=sparse)
    except GraphPruneError:
        raise
    except Exception as error:
        raise CompileError(f"the model could not be tuned for {target.name}: {brief(error)}") from error
    return record.choose, coverage.to_json()


def _build(
    imported: Imported,
    target: Target,
    link: Any,
    choose: Choose,
    half: Half | None = None,
    separate: bool = False,
    examine: bool = False,
    sparse: bool = True,
) -> tuple[bytes, dict[str, Facts], Any, dict[str, Loop]]:
    """The shared library, optimised and linked, and the facts of its kernels.

    Also the weights, if they are separate, and what the code consists of, if it is to be examined.
    """
    import tvm

    from .facts import facts_of
    from .lifting import Lifting
    from .pipeline import llvm_target, pipeline

    lifting = Lifting()
    try:
        apart = [lifting.as_pass()] if separate else []
        tell("choose kernels")
        module = pipeline(target, choose, apart, half, imported.named, sparse)(imported.module)
        tell("make machine code")
        executable = tvm.compile(module, target=llvm_target(target), relax_pipeline=None)
        with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
            path = os.path.join(folder, "library.so")
            tell("link")
            executable.export_library(path, fcompile=link)
            with open(path, "rb") as file:
                library = file.read()
        code = _loops(executable.mod, target) if examine else {}
        return library, facts_of(module), (lifting.tensors, lifting.functions), code
    except GraphPruneError:
        raise
    except Exception as error:
        raise CompileError(f"the model could not be compiled for {target.name}: {brief(error)}") from error


def _loops(module: Any, target: Target) -> dict[str, Loop]:
    """What the code of every kernel consists of, from the assembly of all modules of machine code."""
    found: dict[str, Loop] = {}
    for part in (module, *module.imports):
        if part.kind == "llvm":
            found |= loops_of(part.inspect_source("asm"), target.architecture)
    return found
