"""TVM's importer of exported programs, made to say which node it stumbles over."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import tvm
from torch import fx
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from ..errors import CompileError
from .imported import brief
from .torch_converters import decompositions

_WAY_OUT = "; replace the operator in the model, or add it to graphprune.backends.import_torch.CONVERTERS"
# What a result would have to be like to get a size at compile time.
_DATA_DEPENDENT = "the size of its result depends on the numbers that go in"


def import_program(program: torch.export.ExportedProgram, converters: Mapping[str, Callable]) -> tvm.IRModule:
    """The Relax module of a program; its main function takes the user inputs and returns a tuple.

    `converters` are asked before TVM's own. Raises `CompileError` that names the node which cannot be imported.
    """
    decomposed = decompose(program, converters)
    check_effects(decomposed)
    _check_shapes(decomposed)
    try:
        return _Importer().from_exported_program(
            decomposed,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=False,
            no_bind_return_tuple=False,
            custom_convert_map={name: _named(converter) for name, converter in converters.items()},
        )
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(f"the model cannot be compiled: {brief(error)}") from error


def decompose(program: torch.export.ExportedProgram, converters: Iterable[str]) -> torch.export.ExportedProgram:
    """The program in torch's core operators, but for those that have a converter."""
    try:
        with _views_as_reshapes(program), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch copies classes of its own that it does not like
            return program.run_decompositions(decompositions(converters))
    except Exception as error:
        raise CompileError(f"torch cannot decompose the model: {first_line(error)}") from error


def check_effects(program: torch.export.ExportedProgram) -> None:
    """Refuse models that change what they were given; only the decomposed program tells."""
    specs = program.graph_signature.output_specs
    changed = [str(spec.target) for spec in specs if spec.kind.name.endswith("_MUTATION")]  # of whatever it holds
    if changed:
        raise CompileError(f"the model changes {', '.join(changed)} in its forward pass; make it free of side effects")


def _check_shapes(program: torch.export.ExportedProgram) -> None:
    """Refuse the first node whose result has a size that depends on numbers."""
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor) and _depends_on_data(node):
            raise CompileError(f"{title(node)} cannot be compiled: {_DATA_DEPENDENT}{_WAY_OUT}")


def first_line(error: BaseException) -> str:
    """What went wrong; advice on how to debug torch itself comes after it."""
    return next((line.strip()[:500] for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def _views_as_reshapes(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Let views be reshapes for a while: decomposed attention has other strides than the one that was traced."""
    view, reshape = torch.ops.aten.view.default, torch.ops.aten.reshape.default
    nodes = program.graph.find_nodes(op="call_function", target=view)
    try:
        for node in nodes:
            node.target = reshape
        yield
    finally:
        for node in nodes:
            node.target = view


class _Importer(ExportedProgramImporter):
    """TVM's importer with converters that name their node when they fail."""

    def create_convert_map(self) -> dict[str, Callable]:
        return {name: _named(convert) for name, convert in super().create_convert_map().items()}

    def _check_unsupported_func_type(self, nodes: list[fx.Node]) -> None:
        for node in nodes:
            if node.op == "call_function" and node.target.__name__ not in self.convert_map:
                unknown = _depends_on_data(node)
                raise CompileError(f"{title(node)} cannot be compiled: {unknown or 'it is not known'}{_WAY_OUT}")


def _named(convert: Callable) -> Callable:
    """A converter whose errors name the node."""

    def run(node: fx.Node, *importer: Any) -> Any:
        try:
            return convert(node, *importer)
        except Exception as error:
            if isinstance(error, CompileError) and str(error).startswith("the node "):
                raise
            raise CompileError(f"{title(node)} cannot be compiled: {brief(error)}{_WAY_OUT}") from error

    return run


def _depends_on_data(node: fx.Node) -> str:
    """Why a node cannot have a static shape, or the empty string."""
    values = node.meta.get("val")
    for value in values if isinstance(values, (tuple, list)) else [values]:
        if isinstance(value, torch.SymInt) or any(not isinstance(n, int) for n in getattr(value, "shape", ())):
            return _DATA_DEPENDENT
    return ""


def title(node: fx.Node) -> str:
    """`the node 'nonzero' (aten.nonzero.default) in the module 'head' (Head)`."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = str(getattr(kind, "__name__", kind)).rpartition(".")[2]
    where = f" in the module {path!r} ({kind})" if path else ""
    return f"the node {node.name!r} ({node.target}){where}"
