"""ONNX models and their inputs as a command line names them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedModelError
from ..told import inputs_told
from .saving import save as save_model

ENDING = ".onnx"


def load_model(source: str, pretrained: bool = True) -> Path:
    """The path itself: every command reads as much of the file as it needs."""
    return Path(source)


def load_state(model: Any, path: Path) -> None:
    """An .onnx file has its weights inside: raises `UnsupportedModelError`."""
    raise UnsupportedModelError(f"an ONNX model has its weights inside; {path} cannot be loaded into it")


def example_inputs(shapes: Sequence[str]) -> Any:
    """Arrays in order or by name, as `inputs_told` reads them: random floats, or ones and zeros of another type."""
    return inputs_told(shapes, _array)


def check_ending(model: Any, path: Path) -> None:
    """Raise `UnsupportedModelError` unless the path is one of an .onnx file."""
    if path.suffix != ENDING:
        raise UnsupportedModelError(f"a pruned ONNX model is written as one: write it to {path.stem}{ENDING}")


def save(model: Any, path: Path, inputs: Any) -> None:
    """Write a pruned model, whole or not at all."""
    save_model(model, path)


def _array(sizes: list[int], kind: str) -> NDArray[Any]:
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return np.random.default_rng(0).standard_normal(sizes).astype(dtype)
    return (np.arange(1, 1 + math.prod(sizes)) % 2).reshape(sizes).astype(dtype)  # all ones would move no output
