"""ONNX models and their inputs as a command line names them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ExampleInputsError, UnsupportedModelError
from .saving import save as save_model

ENDING = ".onnx"


def load_model(source: str) -> Path:
    """The path itself: every command reads as much of the file as it needs."""
    return Path(source)


def load_state(model: Any, path: Path) -> None:
    """An .onnx file has its weights inside: raises `UnsupportedModelError`."""
    raise UnsupportedModelError(f"an ONNX model has its weights inside; {path} cannot be loaded into it")


def example_inputs(shapes: Sequence[str]) -> Any:
    """Arrays for `["1,3,224,224", "1,128:int64"]` in order, or for `["name=1,3,224,224"]` by name; None for no shapes.

    Random floats, or ones of another type.
    """
    if not shapes:
        return None
    named = [text.rpartition("=") for text in shapes]
    if all(name for name, _, _ in named):
        return {name: _array(shape) for name, _, shape in named}
    return tuple(_array(shape) for _, _, shape in named)


def check_ending(model: Any, path: Path) -> None:
    """Raise `UnsupportedModelError` unless the path is one of an .onnx file."""
    if path.suffix != ENDING:
        raise UnsupportedModelError(f"a pruned ONNX model is written as one: write it to {path.stem}{ENDING}")


def save(model: Any, path: Path, inputs: Any) -> None:
    """Write a pruned model, whole or not at all."""
    save_model(model, path)


def _array(text: str) -> NDArray[Any]:
    shape, _, kind = text.partition(":")
    try:
        sizes, dtype = [int(part) for part in shape.split(",")], np.dtype(kind or "float32")
    except (ValueError, TypeError):
        sizes, dtype = [0], np.dtype("float32")
    if min(sizes) < 1:
        raise ExampleInputsError(f"--input {text!r} is not a shape: write 1,3,224,224 or, for other types, 1,128:int64")
    if dtype.kind == "f":
        return np.random.default_rng(0).standard_normal(sizes).astype(dtype)
    return np.ones(sizes, dtype=dtype)
