"""Says which kernels will take a notable part of the time although no schedule was written for what they do."""

import warnings
from collections.abc import Mapping

from ..errors import SlowKernelWarning
from .prediction import GENERIC, UNSCHEDULED, Facts, predict

# What matters: this share of the predicted time, and this many seconds of a call.
_SHARE, _SECONDS = 0.05, 1e-4
# Conversions of layouts are ours: no change of the model mends them.
_CONVERSIONS = {"pack", "unpack"}
_ADVICE = (
    "these run on the generic schedule, right but slow: replace them in the model by what has a schedule of its own "
    "(docs/backends.md lists it), or see with artifact.profile(x) what they really take"
)


def slow_kernels(kernels: Mapping[str, Facts]) -> list[tuple[Facts, float]]:
    """Kernels without a schedule of their own that matter, and their shares of the predicted time; largest first."""
    seconds = {name: predict(facts) for name, facts in kernels.items()}
    total = sum(seconds.values())
    found = [
        (facts, seconds[name] / total)
        for name, facts in kernels.items()
        if facts.schedule in (GENERIC, UNSCHEDULED)
        and not _converts(facts)
        and seconds[name] >= max(_SECONDS, _SHARE * total)
    ]
    return sorted(found, key=lambda pair: (-pair[1], pair[0].description))


def _converts(facts: Facts) -> bool:
    """Whether a kernel changes a layout, with or without operators per element on the way."""
    return not facts.macs and any(part.split()[0] in _CONVERSIONS for part in facts.description.split(" + ") if part)


def warn_of_slow(kernels: Mapping[str, Facts]) -> None:
    """One `SlowKernelWarning` that names the kernels that matter, if there are any."""
    found = slow_kernels(kernels)
    if found:
        lines = "".join(f"\n  about {100 * share:.0f} % of the time: {facts.description}" for facts, share in found)
        warnings.warn(f"{_ADVICE}{lines}", SlowKernelWarning, stacklevel=4)
