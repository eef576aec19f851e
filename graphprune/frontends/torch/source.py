"""Models, weights and inputs as a command line names them."""

import importlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

import graphprune

from ...errors import FileFormatError, UnsupportedModelError
from ...files import atomic_path
from ..told import inputs_told
from .hubs import is_hub
from .hubs import load as load_by_name
from .modules import example_inputs_of

HOW = "name a model as package.module:callable, timm:name, hf:name, hf:./folder, or as a saved program (model.pt2)"


def load_model(source: str, pretrained: bool = True) -> Any:
    """Load `package.module:callable` (a module is set to `eval()`) or a program saved by `torch.export.save`.

    The callable takes no arguments and returns an `nn.Module`; a module attribute that is a model also does.
    The current folder is searched first, as for `python -m`. Models of `hubs` come with trained weights unless
    `pretrained` is False; of others the callable decides.
    """
    if is_hub(source):
        return load_by_name(source, pretrained)
    if source.endswith(".pt2"):
        return _load_program(Path(source))
    place, colon, attribute = source.partition(":")
    if not colon or not place or not attribute:
        raise UnsupportedModelError(f"{source!r} is not a model: {HOW}")
    found = _find(place, attribute)
    model = found if isinstance(found, nn.Module | ExportedProgram) else _call(found, source)
    if isinstance(model, nn.Module):
        return model.eval()
    if isinstance(model, ExportedProgram):
        return model
    raise UnsupportedModelError(f"{source} gives a {type(model).__name__}, not a model: {HOW}")


def load_state(model: nn.Module, path: Path) -> None:
    """Load a state dict that `torch.save` wrote, in place and without running code from the file."""
    if not path.is_file():
        raise FileFormatError(f"there is no weights file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state.get("state_dict", state))
    except Exception as error:
        raise FileFormatError(f"{path} does not hold the weights of this model: {_first_line(error)}") from error


def example_inputs(shapes: Sequence[str]) -> Any:
    """Tensors in order or by name, as `inputs_told` reads them: random floats, or ones and zeros of another type."""
    return inputs_told(shapes, _tensor)


def check_ending(model: Any, path: Path) -> None:
    """Raise `UnsupportedModelError` where `save` could not write this model to this path."""
    if path.suffix not in (".safetensors", ".pt2"):
        raise UnsupportedModelError(f"{path} must end in .safetensors (weights and plan) or .pt2 (a program)")
    if path.suffix == ".safetensors" and not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"a saved program has no class to load weights into: write it to {path.stem}.pt2")


def save(model: Any, path: Path, inputs: Any) -> None:
    """Write a pruned model: weights and plan (`.safetensors`), or an exported program (`.pt2`)."""
    if path.suffix == ".safetensors":
        graphprune.save(model, path)
        return
    if isinstance(model, nn.Module):
        model = torch.export.export(model, example_inputs_of(model, inputs), strict=False)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.export.save(model, file)


def _load_program(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise FileFormatError(f"there is no saved program {path}")
    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise FileFormatError(f"{path} is not a program that torch.export.save wrote: {_first_line(error)}") from error


def _find(place: str, attribute: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(place)
    except Exception as error:  # importing runs the user's code: anything can happen
        raise UnsupportedModelError(
            f"importing {place} failed: {type(error).__name__}: {_first_line(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UnsupportedModelError(f"{place} has no {attribute!r}: {HOW}")
        found = getattr(found, part)
    return found


def _call(found: Any, source: str) -> Any:
    if not callable(found):
        raise UnsupportedModelError(f"{source} is a {type(found).__name__}, not a model or callable: {HOW}")
    try:
        return found()
    except Exception as error:
        message = f"{source}() failed: {type(error).__name__}: {_first_line(error)}; it must work without arguments"
        raise UnsupportedModelError(message) from error


def _tensor(sizes: list[int], kind: str) -> torch.Tensor:
    dtype = getattr(torch, kind, None)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(kind)
    if dtype.is_floating_point:
        return torch.randn(sizes, dtype=dtype)
    # Both are valid as indices, masks and counts; were all alike, no other input of their range would differ from them.
    return (torch.arange(1, 1 + math.prod(sizes)) % 2).reshape(sizes).to(dtype)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
