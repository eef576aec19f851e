"""How long a kernel should take: a small model of a machine, and one table of how well each schedule uses it.

```python
seconds = predict(facts, peak)
```
"""

from dataclasses import dataclass
from typing import NamedTuple

# The share of the peak that each schedule rule reaches on kernels that fill the machine.
_EFFICIENCY = {
    "convolution": 0.8,
    "winograd": 0.6,
    "matmul": 0.8,
    "attention": 0.4,
    "window": 0.25,
    "rows": 0.05,
    "columns": 0.05,
    "generic": 0.04,
}
_OTHERS = 0.5
# Finished code that no rule can give a schedule: plain loops, one number at a time.
UNSCHEDULED, _PLAIN = "none", 0.01
# Sums of products on the generic schedule read one number for every multiplication.
GENERIC, _GENERIC_SUMS = "generic", 0.03
_CALL = 1e-6
_LIBRARY_CALL = 8e-9


@dataclass(frozen=True)
class Facts:
    """A kernel in numbers.

    `macs` are the multiply-adds that it executes, those of empty lanes included; `steps` the iterations of its longest
    loop nest; `library_calls` the calls of functions that no vector instructions exist for, such as `pow`; `bytes` the
    sizes of what it reads and writes, each counted once; `schedule` the rule that took it.
    """

    description: str
    macs: int
    steps: int
    library_calls: int
    bytes: int
    schedule: str


class Peak(NamedTuple):
    """What a machine does in a second at most: multiply-adds in registers, bytes copied."""

    macs: float
    bytes: float


# One core of a server of these years: what warnings are based on, where only proportions matter.
TYPICAL = Peak(8e10, 1.5e10)


def predict(facts: Facts, peak: Peak = TYPICAL) -> float:
    """Seconds of one call."""
    efficiency = _EFFICIENCY.get(facts.schedule, _OTHERS)
    if facts.schedule == UNSCHEDULED:
        efficiency = _PLAIN
    elif facts.schedule == GENERIC and facts.macs:
        efficiency = _GENERIC_SUMS
    work = facts.macs or facts.steps
    computing = work / (peak.macs * efficiency) + facts.library_calls * _LIBRARY_CALL
    return _CALL + max(computing, facts.bytes / peak.bytes)
