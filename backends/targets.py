"""Targets: data that describes a machine. A new machine is a new entry in a table, not new code.

```python
from graphprune.backends.targets import get_target

get_target("x86-avx2").channel_alignment      # 8
get_target({"base": "arm", "name": "my-board", "cpu": "cortex-a55"})
```
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from ..errors import TargetError
from .host import architecture, host_architecture, host_features


@dataclass(frozen=True)
class Target:
    """One kind of machine: what code to emit and how wide its vectors are.

    `family` is `x86`, `arm` or `cuda`: which passes make the code. `triple` and `cpu` name the processor as LLVM does.
    `vector_width` counts float32 lanes, `accumulators` how many vector registers one tile may fill, `features` the
    processor flags (as in /proc/cpuinfo) without which the code would crash, and `options` what the code generator is
    told beyond the processor's name. `device` is the architecture of a GPU, such as `sm_80`. `alignment` is what
    channel counts should be multiples of, where that is not the width of a vector.
    """

    name: str
    family: str
    triple: str
    cpu: str
    vector_width: int
    accumulators: int
    features: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    device: str = ""
    alignment: int = 0

    @property
    def architecture(self) -> str:
        """What `uname -m` says on such a machine: `x86_64`, `aarch64`."""
        return architecture(self.triple.partition("-")[0])

    @property
    def channel_alignment(self) -> int:
        """Channel counts that are multiples of this number waste no lanes; benchmarks/staircase.py measures it."""
        return self.alignment or self.vector_width

    def missing_features(self) -> list[str]:
        """What this target needs and the processor of this machine lacks."""
        return missing_here(self.architecture, self.features)


def missing_here(needed: str, features: tuple[str, ...]) -> list[str]:
    """Which of an architecture and processor flags this machine lacks."""
    if needed != host_architecture():
        return [f"{needed} instructions"]
    here = host_features()
    return [feature for feature in features if feature not in here]


_AVX2 = ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# Sums may be reordered, so that the code generator can vectorise reductions; NaN and infinity stay exact.
_SUMS = (("fast-math-contract", True), ("fast-math-reassoc", True))
# LLVM avoids 512-bit vectors on some processors unless it is told otherwise.
_WIDE = (*_SUMS, ("mattr", ("-prefer-256-bit",)))
_X86 = "x86_64-unknown-linux-gnu"


def _cuda(number: int) -> Target:
    """A GPU of a compute capability, beside any x86 processor with AVX2, which only calls its kernels.

    Tensor cores multiply 8 or 16 half numbers at a time, and 8 of them are the 16 bytes that a thread loads at once:
    channel counts that are multiples of 8 waste neither. `vector_width` is those 16 bytes in float32, `accumulators`
    the sums that a thread keeps in registers.
    """
    return Target(f"cuda-sm{number}", "cuda", _X86, "x86-64-v3", 4, 32, _AVX2, _SUMS, f"sm_{number}", 8)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("x86-avx512", "x86", _X86, "x86-64-v4", 16, 16, _AVX512, _WIDE),
        Target("x86-avx2", "x86", _X86, "x86-64-v3", 8, 10, _AVX2, _SUMS),
        *(_cuda(number) for number in (75, 80, 86, 89, 90, 100, 120)),
    )
}

# Names that stand for the first of these that this machine can run.
_BEST = {"x86": ("x86-avx512", "x86-avx2")}


def known_targets() -> list[str]:
    """Names that `get_target` accepts."""
    return [*_BEST, *TARGETS]


def get_target(target: "str | Target | Mapping[str, Any]") -> Target:
    """Find a target by name, or make one of a dictionary; a `Target` is returned as it is.

    `"x86"` means the best instruction set of this machine. A dictionary names a `base` and what differs from it: any
    field of `Target`, `name` at least. Raises `TargetError` for an unknown name or field, and when this machine
    supports none of the x86 targets.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, Mapping):
        return _custom(dict(target))
    if target in TARGETS:
        return TARGETS[target]
    if target in _BEST:
        for name in _BEST[target]:
            if not TARGETS[name].missing_features():
                return TARGETS[name]
        wanted = ", ".join(TARGETS[_BEST[target][-1]].features)
        raise TargetError(f"this machine runs none of the {target} targets; the least of them needs: {wanted}")
    raise TargetError(
        f"unknown target {target!r}{_hint(target, known_targets())} Targets: {', '.join(known_targets())}"
    )


def _custom(given: dict[str, Any]) -> Target:
    """A target that differs from a known one."""
    known = [field.name for field in fields(Target)]
    for name in given:
        if name not in known and name != "base":
            raise TargetError(f"a target has no field {name!r}{_hint(name, known)} Fields: base, {', '.join(known)}")
    base = get_target(given.pop("base", "x86-avx2"))
    if not isinstance(given.get("name"), str) or given["name"] in known_targets():
        raise TargetError("a target of your own needs a name of its own: {'base': ..., 'name': 'my-board', ...}")
    for name, value in given.items():
        wanted = type(getattr(base, name))
        if wanted is tuple and isinstance(value, (list, Mapping)):
            given[name] = value = tuple(value.items() if isinstance(value, Mapping) else value)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise TargetError(f"field {name!r} of target {given['name']!r} must be a {wanted.__name__}, not {value!r}")
    made = replace(base, **given)
    if made.device and not re.fullmatch(r"sm_[0-9]+", made.device):
        raise TargetError(f"target {made.name!r}: device must be an architecture such as 'sm_80', not {made.device!r}")
    if made.vector_width < 1 or made.accumulators < 1 or made.alignment < 0:
        raise TargetError(
            f"target {made.name!r}: vector_width and accumulators must be at least 1, alignment at least 0"
        )
    return made


def _hint(given: Any, known: list[str]) -> str:
    close = get_close_matches(str(given), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
