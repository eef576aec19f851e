"""bfloat16 at the borders of an artifact: the numbers travel as their bits, as uint16.

torch has the type, numpy only with the package `ml_dtypes`; the runtime need not know it.
"""

import importlib
import sys
from typing import Any

import numpy as np

from ..errors import InputError

BFLOAT16, _BITS = "bfloat16", np.uint16


def as_bits(value: Any) -> Any:
    """A bfloat16 tensor as the uint16 tensor of its bits, in the same memory; anything else as it is."""
    if isinstance(value, np.ndarray):
        return value.view(_BITS) if value.dtype.name == BFLOAT16 else value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
        return value.detach().contiguous().view(torch.uint16)
    return value


def from_bits(value: Any, name: str) -> Any:
    """The bits of the output `name` as bfloat16 numbers; other tensors than torch's and numpy's as they are.

    Raises `InputError` for a numpy array where the package `ml_dtypes`, which gives numpy the type, is not installed.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.view(torch.bfloat16)
    if not isinstance(value, np.ndarray):
        return value
    try:
        return value.view(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError as error:
        raise InputError(
            f"output {name!r} is bfloat16, which numpy lacks: `pip install ml_dtypes`, or give torch tensors"
        ) from error
