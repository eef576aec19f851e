"""Example inputs: normalise what the user gave, infer what was not given, describe them for a plan."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves, tree_map

from ...errors import ExampleInputsError

HOW = "Pass example_inputs=: a tensor, a tuple of positional inputs, or a dict of keyword inputs."


class Inputs(NamedTuple):
    """Positional and keyword inputs of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def as_given(self) -> Any:
        """As a tuple of positional inputs, or a dict where there are keyword inputs only."""
        return self.kwargs if self.kwargs and not self.args else self.args


_SIZES = (224, 299, 64, 32, 28, 256, 512)


def normalise(example_inputs: Any) -> Inputs:
    """(positional, keyword) from a tensor, a tuple or list of positional inputs, or a dict of keyword inputs."""
    if isinstance(example_inputs, Inputs):
        return example_inputs
    if isinstance(example_inputs, torch.Tensor):
        return Inputs((example_inputs,), {})
    if isinstance(example_inputs, (tuple, list)):
        return Inputs(tuple(example_inputs), {})
    if hasattr(example_inputs, "items"):
        return Inputs((), dict(example_inputs))
    raise ExampleInputsError(f"example_inputs is {type(example_inputs).__name__}. {HOW}")


def candidates(module: torch.nn.Module) -> Iterator[Inputs]:
    """Inputs that the model itself suggests, best first; sizes of images are tried in turn."""
    dummy = getattr(module, "dummy_inputs", None)
    if isinstance(dummy, dict):
        yield Inputs((), dict(dummy))
        return
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
    if size:
        yield Inputs((torch.randn(1, *size, generator=_seeded()),), {})
        return
    if isinstance(module, torch.fx.GraphModule):
        yield from _from_placeholders(module)
    yield from _from_first_layer(module)


def _from_placeholders(module: torch.fx.GraphModule) -> Iterator[Inputs]:
    """What the tracer, or a pass that infers shapes, has written down of every input."""
    nodes = module.graph.find_nodes(op="placeholder")
    found: list[Any] = [
        next((node.meta[key] for key in _VALUES if node.meta.get(key) is not None), None) for node in nodes
    ]
    known = [(_name(value.dtype), _sizes(value.shape)) for value in filter(_has_shape, found)]
    if known and len(known) == len(nodes):
        yield Inputs(tuple(_random({"dtype": dtype, "shape": shape}, _seeded()) for dtype, shape in known), {})


def _has_shape(value: Any) -> bool:
    return hasattr(value, "shape")


_VALUES = ("val", "example_value", "tensor_meta")
"""Under which names the metadata of a node holds its value, or the shape of it."""


def _sizes(shape: Any) -> list[int]:
    return [size if isinstance(size, int) else 2 for size in shape]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _from_first_layer(module: torch.nn.Module) -> Iterator[Inputs]:
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.conv._ConvNd):
            dims = len(layer.kernel_size)
            for size in _SIZES if dims == 2 else (1024, 64) if dims == 1 else (16, 64):
                yield Inputs((torch.randn(1, layer.in_channels, *[size] * dims, generator=_seeded()),), {})
            return
        if isinstance(layer, torch.nn.Linear):
            yield Inputs((torch.randn(1, layer.in_features, generator=_seeded()),), {})
            yield Inputs((torch.randn(1, 16, layer.in_features, generator=_seeded()),), {})
            return
        if isinstance(layer, torch.nn.Embedding):
            yield Inputs((torch.randint(0, layer.num_embeddings, (1, 16), generator=_seeded()),), {})
            return


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def describe(inputs: Inputs) -> Any:
    """A JSON-able description of example inputs: shapes, dtypes, ranges of integers."""

    def one(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            described: dict[str, Any] = {"shape": list(item.shape), "dtype": _name(item.dtype)}
            if not item.dtype.is_floating_point and item.numel() and not item.is_meta:
                described |= {"low": int(item.min()), "high": int(item.max())}
            return {"tensor": described}
        if item is None or isinstance(item, (bool, int, float, str)):
            return {"value": item}
        if isinstance(item, (list, tuple)):
            return {"items": [one(part) for part in item], "tuple": isinstance(item, tuple)}
        if isinstance(item, dict) and all(isinstance(key, str) for key in item):
            return {"entries": {key: one(part) for key, part in item.items()}}
        return {"opaque": type(item).__name__}

    return {"args": [one(item) for item in inputs.args], "kwargs": {k: one(item) for k, item in inputs.kwargs.items()}}


def own_form(description: Any, module: torch.nn.Module) -> Any:
    """The inputs that a plan describes, also where it was made for an ONNX model: by name, or in their order."""
    if not description or "onnx" not in description:
        return description
    tensors = {name: {"tensor": spec} for name, spec in description["onnx"].items()}
    if tensors.keys() <= inspect.signature(module.forward).parameters.keys():
        return {"args": [], "kwargs": tensors}
    return {"args": list(tensors.values()), "kwargs": {}}


def rebuild(description: Any, seed: int = 0) -> Inputs:
    """Random inputs of a described form. Raises `ExampleInputsError` for what JSON could not hold."""
    generator = _seeded(seed)

    def one(item: dict[str, Any]) -> Any:
        if "tensor" in item:
            return _random(item["tensor"], generator)
        if "items" in item:
            parts = [one(part) for part in item["items"]]
            return tuple(parts) if item["tuple"] else parts
        if "entries" in item:
            return {key: one(part) for key, part in item["entries"].items()}
        if "opaque" in item:
            raise ExampleInputsError(f"the plan cannot hold an input of type {item['opaque']}. {HOW}")
        return item["value"]

    if not description:
        raise ExampleInputsError(f"this plan does not describe its inputs. {HOW}")
    if "args" not in description:
        raise ExampleInputsError(f"this plan describes the inputs of another kind of model: take plan_of(slim). {HOW}")
    keywords = {key: one(item) for key, item in description["kwargs"].items()}
    return Inputs(tuple(one(item) for item in description["args"]), keywords)


def perturb(inputs: Inputs, seed: int) -> Inputs:
    """Other inputs of the same form: random floats, integers within the range of the given ones."""
    return rebuild(describe(inputs), seed) if not _has_opaque(inputs) else _perturb_tensors(inputs, seed)


def _perturb_tensors(inputs: Inputs, seed: int) -> Inputs:
    generator = _seeded(seed)

    def one(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        return _random(describe(Inputs((item,), {}))["args"][0]["tensor"], generator)

    changed: Inputs = tree_map(one, inputs)
    return changed


def _has_opaque(inputs: Inputs) -> bool:
    plain = (torch.Tensor, bool, int, float, str, type(None))
    return any(not isinstance(leaf, plain) for leaf in tree_leaves(inputs))


def _random(spec: dict[str, Any], generator: torch.Generator) -> torch.Tensor:
    dtype, shape = getattr(torch, spec["dtype"]), spec["shape"]
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
    low, high = spec.get("low", 0), spec.get("high", 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)
