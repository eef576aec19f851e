"""Which of several ways to compute a kernel is taken.

The numbers of a kernel (`Convolution`, `Winograd`, `Window`, `MatMul`) list their candidates, the most promising first.
A `Choose` picks one of them: `first`, or a record of measurements.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

# Files whose code decides what a choice means and how fast it is.
_TEMPLATES = (
    "convolution", "convolution_shape", "cores", "dots", "halving", "lower_convolution", "lower_integers",
    "lower_sparse", "matmul", "precision", "prefetch", "sparse", "tiling", "window", "winograd",
    "winograd_transforms",
)  # fmt: skip


class Candidate(Protocol):
    """One way to compute one kernel: a frozen dataclass whose field `chosen` is not None."""

    @property
    def chosen(self) -> Any:
        """What tells this candidate from the others."""

    @property
    def choice(self) -> tuple[int, ...]:
        """The same as numbers."""

    @property
    def macs(self) -> int:
        """Multiply-adds that this candidate takes."""


Choose = Callable[[Sequence[Any]], Any]


def first(candidates: Sequence[Any]) -> Any:
    """The candidate that promises to be the fastest."""
    return candidates[0]


def workload(candidates: Sequence[Any]) -> str:
    """What all candidates compute, as a text: their numbers without the choice."""
    return "; ".join(sorted({repr(replace(candidate, chosen=None)) for candidate in candidates}))


def name_of(candidate: Candidate) -> str:
    """The name of a candidate among all for the same workload: `Convolution 14 1 0 0`."""
    return " ".join([type(candidate).__name__, *(str(int(number)) for number in candidate.choice)])


@cache
def templates() -> str:
    """The version of the templates: measurements of other versions say nothing about this one."""
    digest = hashlib.sha256(version("apache-tvm").encode())
    for name in _TEMPLATES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
