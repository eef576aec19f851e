"""Targets: data that describes a machine. A new machine is a new entry in a table, not new code.

```python
from graphprune.backends.targets import get_target

get_target("x86-avx2").channel_alignment      # 8
get_target("arm-cortex-a72").features         # ("asimd",)
get_target({"base": "arm", "name": "my-board", "cpu": "cortex-a55"})
```
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from ..errors import TargetError
from .cores import CORTEX_A72, CORTEX_A76, NEOVERSE_N1, NEOVERSE_V1, SERVER, ZEN5, Core
from .driver import missing_gpu
from .host import architecture, host_architecture, host_features
from .systems import system_of


@dataclass(frozen=True)
class Target:
    """One kind of machine: what code to emit and how wide its vectors are.

    `family` is `x86`, `arm` or `cuda`: which passes make the code. `triple` and `cpu` name the processor as LLVM does.
    `vector_width` counts float32 lanes, `accumulators` how many vector registers one tile may fill, `tall` how many one
    of a convolution that is several output blocks deep, where that is more, `features` the processor flags (as in
    /proc/cpuinfo) without which the code would crash, and `options` what the code generator is told beyond the
    processor's name. `device` is the architecture of a GPU, such as `sm_80`. `alignment` is what
    channel counts should be multiples of, where that is not the width of a vector. `core` is what choices of tiles
    assume of the processor, and `purpose` says to people which machines are meant. `dots` names the instruction for dot
    products of bytes (see `dots.py`), if there is one: then quantised models compute in integers. `marks` are processor
    flags by which `"x86"` knows such a machine; the code runs without them.
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
    core: Core = SERVER
    purpose: str = ""
    dots: str = ""
    tall: int = 0
    marks: tuple[str, ...] = ()

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
        return missing_here(self.architecture, self.features, self.triple, self.device)

    @property
    def suits_here(self) -> bool:
        """Whether this machine can run such code, and is of the kind that it is meant for."""
        return not self.missing_features() and host_features().issuperset(self.marks)


def missing_here(needed: str, features: tuple[str, ...], triple: str = "", device: str = "") -> list[str]:
    """Which of an architecture, processor flags, the operating system of a triple and a GPU this machine lacks."""
    if needed != host_architecture():
        return [f"{needed} instructions"]
    if triple and not system_of(triple).is_here:
        return [f"the operating system {system_of(triple).name}"]
    here = host_features()
    return [feature for feature in features if feature not in here] + (missing_gpu(device) if device else [])


_AVX2 = ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# Sums may be reordered, so that the code generator can vectorise reductions; NaN and infinity stay exact.
_SUMS = (("fast-math-contract", True), ("fast-math-reassoc", True))
# LLVM avoids 512-bit vectors on some processors unless it is told otherwise.
_WIDE = (*_SUMS, ("mattr", ("-prefer-256-bit",)))
_VNNI512: dict[str, Any] = {
    "features": (*_AVX512, "avx512_vnni"),
    "options": (*_SUMS, ("mattr", ("-prefer-256-bit", "+avx512vnni"))),
    "dots": "avx512-vnni",
}
_VNNI256 = (*_SUMS, ("mattr", ("+avxvnni",)))
_X86 = "x86_64-unknown-linux-gnu"
# Of 32 registers, one holds a value of the input and up to six hold weights.
_TALL512 = 24

# By their names in /proc/cpuinfo on ARM. What these processors have in common, and the code generator may use.
_NEON = ("asimd",)
_DOTPROD = (*_NEON, "asimddp")
_ARMV82 = ("asimd", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp")
_SVE = (*_ARMV82, "fcma", "i8mm", "bf16", "sve")
_ARM, _MAC = "aarch64-unknown-linux-gnu", "arm64-apple-macos11.0"


def _avx512(name: str, purpose: str, **rest: Any) -> Target:
    """Vectors of sixteen lanes."""
    usual: dict[str, Any] = {"features": _AVX512, "options": _WIDE, "tall": _TALL512}
    return Target(name, "x86", _X86, "x86-64-v4", 16, 16, purpose=purpose, **(usual | rest))


def _arm(
    name: str, cpu: str, features: tuple[str, ...], purpose: str, core: Core, *attributes: str, triple: str = _ARM
) -> Target:
    """Vectors of four lanes. Half of 32 registers hold sums: with more, LLVM loads so far ahead that it spills."""
    options = (*_SUMS, ("mattr", attributes)) if attributes else _SUMS
    dots = "sdot" if "asimddp" in features else ""
    return Target(name, "arm", triple, cpu, 4, 16, features, options, core=core, purpose=purpose, dots=dots)


def _cuda(number: int, purpose: str) -> Target:
    """A GPU of a compute capability, beside any x86 processor with AVX2, which only calls its kernels.

    Tensor cores multiply 8 or 16 half numbers at a time, and 8 of them are the 16 bytes that a thread loads at once:
    channel counts that are multiples of 8 waste neither. `vector_width` is those 16 bytes in float32, `accumulators`
    the sums that a thread keeps in registers.
    """
    name, device = f"cuda-sm{number}", f"sm_{number}"
    return Target(name, "cuda", _X86, "x86-64-v3", 4, 32, _AVX2, _SUMS, device, 8, purpose=purpose)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        # Only AMD has `clzero`, and no older one `avx_vnni`.
        _avx512("x86-zen5", "AMD EPYC 9005, Ryzen 9000", core=ZEN5, marks=("clzero", "avx_vnni"), **_VNNI512),
        _avx512("x86-avx512-vnni", "servers that multiply bytes", **_VNNI512),
        _avx512("x86-avx512", "servers, newer desktops"),
        Target(
            "x86-avx2-vnni",
            "x86",
            _X86,
            "x86-64-v3",
            8,
            10,
            (*_AVX2, "avx_vnni"),
            _VNNI256,
            purpose="PCs and laptops that multiply bytes",
            dots="avx-vnni",
        ),
        Target("x86-avx2", "x86", _X86, "x86-64-v3", 8, 10, _AVX2, _SUMS, purpose="PCs and laptops since 2013"),
        _arm("arm", "generic", _NEON, "any 64-bit ARM", CORTEX_A76),
        _arm("arm-cortex-a72", "cortex-a72", _NEON, "Raspberry Pi 4", CORTEX_A72),
        _arm("arm-cortex-a76", "cortex-a76", _ARMV82, "Raspberry Pi 5", CORTEX_A76),
        _arm("arm-neoverse-n1", "neoverse-n1", _ARMV82, "AWS Graviton 2, Ampere Altra", NEOVERSE_N1),
        _arm("arm-neoverse-v1", "neoverse-v1", _SVE, "AWS Graviton 3", NEOVERSE_V1),
        _arm("arm-dotprod", "generic", _DOTPROD, "ARMv8.2 with dot products", CORTEX_A76, "+dotprod"),
        _arm("arm-sve", "generic", (*_DOTPROD, "sve"), "ARMv8.2 with SVE", NEOVERSE_V1, "+dotprod", "+sve"),
        # Apple publishes no figures of its cores; macOS tells no processor flags, and needs none to be told apart.
        _arm("arm-mac", "apple-m1", (), "Macs since Apple M1; built, never run by us", NEOVERSE_V1, triple=_MAC),
        _cuda(75, "T4, RTX 20"),
        _cuda(80, "A100, A30"),
        _cuda(86, "A10, A40, RTX 30"),
        _cuda(89, "L4, L40, RTX 40"),
        _cuda(90, "H100, H200"),
        _cuda(100, "B200"),
        _cuda(120, "RTX 50"),
    )
}

# Names that stand for the first of these that suits this machine.
_BEST = {"x86": ("x86-zen5", "x86-avx512-vnni", "x86-avx512", "x86-avx2-vnni", "x86-avx2")}


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
            if TARGETS[name].suits_here:
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
    if made.device and not re.fullmatch("sm_[0-9]{2,3}", made.device):
        raise TargetError(f"target {made.name!r}: device must be an architecture such as 'sm_80', not {made.device!r}")
    if made.vector_width < 1 or made.accumulators < 1 or made.alignment < 0:
        raise TargetError(
            f"target {made.name!r}: vector_width and accumulators must be at least 1, alignment at least 0"
        )
    return made


def _hint(given: Any, known: list[str]) -> str:
    close = get_close_matches(str(given), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
