"""`graphprune.sweep`: many ways to prune one model, each scored by the user, resumable."""

import copy
import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, api, journal, report
from .errors import BudgetError, DataError, GraphPruneError, OptionError, SweepError
from .executors import executor_of
from .frontends import frontend_of
from .grid import Options, described, key_of, name_of, points
from .policy import DEFAULT, Policy
from .progress import shown
from .sweep_results import FORMAT, Sweep, parsed

if TYPE_CHECKING:
    from .analysis import Analysis
    from .passes.pipeline import Program

SPARSITIES = (0.25, 0.5, 0.75)
BETTER = ("higher", "lower")
Score = Callable[[Any], float]
Line = dict[str, Any]

_NOWHERE: "tuple[list[Line], Callable[[Line], None]]" = ([], lambda line: None)
"""What stands for a file where none is wanted."""


def sweep(
    model: Any,
    sparsities: "float | Sequence[float] | None" = SPARSITIES,
    *,
    score: Score,
    budgets: Any = "params",
    criteria: Any = "l2",
    example_inputs: Any = None,
    data: Any = None,
    out: "str | os.PathLike[str] | None" = None,
    better: str = "higher",
    measure: str | None = None,
    executor: str = "serial",
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Sweep:
    """Prune a model in many ways and score each: what accuracy costs.

    **Arguments:**

    - `model`, `example_inputs`, `data`: as in `graphprune.optimize`. The model is not modified.
    - `sparsities`, `budgets`, `criteria`: one value or several (a list or a tuple) of these options of `optimize`.
      Several budgets at once are a tuple within a list, `budgets=[("params", "macs"), "macs"]`.
    - `score`: a function of a model that returns a number, such as the accuracy on held-out images. It is given models
      that are its own: it may put them into `eval()`, or train them first. Models are in the mode of `model`; those of
      the path of an .onnx file are of the kind `onnx.ModelProto`.
    - `out`: a file of results, one line of JSON per point, written as soon as the point is finished. If it is there
      already, its points are not computed again. It belongs to one model (its numbers count) and one score function
      (its name counts): another one is refused. The format is in `docs/sweep.md`.
    - `better`: "higher" for an accuracy, "lower" for a loss.
    - `measure`: a target of this machine, such as "x86": every pruned model is compiled, and timed in turns with the
      dense one, on `threads=` of the options. The times are the quantity "measured", in nanoseconds.
    - `executor`: "serial", "processes" (of this machine, by joblib) or "ray" (a cluster), `workers` of them.
    - `progress`: called with a line for every point; without it there is a bar on a terminal.
    - `options`: other options of `optimize`, `keep=["head"], recover=True, structure=["channel", "2:4"]`. A list is
      values to try; for `keep`, `policy` and `block`, of which a list is one value, a list of lists is.

    A point that cannot be reached (`BudgetError`), or on which anything else fails, is recorded with its reason, and
    the sweep goes on. When it is called again, points that failed for a reason other than an error of GraphPrune are
    tried again. After Ctrl-C what was finished is in `out`.

    **Returns:** a `Sweep`: `print(found)`, `best(macs=0.5)`, `smallest("params", drop=0.01)`, `pareto("params")`,
    `plot("sweep.svg")`, `points`, `rows()`.

    **Raises:** `OptionError`, `BudgetError`, `CriterionError` for values that cannot be meant, before anything is
    computed; `SweepError` where the score of the dense model fails, a worker dies, or `out` belongs to another sweep;
    `FileFormatError` where `out` is something else; what `analyze` raises.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
    x = torch.randn(64, 4)
    wanted = net(x).detach()
    error = lambda slim: (slim(x) - wanted).square().mean().item()
    found = graphprune.sweep(net, (0.25, 0.5), score=error, better="lower", criteria=("l1", "l2"), out="sweep.jsonl")
    print(found)
    ```
    """
    if better not in BETTER:
        raise OptionError(f"better={better!r}: choose 'higher' or 'lower'")
    compute = executor_of(executor, workers)
    grid = points(sparsities, budgets, criteria, options)
    _check(grid, data, measure, executor)
    model = _opened(model)
    if isinstance(data, Iterator):
        raise DataError("data= can be read once only, and every point reads it: give a list or a DataLoader")
    task = Task(model, score, example_inputs, data, measure)
    header = _header(task, better)
    with journal.writing(out) if out is not None else nullcontext(_NOWHERE) as (lines, append):
        if lines:
            header, known = _resumed(lines, header, out)
        else:
            header, known = header | {"score": _dense_score(task)}, {}
            append(header)
        wanted = {key_of(point): point for point in grid}
        missing = [point for key, point in wanted.items() if not _is_done(known.get(key), measure)]
        with shown(progress) as tell:
            done = len(wanted) - len(missing)
            tell("sweep", done - 1, len(wanted))
            for line in compute(task, missing, workers):
                append(line)
                known[key_of(line["options"])] = line
                tell("sweep", done, len(wanted))
                done += 1
    return Sweep.of(header, [known[key] for key in wanted])


@dataclass(frozen=True, eq=False)
class Task:
    """Prune, score and measure one point: a function of its options that returns its line."""

    model: Any
    score: Score
    example_inputs: Any
    data: Any
    measure: str | None
    dense: "dict[int | None, Any]" = field(default_factory=dict)
    """The dense model, compiled, by threads."""
    analyses: "dict[Policy, Analysis]" = field(default_factory=dict)
    """The dense model, analysed, by policy: what one point has seen of it and of the data serves the next ones."""

    def __call__(self, point: Options) -> Line:
        """The line of a point. Only Ctrl-C and the like get out of it."""
        line: Line = {"options": described(point)}
        seconds: dict[str, float] = {}
        stage, start = "prune", time.perf_counter()
        try:
            slim = self._pruned(point, line)
            start = _lap(seconds, stage, start)
            if self.measure is not None:  # before the score, which may train the model
                stage = "measure"
                line["costs"]["measured"] = self._measured(slim, point.get("threads"))
                line["measured_on"] = self.measure
                start = _lap(seconds, stage, start)
            stage = "score"
            line["score"] = number_of(self.score(slim))
        except Exception as error:
            own = isinstance(error, GraphPruneError)
            line["error"] = {"type": type(error).__name__, "message": str(error), "stage": stage, "own": own}
        _lap(seconds, stage, start)
        return line | {"seconds": {name: round(value, 3) for name, value in seconds.items()}}

    def _pruned(self, point: Options, line: Line) -> Any:
        """The pruned model; what it costs and what there is to say of it goes into the line."""
        from .passes.chosen import passes_for
        from .passes.pipeline import run_passes

        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", UserWarning)
            passes = passes_for(point | {"data": self.data})
            program = run_passes(self._analysed(getattr(passes[0], "policy", DEFAULT)), passes)
        told = [str(warning.message) for warning in seen if issubclass(warning.category, UserWarning)]
        if "unchanged" in program.report:
            raise BudgetError("; ".join(told) or "what pruning leaves is not faster")
        found = report.facts(program.report)
        line["costs"] = report.costs(found)
        if program.masks is not None and program.analysis is not None:  # shapes stay, and what follows from them
            dense = program.analysis.cost()._asdict()
            line["costs"] = {name: [number, number] for name, number in dense.items()} | line["costs"]
        line |= {name: found[name] for name in ("verification", "recovery", "note") if found.get(name)}
        line |= {"warnings": told} if told else {}
        return program.model

    def _analysed(self, policy: Policy) -> "Program":
        """The program of the dense model, whose analysis looks at data once for all points that need the same."""
        from .passes.pipeline import Program

        program = Program(self.model, self.example_inputs)
        if policy in self.analyses:
            return replace(program, origin=self.model, analysis=self.analyses[policy])
        program = program.analysed(policy)
        assert program.analysis is not None
        if program.analysis.collector is not None:
            program.analysis.collector = _remembering(program.analysis.collector)
        self.analyses[policy] = program.analysis
        return program

    def _measured(self, slim: Any, threads: int | None) -> list[int]:
        from .backends.latency import seconds_of, threads_of

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if threads not in self.dense:
                self.dense[threads] = self._compiled(self.model, threads)
            artifacts = {"dense": self.dense[threads], "slim": self._compiled(slim, threads)}
        seconds = seconds_of(artifacts, threads_of(threads))
        return [round(1e9 * seconds[name]) for name in artifacts]

    def _compiled(self, model: Any, threads: int | None) -> Any:
        assert self.measure is not None
        return api.compile(model, self.measure, example_inputs=self.example_inputs, threads=threads)


Collector = Callable[..., Any]


def _remembering(collect: Collector) -> Collector:
    """What collects statistics, once for everything that is wanted; the data are always the same here."""
    known: dict[Any, tuple[Any, Any]] = {}

    def collected(data: Any, wanted: frozenset[str], loss: Any, progress: Any) -> Any:
        if (wanted, id(loss)) not in known:
            known[wanted, id(loss)] = collect(data, wanted, loss, progress), loss  # a loss that lives keeps its id
        return known[wanted, id(loss)][0]

    return collected


def number_of(score: Any) -> float:
    """A score as a finite number. Raises `SweepError` for what is none."""
    try:
        number = float(getattr(score, "detach", lambda: score)())  # torch warns of numbers that have gradients
    except (TypeError, ValueError) as error:
        raise SweepError(f"the score function returned a {type(score).__name__}, where a number is needed") from error
    if not math.isfinite(number):
        raise SweepError(f"the score function returned {number}, which cannot be compared")
    return number


def fingerprint_of(analysis: "Analysis") -> str:
    """A hash of a program and all its stored numbers: it changes when a model is trained on, other than a plan's."""
    digest = hashlib.sha256(str(analysis.graph).encode())
    for name, leaf in analysis.graph.leaves.items():
        digest.update(repr((name, leaf.shape, leaf.dtype)).encode())
        digest.update(np.ascontiguousarray(analysis.weights(name)).tobytes())
    return digest.hexdigest()


def _check(grid: "list[Options]", data: Any, measure: str | None, executor: str) -> None:
    """Raise for what cannot be meant, before anything is computed."""
    from .passes.chosen import passes_for

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for point in grid:
            passes_for(point | {"data": data})
    timed = measure is not None or any(map(_is_timed, grid))
    if executor != "serial" and timed:
        raise OptionError(
            f"executor={executor!r}: times that are measured beside other work say little; sweep with "
            "executor='serial', or without measure= and budgets of latency"
        )
    if measure is not None:
        from .backends.latency import checked_target

        checked_target(measure)


def _is_timed(point: Options) -> bool:
    budget = point["budget"]
    return point.get("latency") is not None or "latency" in ((budget,) if isinstance(budget, str) else budget)


def _header(task: Task, better: str) -> Line:
    """The first line of a file, without the score: what must be the same for its points to be comparable."""
    data = task.data if task.data is None else f"{type(task.data).__name__} of {_length(task.data)}"
    fingerprint = fingerprint_of(api.analyze(task.model, task.example_inputs))
    made = {"format": FORMAT, "graphprune": __version__, "model": fingerprint, "function": name_of(task.score)}
    return made | {"better": better, "data": data}


def _length(data: Any) -> str:
    return str(len(data)) if hasattr(data, "__len__") else "unknown length"


_SAME = {
    "model": "another model, or this one with other weights or example inputs",
    "function": "another score function",
    "better": "another direction of the score",
    "data": "other data",
}
"""What must agree with a file that is there, and what it is a sign of where it does not."""


def _resumed(lines: "list[Line]", header: Line, out: Any) -> "tuple[Line, dict[str, Line]]":
    """The header and the points that are known. Raises `SweepError` where they belong to another sweep."""
    old, known = parsed(lines, out)
    for name, meaning in _SAME.items():
        if old.get(name) != header[name]:
            raise SweepError(
                f"{os.fspath(out)} belongs to {meaning}: its {name} is {old.get(name)!r}, and now it is "
                f"{header[name]!r}. Give another file as out=, or delete this one"
            )
    return old, known


def _is_done(line: Line | None, measure: str | None) -> bool:
    """Whether a point needs no more work: errors of ours would come again, others may be gone."""
    if line is None:
        return False
    if "error" in line:
        return bool(line["error"]["own"]) and line["error"]["stage"] == "prune"
    return measure is None or line.get("measured_on") == measure


def _dense_score(task: Task) -> float:
    try:
        return number_of(task.score(_copied(task.model)))
    except SweepError:
        raise
    except Exception as error:
        raise SweepError(
            f"the score function fails on the model as it was given: {type(error).__name__}: {error}"
        ) from error


def _opened(model: Any) -> Any:
    """What a path holds, so that the score function meets models of one kind; other models as they are."""
    return frontend_of(model).loaded(model) if isinstance(model, (str, os.PathLike)) else model


def _copied(model: Any) -> Any:
    """A model of its own for the score function, which may train it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(model)


def _lap(seconds: dict[str, float], stage: str, start: float) -> float:
    now = time.perf_counter()
    seconds[stage] = seconds.get(stage, 0.0) + now - start
    return now
