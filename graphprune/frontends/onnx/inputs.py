"""Example inputs of ONNX models: sizes for dynamic axes, and a description to make random ones from."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ExampleInputsError
from ...graph import Shape
from .tracing import dtype_name

Feeds = dict[str, NDArray[Any]]
HOW = "Pass example_inputs: a dict of arrays by input name, a tuple in the order of the inputs, or one array."

_GUESSES = (
    {"batch": 2, "image": 224, "length": 16},
    {"batch": 2, "image": 64, "length": 4},
    {"batch": 1, "image": 224, "length": 16},
    {"batch": 1, "image": 640, "length": 512},
    {"batch": 1, "image": 32, "length": 1},
)
"""Sizes to try for axes that the model leaves open: several samples first, so that the batch is not mistaken for 1."""


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs that a user has to give: those without a stored default."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def candidates(model: ir.Model) -> Iterator[dict[str, Shape]]:
    """Sizes of the inputs to try, the likeliest first."""
    seen = []
    for guess in _GUESSES:
        symbols: dict[str, int] = {}
        sizes = {value.name or "": _sizes(value, guess, symbols) for value in real_inputs(model)}
        if sizes not in seen:
            seen.append(sizes)
            yield sizes


def _sizes(value: ir.Value, guess: Mapping[str, int], symbols: dict[str, int]) -> Shape:
    """Open axes of one name have one size."""
    if value.shape is None:
        raise ExampleInputsError(f"input {value.name} has no shape in the model. {HOW}")
    rank = len(value.shape)
    result = []
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            result.append(size)
        else:
            result.append(symbols.setdefault(_symbol(value, axis), guess[_kind(axis, rank)]))
    return tuple(result)


_STEPS = {"batch": 1, "image": 32, "length": 3}


def _kind(axis: int, rank: int) -> str:
    return "batch" if axis == 0 else "image" if rank == 4 and axis > 1 else "length"


def grown(model: ir.Model, sizes: Mapping[str, Shape]) -> dict[str, Shape] | None:
    """Sizes that are larger along every open axis, by as much for axes of one name; None where no axis is open."""
    steps: dict[str, int] = {}
    result = {}
    for value in real_inputs(model):
        shape = list(sizes[value.name or ""])
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                name = _symbol(value, axis)
                shape[axis] += steps.setdefault(name, _STEPS[_kind(axis, len(shape))])
        result[value.name or ""] = tuple(shape)
    return result if steps else None


def opened(model: ir.Model, name: str) -> list[int]:
    """The open axes of an input."""
    shape = next(value.shape for value in real_inputs(model) if value.name == name) or ()
    return [axis for axis, size in enumerate(shape) if not isinstance(size, int)]


def _symbol(value: ir.Value, axis: int) -> str:
    """The name of an open axis."""
    size = value.shape[axis] if value.shape is not None else None
    name = None if size is None or isinstance(size, int) else size.value
    return f"{value.name}.{axis}" if name is None else str(name)


def normalise(model: ir.Model, example_inputs: Any) -> Feeds:
    """What the user gave as arrays by input name; checked against the model."""
    inputs = real_inputs(model)
    names = [value.name or "" for value in inputs]
    if isinstance(example_inputs, Mapping):
        given = dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        given = dict(zip(names, example_inputs, strict=False))
        if len(example_inputs) != len(names):
            raise ExampleInputsError(
                f"{len(example_inputs)} example inputs for {len(names)} inputs: {', '.join(names)}"
            )
    else:
        given = {names[0]: example_inputs} if len(names) == 1 else {}
    if set(given) != set(names):
        raise ExampleInputsError(f"example inputs {sorted(given)} do not match the inputs {names} of the model. {HOW}")
    feeds = {name: array_of(item) for name, item in given.items()}
    for value in inputs:
        _check(value, feeds[value.name or ""])
    return feeds


def array_of(item: Any) -> NDArray[Any]:
    """An array of what is one, a tensor of torch, or anything that speaks DLPack."""
    if hasattr(item, "detach"):
        return np.asarray(item.detach().cpu().numpy())
    return np.from_dlpack(item) if hasattr(item, "__dlpack__") and not hasattr(item, "__array__") else np.asarray(item)


def _check(value: ir.Value, array: NDArray[Any]) -> None:
    wanted = list(value.shape) if value.shape is not None else [None] * array.ndim
    fixed = [size if isinstance(size, int) else None for size in wanted]
    if len(fixed) != array.ndim or any(w is not None and w != g for w, g in zip(fixed, array.shape, strict=True)):
        text = f"({', '.join('any' if size is None else str(size) for size in fixed)})"
        raise ExampleInputsError(f"input {value.name} has shape {text} in the model, its example has {array.shape}")
    dtype = "" if value.dtype is None else dtype_name(value.dtype)
    if dtype not in ("bfloat16", "") and array.dtype.name != dtype:
        raise ExampleInputsError(f"input {value.name} holds {dtype} in the model, its example {array.dtype.name}")


def describe(model: ir.Model, sizes: Mapping[str, Shape], feeds: Feeds | None) -> dict[str, Any]:
    """What random inputs need to be like, as plain data for the plan."""
    described = {}
    for value in real_inputs(model):
        name = value.name or ""
        dtype = "float32" if value.dtype is None else dtype_name(value.dtype)
        spec: dict[str, Any] = {"dtype": dtype, "shape": list(sizes[name])}
        if "float" not in dtype:
            low, high = _range(value, feeds.get(name) if feeds else None)
            spec |= {"low": low, "high": high}
        described[name] = spec
    return {"onnx": described}


_TABLES = {("Gather", 1): 0, ("EmbedLayerNormalization", 0): 2, ("EmbedLayerNormalization", 1): 4}
"""Inputs of operators that hold positions, and the inputs that hold the table that they look up."""

_BYTES = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127)}
_PASSING = {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}


def _range(value: ir.Value, given: NDArray[Any] | None) -> tuple[int, int]:
    """Whole numbers to draw from: those that were given, else positions of the table that they index, else ones."""
    if given is not None and given.size and given.dtype.kind in "iub":
        return int(given.min()), int(given.max())
    found = list(_highest(value))
    if found:
        return 0, min(found)
    return _BYTES.get(value.dtype, (1, 1)) if value.dtype is not None else (1, 1)


def _highest(value: ir.Value) -> Iterator[int]:
    """The last positions of the tables that a value looks up."""
    for use in value.uses():
        node, place = use.node, _TABLES.get((use.node.op_type, use.idx))
        table = node.inputs[place] if place is not None and place < len(node.inputs) else None
        if table is not None and table.const_value is not None:
            axis = node.attributes.get("axis")
            yield int(table.const_value.shape.numpy()[axis.as_int() if axis else 0]) - 1
        elif node.op_type == "OneHot" and use.idx == 0:
            depth = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
            if depth is not None:
                yield int(depth.numpy().item()) - 1
        elif node.op_type in _PASSING and use.idx == 0:
            yield from _highest(node.outputs[0])


def sizes_of(inputs: Mapping[str, Any]) -> dict[str, Shape]:
    """The sizes that a description gives."""
    return {name: tuple(spec["shape"]) for name, spec in inputs["onnx"].items()}


def own_form(inputs: Any, model: ir.Model) -> Any:
    """The inputs that a plan describes, also where it was made for another form of the model: by name, or in order.

    None where they do not fit the inputs of the model.
    """
    if not inputs:
        return None
    named = inputs.get("onnx") or {name: spec for name, item in inputs["kwargs"].items() for spec in _tensors(item)}
    given = [spec for item in inputs.get("args", ()) for spec in _tensors(item)]
    specs = [*given, *named.values()]
    values = real_inputs(model)
    if len(specs) != len(values):
        return None
    names = [value.name or "" for value in values]
    found = named if named.keys() == set(names) else dict(zip(names, specs, strict=True))
    return {"onnx": found} if all(_holds(value, found[value.name or ""]["shape"]) for value in values) else None


def _tensors(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Descriptions of all tensors in the description of one input of a module."""
    if "tensor" in item:
        yield item["tensor"]
    for part in (*item.get("items", ()), *item.get("entries", {}).values()):
        yield from _tensors(part)


def _holds(value: ir.Value, shape: list[int]) -> bool:
    """Whether an input can have this shape."""
    if value.shape is None:
        return True
    pairs = zip(value.shape, shape, strict=False)
    return len(value.shape) == len(shape) and all(own == size or not isinstance(own, int) for own, size in pairs)
