"""Measures candidates for the kernels of a model within a time budget, and remembers what was found.

```python
record, coverage = tune(module, target, seconds=60, threads=1)
tuned = pipeline(target, record.choose)(module)
```
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import tvm

from ..errors import TargetError
from ..progress import shown
from .choices import first, workload
from .measuring import Meter, bytes_of
from .precision import Half
from .prediction import Facts, predict
from .processors import default_threads
from .record import Measured, Record, record_of
from .targets import Target

# The candidates that are compared with the first one, in rounds over all kernels.
_ROUNDS = (slice(1, 4), slice(4, 10))

Measure = Callable[[Any, Any], Measured]


@dataclass(frozen=True)
class Workload:
    """A distinct kernel of a model: its key, its candidates, and the seconds that all its calls may take."""

    key: str
    candidates: Sequence[Any]
    seconds: float


@dataclass(frozen=True)
class Coverage:
    """How far the measurements got: distinct kernels, those with all candidates measured, those that became faster."""

    kernels: int
    complete: int
    changed: int
    candidates: int
    measured: int

    def to_json(self) -> dict[str, int]:
        """The figures by name."""
        return asdict(self)


def tune(
    module: tvm.IRModule,
    target: Target,
    seconds: float,
    threads: int | None = None,
    measure: Measure | None = None,
    clock: Callable[[], float] = time.monotonic,
    half: Half | None = None,
    sparse: bool = True,
) -> tuple[Record, Coverage]:
    """Measure until all is known or the time is over; 0 measures nothing. What was known before counts, too.

    `measure` tells the time of a candidate beside that of the first one (default: on this machine). Kernels that should
    take the largest share of the time come first. `half` is the format of the weights, if not float32.
    """
    threads = threads or default_threads()
    if seconds and measure is None and target.missing_features():
        raise TargetError(
            f"cannot tune for {target.name} on this machine, whose processor lacks "
            f"{', '.join(target.missing_features())}; tune=0 uses what is recorded"
        )
    record = record_of(target, threads)
    works = workloads(module, target, half, sparse)
    turns = [(work, one) for part in _ROUNDS for work in works for one in work.candidates[part]]
    missing = [(work, one) for work, one in turns if record.measured(work.key, one) is None]
    if seconds and missing:
        opened: AbstractContextManager[Any] = Meter(target, threads) if measure is None else nullcontext(measure)
        with opened as meter:
            _measure_all(record, missing, meter, seconds, clock)
    return record, coverage(works, record)


def workloads(module: tvm.IRModule, target: Target, half: Half | None = None, sparse: bool = True) -> list[Workload]:
    """The distinct kernels of a model that there is a choice for, in the order of the time they should take."""
    from .pipeline import llvm_target, optimize_passes

    found: dict[str, list[Any]] = {}

    def collect(candidates: Sequence[Any]) -> Any:
        found.setdefault(workload(candidates), []).append(candidates)
        return first(candidates)

    with llvm_target(target):
        tvm.transform.Sequential(optimize_passes(target, collect, half, sparse=sparse))(module)
    works = [
        Workload(key, calls[0], len(calls) * _predicted(calls[0][0])) for key, calls in found.items() if calls[0][1:]
    ]
    return sorted(works, key=lambda work: -work.seconds)


def _predicted(candidate: Any) -> float:
    schedule = type(candidate).__module__.rpartition(".")[2]
    return predict(Facts("", candidate.macs, 0, 0, bytes_of(candidate), schedule))


def coverage(works: Sequence[Workload], record: Record) -> Coverage:
    """What the record says about these kernels."""
    known = [
        [record.measured(work.key, one) is not None for part in _ROUNDS for one in work.candidates[part]]
        for work in works
    ]
    return Coverage(
        kernels=len(works),
        complete=sum(map(all, known)),
        changed=sum(record.choose(work.candidates) is not work.candidates[0] for work in works),
        candidates=sum(map(len, known)),
        measured=sum(map(sum, known)),
    )


def _measure_all(
    record: Record,
    missing: Sequence[tuple[Workload, Any]],
    measure: Measure,
    seconds: float,
    clock: Callable[[], float],
) -> None:
    """One candidate after the other, each written down at once."""
    end = clock() + seconds
    with shown() as report:
        for number, (work, candidate) in enumerate(missing):
            if clock() >= end:
                break
            report("measure candidates", number, len(missing))
            record.add(work.key, candidate, measure(work.candidates[0], candidate))
