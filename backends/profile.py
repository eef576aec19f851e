"""Where the time of an artifact goes: one row per kernel, measured beside what the machine should take."""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import StringIO
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .. import report
from ..errors import InputError
from .host import host_architecture
from .peak import peak
from .prediction import Facts, Peak, predict
from .targets import TARGETS

if TYPE_CHECKING:
    from .artifact import Artifact

_COLUMNS = ("kernel", "calls", "time", "share", "predicted", "MACs", "bytes", "of peak", "schedule")
_RUNTIME = "vm.builtin."
_OF_MACHINE = {"x86_64": "x86", "aarch64": "arm"}


@dataclass(frozen=True)
class KernelTime:
    """One kernel: times are milliseconds of all its calls in one run of the model together.

    `share` is its part of the time of all kernels; `macs` and `bytes` are of all calls; `peak_share` is how many of
    the multiply-adds that this machine could do in that time it did. Where the artifact does not say what the kernel
    does, `description` is its name, and what is not known is None.
    """

    name: str
    description: str
    schedule: str | None
    calls: int
    milliseconds: float
    share: float
    predicted: float | None
    macs: int | None
    bytes: int | None
    peak_share: float | None


@dataclass(frozen=True)
class Profile:
    """The kernels of an artifact, slowest first. `print(profile)` shows a table, `to_json()` gives it as text.

    `milliseconds` is the median time of a whole call without measuring inside it; `threads` how many it ran on; `peak`
    what the machine can do in a second on so many.
    """

    kernels: tuple[KernelTime, ...]
    milliseconds: float
    threads: int | None
    target: str
    peak: Peak

    def to_json(self) -> str:
        """All figures as JSON."""
        return json.dumps({**asdict(self), "peak": self.peak._asdict()}, indent=1)

    def table(self, most: int | None = None) -> Table:
        """The rows, or the first `most` of them, as a table of rich."""
        rows = [_row(kernel) for kernel in self.kernels[:most]]
        inside = sum(kernel.milliseconds for kernel in self.kernels)
        predicted = sum(kernel.predicted or 0 for kernel in self.kernels)
        work = sum(kernel.macs or 0 for kernel in self.kernels)
        reached = report.percent(1e3 * work / self.milliseconds / self.peak.macs)
        caption = (
            f"{len(self.kernels)} kernels: {inside:.3f} ms, predicted {predicted:.3f} ms; a whole call: "
            f"{self.milliseconds:.3f} ms, {reached} of the peak of "
            f"{report.count(round(2 * self.peak.macs))}FLOP/s and {report.size(round(self.peak.bytes))}/s"
        )
        threads = "all threads" if self.threads is None else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return report.table(f"{self.target}, {threads}", _COLUMNS, rows, caption)

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=150)
        console.print(self.table())
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return text.rstrip()


def measure(artifact: "Artifact", run: Callable[[], object], repeats: int) -> Profile:
    """Run an artifact `repeats` times as it is, and as often while the time of every kernel is taken."""
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, not {repeats}")
    run()
    whole = [_seconds(run) for _ in range(repeats)]
    samples = _sample(artifact, run, repeats)
    # A target of one's own runs here, so that the best of this machine's tells what it could do.
    limits = peak(artifact.target if artifact.target in TARGETS else _OF_MACHINE[host_architecture()], artifact.threads)
    known = {name: Facts(**facts) for name, facts in artifact.manifest.get("kernels", {}).items()}
    total = sum(median(seconds) for seconds, _ in samples.values())
    rows = [
        _kernel(name, known.get(name), calls, median(seconds), total, limits)
        for name, (seconds, calls) in samples.items()
    ]
    rows.sort(key=lambda row: -row.milliseconds)
    return Profile(tuple(rows), 1e3 * median(whole), artifact.threads, artifact.target, limits)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _sample(artifact: "Artifact", run: Callable[[], object], repeats: int) -> dict[str, tuple[list[float], int]]:
    """Seconds per run of every kernel, and how often a run calls it."""
    seconds: dict[str, list[float]] = defaultdict(list)
    calls: dict[str, int] = {}
    started = 0.0
    current: dict[str, list[float]] = defaultdict(list)

    def watch(name: str, before: bool) -> None:
        nonlocal started
        if before:
            started = time.perf_counter()
        elif not name.startswith(_RUNTIME):
            current[name].append(time.perf_counter() - started)

    with artifact.watched(watch):
        for _ in range(repeats):
            current.clear()
            run()
            for name, values in current.items():
                seconds[name].append(sum(values))
                calls[name] = len(values)
    return {name: (values, calls[name]) for name, values in seconds.items()}


def _kernel(name: str, facts: Facts | None, calls: int, seconds: float, total: float, limits: Peak) -> KernelTime:
    milliseconds, share = 1e3 * seconds, seconds / total if total else 0.0
    if facts is None:
        return KernelTime(name, name, None, calls, milliseconds, share, None, None, None, None)
    macs = calls * facts.macs
    return KernelTime(
        name=name,
        description=facts.description,
        schedule=facts.schedule,
        calls=calls,
        milliseconds=milliseconds,
        share=share,
        predicted=1e3 * calls * predict(facts, limits),
        macs=macs,
        bytes=calls * facts.bytes,
        peak_share=macs / seconds / limits.macs if macs and seconds else None,
    )


def _row(kernel: KernelTime) -> list[str]:
    return [
        kernel.description,
        str(kernel.calls),
        f"{kernel.milliseconds:.3f} ms",
        report.percent(kernel.share),
        "-" if kernel.predicted is None else f"{kernel.predicted:.3f} ms",
        report.count(kernel.macs) if kernel.macs else "-",
        "-" if kernel.bytes is None else report.size(kernel.bytes),
        "-" if kernel.peak_share is None else report.percent(kernel.peak_share),
        kernel.schedule or "-",
    ]
