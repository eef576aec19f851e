"""Weights in half of the bits: what the formats are, and how numbers get into them and back.

```python
half = half_of("bf16")
half.narrow(np.float32(1.00001))    # 1.0, as the 16 bits 0x3f80
half.widen(half.narrow(weight))     # float32 again, as far as it survived
```

A bfloat16 number is the upper half of a float32 number. Neither numpy nor most processors know it as a type, so its
bits travel as uint16 and are shifted into place where they are read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CompileError, OptionError

SINGLE = "fp32"


@dataclass(frozen=True)
class Half:
    """A format of 16 bits: its name, its element type in models, the type of its bits, its largest number."""

    name: str
    dtype: str
    storage: str
    largest: float

    def narrow(self, array: np.ndarray) -> np.ndarray:
        """float32 numbers as the nearest ones of this format (ties to even), in the type of `storage`."""
        if self.storage == "float16":
            with np.errstate(over="ignore"):
                return array.astype(np.float16)
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        # Rounding must not carry the bits of a NaN into infinity.
        kept = np.where(np.isnan(array), (bits >> np.uint32(16)) | np.uint32(0x40), rounded)
        return kept.astype(np.uint16)

    def widen(self, array: np.ndarray) -> np.ndarray:
        """Numbers of this format as float32."""
        if self.storage == "float16":
            return array.astype(np.float32)
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)

    def holds(self, array: np.ndarray) -> bool:
        """Whether every number of a float32 array can be written in this format without loss."""
        return np.array_equal(self.widen(self.narrow(array)), array, equal_nan=True)


HALVES: dict[str, Half] = {
    half.name: half
    for half in (
        Half("fp16", "float16", "float16", 65504.0),
        Half("bf16", "bfloat16", "uint16", float.fromhex("0x1.fep127")),
    )
}
PRECISIONS = (SINGLE, *HALVES)


def half_of(precision: str) -> Half | None:
    """The format of the weights for a `precision`; None for fp32. Raises `OptionError` for an unknown name."""
    if precision not in PRECISIONS:
        raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    return HALVES.get(precision)


def half_named(dtype: str) -> Half | None:
    """The format with this name of an element type, such as `bfloat16`; None for any other type."""
    return next((half for half in HALVES.values() if half.dtype == dtype), None)


def storage_of(dtype: str) -> str:
    """The element type in which tensors of the type `dtype` travel."""
    half = half_named(dtype)
    return half.storage if half else dtype


def rounded(weight: np.ndarray, half: Half, named: Iterable[tuple[str, Any]]) -> np.ndarray:
    """A float32 weight with every number rounded to the format.

    Raises `CompileError` for a finite number that is beyond its range, with the name that the weight has among `named`.
    """
    result = half.widen(half.narrow(weight))
    lost = np.isinf(result) & np.isfinite(weight)
    if lost.any():
        way_out = "'bf16' or " if half.name != "bf16" else ""
        raise CompileError(
            f"the weight {_name(weight, named)} contains {np.abs(weight[lost]).max():g}, but the largest number of "
            f"{half.dtype} is {half.largest:g}; compile with precision={way_out}'fp32'"
        )
    return result


def _name(weight: np.ndarray, named: Iterable[tuple[str, Any]]) -> str:
    """What the model calls a weight: the tensor that has the same numbers, in whatever order."""
    wanted = np.sort(weight, axis=None)
    for name, value in named:
        array = np.asarray(value)
        if array.size == wanted.size and np.array_equal(np.sort(array, axis=None).astype(np.float32), wanted):
            return repr(name)
    return f"of shape {list(weight.shape)}"
