"""`graphprune bench`: a model and what pruning leaves of it, compiled by us and run by others, taking turns."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from . import api, report
from .backends import peers
from .backends.remote import random_inputs
from .backends.targets import get_target
from .errors import BudgetError, OptionError
from .frontends import frontend_of
from .progress import tell
from .timing import alternate

if TYPE_CHECKING:
    from .backends.artifact import Artifact
    from .backends.profile import Profile

ARTIFACT = "artifact"
WARMUP, IN_A_ROW = 3, 3
# The rows of a profile that are worth reading.
_MOST = 15


@dataclass(frozen=True)
class Bench:
    """Figures of the dense and the slim model.

    `seconds` are medians by model and program; `params` and `macs` are [dense, slim]; `difference` is how far the
    result of each artifact is from that of the first other program, relative to its largest number.
    """

    params: list[int]
    macs: list[int]
    seconds: dict[str, dict[str, float]]
    difference: dict[str, float]
    target: str
    threads: int
    profiles: "dict[str, Profile]"

    def figures(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """What a person reads: times, and where the time of each artifact goes."""
        programs = list(self.seconds["dense"])
        rows = []
        for index, (name, seconds) in enumerate(self.seconds.items()):
            costs = [report.count(self.params[index]), report.count(self.macs[index])]
            rows.append([name, *costs, *(report.duration(seconds[program]) for program in programs)])
        dense, slim = self.seconds["dense"], self.seconds["slim"]
        fewer = [f"{dense_cost / max(slim_cost, 1):.2f} x" for dense_cost, slim_cost in (self.params, self.macs)]
        rows.append(["dense / slim", *fewer, *(f"{dense[program] / slim[program]:.2f} x" for program in programs)])
        for name, seconds in self.seconds.items():
            ours = seconds[ARTIFACT]
            ratios = [f"{ours / seconds[program]:.2f}" for program in programs[1:]]
            rows.append([f"artifact / other, {name}", "", "", "", *ratios])
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        worst = max(self.difference.values())
        caption = f"medians of calls that take turns; artifacts differ from the others by {worst:.0e} at most"
        columns = ("", "parameters", "MACs", *programs)
        drawn = [report.table(f"{self.target}, {threads}", columns, rows, caption)]
        return drawn + [profile.table(_MOST) for profile in self.profiles.values()]


def bench(
    model: Any,
    example_inputs: Any = None,
    *,
    sparsity: float = 0.5,
    budget: str = "macs",
    target: str = "x86",
    multiple_of: int | None = None,
    threads: int = 1,
    repeats: int = 20,
    inductor: bool = False,
    profile: bool = False,
) -> Bench:
    """Prune a model, compile both, and time them beside ONNX Runtime and, for modules, PyTorch.

    **Arguments:** `sparsity`, `budget`, `threads` as in `optimize` and `compile`; channel counts become multiples of
    `multiple_of`, or of what suits the target, and of half as many where the budget is out of reach; `repeats`: turns
    of every program; `inductor`: measure `torch.compile`, too; `profile`: measure every kernel, too.
    """
    tell("prune")
    suits = get_target(target).channel_alignment if multiple_of is None else multiple_of
    options = {"budget": budget, "example_inputs": example_inputs}
    slim = _pruned(model, sparsity, suits, 1 if multiple_of is None else suits, options)
    return bench_pair(model, slim, example_inputs, target, threads, repeats, inductor, profile)


def _pruned(model: Any, sparsity: float, multiple: int, least: int, options: dict[str, Any]) -> Any:
    """Pruned to channel counts that are multiples; of half as many, down to `least`, if the budget is out of reach."""
    try:
        return api.optimize(model, sparsity, multiple_of=multiple, **options)
    except BudgetError:
        if multiple // 2 < least:
            raise
        return _pruned(model, sparsity, multiple // 2, least, options)


def bench_pair(
    model: Any,
    slim: Any,
    example_inputs: Any = None,
    target: str = "x86",
    threads: int = 1,
    repeats: int = 20,
    inductor: bool = False,
    profile: bool = False,
) -> Bench:
    """What `bench` measures, of a model and one that was pruned already."""
    models: dict[str, Any] = {"dense": model, "slim": slim}
    costs = [api.analyze(one, example_inputs).cost() for one in models.values()]
    artifacts: dict[str, Artifact] = {}
    runs: dict[str, partial[Any]] = {}
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    difference: dict[str, float] = {}
    for name, one in models.items():
        tell(f"compile the {name} model")
        artifacts[name] = api.compile(one, target, example_inputs=example_inputs, threads=threads)
        inputs = inputs_of(one, example_inputs, artifacts[name])
        runs[name] = partial(artifacts[name], *positional(inputs), **named(inputs))
        tell(f"prepare the {name} model in other runtimes")
        programs: dict[str, Callable[[], Any]] = {ARTIFACT: runs[name]}
        programs |= peers.programs(one, inputs, threads, inductor)
        calls |= {(name, program): call for program, call in programs.items()}
        ours, theirs = (_arrays(call()) for call in list(programs.values())[:2])
        difference[name] = max(map(_difference, ours, theirs), default=0.0)
    named_calls = {"/".join(key): call for key, call in calls.items()}
    medians = alternate(
        named_calls, repeats, WARMUP, in_a_row=IN_A_ROW, each_turn=lambda turn: tell("measure", turn, WARMUP + repeats)
    )
    seconds: dict[str, dict[str, float]] = {"dense": {}, "slim": {}}
    for name, program in calls:
        seconds[name][program] = medians[f"{name}/{program}"]
    profiles: dict[str, Profile] = {}
    for name, run in runs.items() if profile else ():
        tell(f"profile the {name} model")
        profiles[name] = artifacts[name].profile(*run.args, repeats=repeats, **run.keywords)
    params, macs = [cost.params for cost in costs], [cost.macs for cost in costs]
    return Bench(params, macs, seconds, difference, artifacts["dense"].target, threads, profiles)


def bench_artifact(
    path: "str | os.PathLike[str]", rpc: str | None = None, repeats: int = 20, threads: int | None = None
) -> dict[str, Any]:
    """Time the calls of an artifact: here, or on the machine at the address `rpc`, such as `raspberrypi.local:9090`.

    `threads` is for this machine; elsewhere `TVM_NUM_THREADS` counts, where the server is started.

    **Returns:** `target`, `machine`, and `seconds`: least, median and largest of `repeats` calls.

    **Raises:** `FileFormatError`, `TargetError` where the machine cannot be reached or cannot run it, `OptionError`.

    ```python
    graphprune.bench.bench_artifact("slim-arm.gp", rpc="raspberrypi.local:9090")["seconds"]["median"]
    ```
    """
    from .backends import artifact as artifacts
    from .backends import remote

    if rpc is None:
        artifact = artifacts.load(path, threads)
        inputs = random_inputs(artifact)
        artifact(*inputs)
        seconds = [_seconds(partial(artifact, *inputs)) for _ in range(repeats)]
    else:
        if threads is not None:
            raise OptionError("how many threads run is up to the server: start it there with TVM_NUM_THREADS=...")
        artifact = artifacts.read(path)
        seconds = list(remote.measure(artifact, rpc, repeats=repeats).seconds)
    figures = {"least": min(seconds), "median": median(seconds), "largest": max(seconds)}
    return {"target": artifact.target, "machine": rpc or "this one", "seconds": figures}


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def inputs_of(model: Any, example_inputs: Any, artifact: "Artifact") -> "tuple[Any, ...] | dict[str, Any]":
    """Example inputs in order or by name; made up from what the artifact takes where the model needs none."""
    given = frontend_of(model).example_inputs_of(model, example_inputs)
    if given is not None:
        return dict(given) if isinstance(given, Mapping) else tuple(given)
    names = [spec.name for spec in artifact.inputs]
    return dict(zip(names, random_inputs(artifact), strict=True))


def positional(inputs: Any) -> tuple[Any, ...]:
    """The inputs that are given in order."""
    return inputs if isinstance(inputs, tuple) else ()


def named(inputs: Any) -> dict[str, Any]:
    """The inputs that are given by name."""
    return inputs if isinstance(inputs, dict) else {}


def _arrays(result: Any) -> list[NDArray[Any]]:
    """The tensors of a result in order, without their structure."""
    if result is None:
        return []
    if isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        return [array for item in result for array in _arrays(item)]
    return [np.asarray(result)]


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest difference over the largest number."""
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))
