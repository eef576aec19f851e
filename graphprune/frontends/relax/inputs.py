"""Example inputs of Relax functions: numbers for symbolic sizes, and a description to make random inputs from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from ...errors import ExampleInputsError, UnsupportedModelError
from ...graph import Graph, Shape, Value
from .program import Program

Feeds = dict[str, NDArray[Any]]
HOW = "Pass example_inputs: a dict of arrays by parameter name, a tuple in their order, or one array."

KEY = "relax"
"""The key under which a plan describes inputs of this form."""

_GUESS = {"batch": 2, "image": 64, "length": 16}
"""Sizes for symbolic axes of which nothing is known."""


def symbols_of(program: Program, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[Any, int]:
    """Numbers for the symbolic sizes of the inputs: those of given shapes, or likely ones.

    Raises `ExampleInputsError` where shapes do not fit, `UnsupportedModelError` for inputs that are no tensors.
    """
    found: dict[Any, int] = {}
    for name, var in program.inputs.items():
        written = written_sizes(name, var)
        given = None if shapes is None else [int(size) for size in shapes[name]]
        if given is not None and len(given) != len(written):
            raise ExampleInputsError(f"input {name} has {len(written)} axes, its example {len(given)}. {HOW}")
        for axis, size in enumerate(written):
            if isinstance(size, tirx.Var):
                likely = _GUESS["batch" if axis == 0 else "image" if len(written) == 4 and axis > 1 else "length"]
                now = found.setdefault(size, likely if given is None else given[axis])
            elif isinstance(size, tirx.IntImm):
                now = int(size.value)
            else:
                raise UnsupportedModelError(f"axis {axis} of input {name} has the size {size}: name it by a variable")
            if given is not None and given[axis] != now:
                raise ExampleInputsError(
                    f"axis {axis} of input {name} has size {now}, its example {given[axis]}. {HOW}"
                )
    return found


def written_sizes(name: str, var: Any) -> list[Any]:
    """The sizes of an input as they are written."""
    kind = var.ty
    if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
        raise UnsupportedModelError(f"parameter {name} is {kind}: only tensors with a shape can go into a model here")
    return list(kind.shape.values)


def normalise(program: Program, example_inputs: Any) -> Feeds:
    """What the user gave as arrays by the names of parameters. Raises `ExampleInputsError` where it does not fit."""
    names = list(program.inputs)
    if isinstance(example_inputs, Mapping):
        given = dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        if len(example_inputs) != len(names):
            raise ExampleInputsError(
                f"{len(example_inputs)} example inputs for {len(names)}: {', '.join(names)}. {HOW}"
            )
        given = dict(zip(names, example_inputs, strict=True))
    else:
        given = {names[0]: example_inputs} if len(names) == 1 else {}
    if set(given) != set(names):
        raise ExampleInputsError(f"example inputs {sorted(given)} do not match the parameters {names}. {HOW}")
    feeds = {name: array_of(given[name]) for name in names}
    symbols_of(program, {name: array.shape for name, array in feeds.items()})
    for name, array in feeds.items():
        dtype = str(program.inputs[name].ty.dtype)
        if array.dtype.name != dtype:
            raise ExampleInputsError(f"input {name} holds {dtype} in the model, its example {array.dtype.name}")
    return feeds


def array_of(item: Any) -> NDArray[Any]:
    """An array of what is one, a tensor of torch or of TVM, or anything that speaks DLPack."""
    if hasattr(item, "detach"):
        item = item.detach().cpu()
    if isinstance(item, tvm.runtime.Tensor):
        return np.asarray(item.numpy())
    return np.from_dlpack(item) if hasattr(item, "__dlpack__") and not hasattr(item, "__array__") else np.asarray(item)


def describe(graph: Graph, feeds: Feeds | None) -> dict[str, Any]:
    """What random inputs need to be like, as plain data for a plan."""
    described = {}
    for value in graph.inputs:
        spec: dict[str, Any] = {"dtype": value.dtype, "shape": list(value.shape)}
        if "float" not in value.dtype:
            spec["low"], spec["high"] = _range(graph, value, feeds.get(value.name) if feeds else None)
        described[value.name] = spec
    return {KEY: described}


def _range(graph: Graph, value: Value, given: NDArray[Any] | None) -> tuple[int, int]:
    """Whole numbers to draw from: those that were given, else positions of the table that they look up, else ones."""
    if given is not None and given.size:
        return int(given.min()), int(given.max())
    found = list(_rows(graph, value))
    return (0, min(found) - 1) if found else (0, 1) if value.dtype == "bool" else (1, 1)


def _rows(graph: Graph, value: Value) -> Iterator[int]:
    """How many rows the tables have that a value looks up."""
    for node in graph.nodes:
        if node.op == "embedding" and node.inputs[0] is value and node.inputs[1] is not None:
            yield node.inputs[1].shape[0]
        elif node.op == "index" and len(node.inputs) > 1 and node.inputs[1] is value and node.inputs[0] is not None:
            yield node.inputs[0].shape[node.attrs["axis"]]
        elif node.op in ("identity", "reshape", "permute", "expand") and node.inputs[0] is value:
            yield from _rows(graph, node.outputs[0])


def random_inputs(inputs: Mapping[str, Any], seed: int) -> Feeds:
    """Inputs as described: real numbers are normal, whole ones within their range."""
    rng = np.random.default_rng(seed)
    return {name: _random(spec, rng) for name, spec in inputs[KEY].items()}


def _random(spec: Mapping[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    shape = tuple(spec["shape"])
    if "low" in spec:
        return np.asarray(rng.integers(spec["low"], spec["high"] + 1, shape)).astype(spec["dtype"])
    numbers = np.asarray(rng.standard_normal(shape))
    return numbers.astype("float32" if "bfloat16" in spec["dtype"] else spec["dtype"])


def shapes_in(inputs: Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes that a description gives."""
    return {name: tuple(spec["shape"]) for name, spec in inputs[KEY].items()}
