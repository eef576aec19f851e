"""Targets: data that describes a machine. A new machine is a new entry in a table, not new code.

```python
from graphprune.backends.targets import get_target

get_target("x86-avx2").channel_alignment      # 8
```
"""

from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import TargetError


@dataclass(frozen=True)
class Target:
    """One kind of processor: what code to emit and how wide its vectors are.

    `vector_width` counts float32 lanes, `accumulators` how many vector registers one tile may fill,
    `features` the processor flags (as in /proc/cpuinfo) without which the code would crash, and `options`
    what the code generator is told beyond the processor's name.
    """

    name: str
    triple: str
    cpu: str
    vector_width: int
    accumulators: int
    features: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def channel_alignment(self) -> int:
        """Channel counts that are multiples of this number waste no lanes; benchmarks/staircase.py measures it."""
        return self.vector_width

    def missing_features(self) -> list[str]:
        """The flags this target needs and the processor of this machine lacks."""
        here = host_features()
        return [feature for feature in self.features if feature not in here]


_AVX2 = ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# Sums may be reordered, so that the code generator can vectorise reductions; NaN and infinity stay exact.
_SUMS = (("fast-math-contract", True), ("fast-math-reassoc", True))
# LLVM avoids 512-bit vectors on some processors unless it is told otherwise.
_WIDE = (*_SUMS, ("mattr", ("-prefer-256-bit",)))

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("x86-avx512", "x86_64-unknown-linux-gnu", "x86-64-v4", 16, 16, _AVX512, _WIDE),
        Target("x86-avx2", "x86_64-unknown-linux-gnu", "x86-64-v3", 8, 10, _AVX2, _SUMS),
    )
}

# Names that stand for the first of these that this machine can run.
_BEST = {"x86": ("x86-avx512", "x86-avx2")}

_NOT_BUILT = {
    "arm": "ARM code generation is not available in this version",
    "cuda": "CUDA code generation is not available in this version",
}


def known_targets() -> list[str]:
    """Names that `get_target` accepts."""
    return [*_BEST, *TARGETS]


def get_target(target: "str | Target") -> Target:
    """Find a target by name; a `Target` is returned as it is.

    `"x86"` means the best instruction set of this machine. Raises `TargetError` for an unknown name, for a
    kind that this version cannot build, and when this machine supports none of the x86 targets.
    """
    if isinstance(target, Target):
        return target
    if target in TARGETS:
        return TARGETS[target]
    if target in _BEST:
        for name in _BEST[target]:
            if not TARGETS[name].missing_features():
                return TARGETS[name]
        wanted = ", ".join(TARGETS[_BEST[target][-1]].features)
        raise TargetError(f"this machine runs none of the {target} targets; the least of them needs: {wanted}")
    reason = _NOT_BUILT.get(str(target).split("-")[0])
    known = ", ".join(known_targets())
    if reason is not None:
        raise TargetError(f"{reason}. Available targets: {known}")
    close = get_close_matches(str(target), known_targets(), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise TargetError(f"unknown target {target!r}{hint} Available targets: {known}")


# Instructions that a processor may have beyond every target, by their names in /proc/cpuinfo.
EXTRAS: dict[str, tuple[str, ...]] = {
    "avx-vnni": ("avx_vnni",),
    "avx512-vnni": ("avx512_vnni",),
    "avx512-bf16": ("avx512_bf16",),
    "avx512-fp16": ("avx512_fp16",),
    "amx-int8": ("amx_tile", "amx_int8"),
    "amx-bf16": ("amx_tile", "amx_bf16"),
}


def host_extras() -> tuple[str, ...]:
    """Which of `EXTRAS` this machine has; no target uses them yet."""
    here = host_features()
    return tuple(name for name, flags in EXTRAS.items() if here.issuperset(flags))


@cache
def host_features() -> frozenset[str]:
    """Processor flags of this machine, as Linux names them; empty where they cannot be read."""
    return frozenset(_processor_field("flags").split())


@cache
def processor() -> str:
    """The name of this machine's processor; empty where it cannot be read."""
    return _processor_field("model name").strip()


def _processor_field(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in text.splitlines() if line.startswith(name)), "")
