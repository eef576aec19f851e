"""Times of kernels on this machine, as a table on disk, and the clock of a model that is made of them.

Every kernel is compiled as in a model, for a few channel counts, and measured with weights that wait in memory. There
is one file per target and processor, `graphprune/latency/*.jsonl` in the user's cache folder. Each line is one
measurement, so that whoever is interrupted loses only the one that is running; a second model needs only what it has
not in common with the first.
"""

import json
import re
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TargetError
from ..latency import Clock, Kernel, Point, layers_of, points
from ..progress import shown
from ..timing import alternate
from .choices import first, templates
from .host import processor
from .peak import cache_folder
from .processors import default_threads
from .record import _ends_well
from .targets import Target, get_target

if TYPE_CHECKING:
    from ..analysis import Analysis

Measure = Callable[[Kernel, Point], float]
"""Seconds of a kernel with so many input and output channels."""

_TURNS, _IN_A_ROW = 15, 4


class Table:
    """Seconds of kernels on one target, processor and number of threads: a file of JSON lines that only ever grows."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        self._context = {"templates": templates(), "threads": threads}
        self._known = dict(_read(path, self._context))

    def seconds(self, kernel: Kernel, point: Point) -> float | None:
        """What is known of a kernel."""
        return self._known.get((_name(kernel), point))

    def add(self, kernel: Kernel, point: Point, seconds: float) -> None:
        """Note a measurement, in the file, too."""
        line = {**self._context, "kernel": _name(kernel), "point": list(point), "seconds": seconds}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            # whoever was stopped in the middle of a line must not spoil the next one
            file.write((("" if _ends_well(file) else "\n") + json.dumps(line) + "\n").encode())
        self._known[_name(kernel), point] = seconds


def table_of(target: Target, threads: int) -> Table:
    """What is known on this machine."""
    words = re.findall(r"[a-z0-9.]+", processor().lower())
    return Table(cache_folder() / "latency" / f"{target.name}-{'-'.join(words) or 'unknown'}.jsonl", threads)


def checked_target(name: "str | Target | Mapping[str, Any]") -> Target:
    """A target whose times can be measured here. Raises `TargetError` for others."""
    target = get_target(name)
    missing = target.missing_features()
    if missing or target.device:
        lacking = "kernels of GPUs are not modelled" if target.device else f"this machine lacks {', '.join(missing)}"
        raise TargetError(
            f"the latency of {target.name} cannot be measured here: {lacking}. Prune on a machine of that kind; or by "
            "budget='macs' with target=, which keeps the channel counts that suit it, and time the artifact there with "
            "graphprune bench slim.gp --rpc HOST:PORT"
        )
    return target


def clock_of(
    analysis: "Analysis",
    target: Target,
    threads: int,
    dense: float,
    measure: Measure | None = None,
    table: Table | None = None,
) -> Clock:
    """The clock of a model that takes `dense` seconds; kernels that the table does not know are measured first.

    `measure` tells the time of a kernel (default: on this machine), which shows how far it is.
    """
    table = table or table_of(target, threads)
    wanted = points(layers_of(analysis), target.channel_alignment)
    missing = [
        (kernel, point) for kernel, own in wanted.items() for point in own if table.seconds(kernel, point) is None
    ]
    if missing:
        _fill(table, missing, measure or Bench(target, threads))
    times = {
        kernel: {point: seconds for point in own if (seconds := table.seconds(kernel, point)) is not None}
        for kernel, own in wanted.items()
    }
    return Clock.of(analysis, times, target.vector_width, dense)


def _fill(table: Table, missing: list[tuple[Kernel, Point]], measure: Measure) -> None:
    """Measure one after another, each written down at once."""
    with shown() as report:
        for number, (kernel, point) in enumerate(missing):
            report("measure kernels", number, len(missing))
            table.add(kernel, point, measure(kernel, point))


class Bench:
    """Compiles kernels one by one as they are in a model, and measures them on this machine."""

    def __init__(self, target: Target, threads: int) -> None:
        self.target, self.threads = target, threads

    def __call__(self, kernel: Kernel, point: Point) -> float:
        """Seconds of a call."""
        import tvm

        from .measuring import Meter
        from .pipeline import llvm_target, optimize_passes

        found: list[Any] = []

        def collect(candidates: Any) -> Any:
            found.append(candidates)
            return first(candidates)

        with llvm_target(self.target):
            tvm.transform.Sequential(optimize_passes(self.target, collect))(_program(kernel, point))
        with Meter(self.target, self.threads) as meter:
            return meter.seconds(first(found[0]))


def _program(kernel: Kernel, point: Point) -> Any:
    """One operation with random weights, as a Relax module."""
    from tvm import relax

    inner, outer = point
    random = np.random.default_rng(0)
    if kernel.kind == "product":
        shape: tuple[int, ...] = (kernel.rows, inner)
        weight = random.standard_normal((inner, outer))
    else:
        groups = inner if kernel.kind == "depthwise" else kernel.groups
        shape = (kernel.rows, inner, *kernel.image)
        weight = random.standard_normal((outer, inner // groups, *kernel.window))
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    constant = relax.const(weight.astype("float32"))
    if kernel.kind == "product":
        call = relax.op.matmul(x, constant)
    else:
        border = tuple((size - 1) // 2 for size in kernel.window)
        call = relax.op.nn.conv2d(x, constant, strides=kernel.stride, padding=(*border, *border), groups=groups)
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(call))
        builder.emit_func_output(result)
    return builder.get()


def seconds_of(artifacts: Mapping[str, Any], threads: int) -> dict[str, float]:
    """Median seconds of a call of each artifact; they take turns, in a thread of their own."""
    from .remote import random_inputs

    def call(artifact: Any) -> Callable[[], Any]:
        inputs = random_inputs(artifact)
        return lambda: artifact(*inputs)

    calls = {name: call(artifact) for name, artifact in artifacts.items()}
    clock = time.thread_time if threads == 1 else time.perf_counter
    with ThreadPoolExecutor(1) as worker:
        return worker.submit(
            alternate, calls, _TURNS, 2, clock=clock, in_a_row=_IN_A_ROW, summary=statistics.median
        ).result()


def threads_of(threads: int | None) -> int:
    """How many threads are measured with."""
    return threads or default_threads()


def _name(kernel: Kernel) -> str:
    return json.dumps(list(kernel))


def _read(path: Path, context: dict[str, Any]) -> "list[tuple[tuple[str, Point], float]]":
    """All measurements that were made under these circumstances; lines that cannot be read are passed over."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
            if all(entry[name] == value for name, value in context.items()) and entry["seconds"] > 0:
                inner, outer = entry["point"]
                found.append(((str(entry["kernel"]), (int(inner), int(outer))), float(entry["seconds"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found
