"""Prune until the compiled model takes no more than a given time: predict, prune, compile, measure, correct."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ..backends.compiler import compile_model
from ..backends.latency import checked_target, clock_of, seconds_of, threads_of
from ..budget import Options
from ..criteria import resolve
from ..errors import BudgetError, LatencyWarning, OptionError
from ..frontends import frontend_of
from ..latency import latency_of
from ..policy import Policy
from .pipeline import Program
from .prune_channels import PruneChannels

ROUNDS = 3
"""How often the prediction is corrected by what was measured."""

CLOSE = 0.03
"""By how much of the time asked for the measured one may differ without another round; measurements are not exact."""


@dataclass(frozen=True)
class PruneToLatency:
    """Prune by a clock of the target's kernels, and compare what comes out with the model before, taking turns.

    `prune` says how, and on what target; `latency` is what `graphprune.optimize` takes, or None where its options
    budget latency by a share. Where the pruned model is not faster than the one before, the one before is the result,
    unless `insist`.
    """

    prune: PruneChannels = field(default_factory=lambda: PruneChannels(target="x86"))
    latency: str | None = None
    threads: int | None = None
    insist: bool = False
    name: ClassVar[str] = "prune to latency"

    @property
    def target(self) -> str:
        """What is measured on."""
        return self.prune.target or "x86"

    @property
    def policy(self) -> Policy:
        """The policy of the analysis that this pass takes."""
        return self.prune.policy

    @property
    def options(self) -> Options:
        """What the user asked for."""
        return self.prune.options

    def apply(self, program: Program) -> Program:
        """A program whose model takes the time asked for, with what was measured in its report."""
        target, threads = checked_target(self.target), threads_of(self.threads)
        program = program.analysed(self.policy)
        assert program.analysis is not None
        needs = resolve(self.options.criterion).needs
        statistics = program.analysis.collect(needs, self.prune.data, self.prune.loss, self.prune.progress)
        dense = self._compiled(program, threads)
        before = seconds_of({"dense": dense}, threads)["dense"]
        wanted = self._wanted(before)
        clock = clock_of(program.analysis, target, threads, before)
        aim, found = wanted / before, list[tuple[float, Program]]()
        for _ in range(ROUNDS):
            try:
                slim, predicted = self._pruned(program, statistics, clock, aim)
            except BudgetError:
                if not found:
                    raise
                break  # there is no more to take away
            measured = seconds_of({"dense": dense, "slim": self._compiled(slim, threads)}, threads)
            share = measured["slim"] / measured["dense"]
            found.append((share, _with_times(slim, measured)))
            if abs(share * before / wanted - 1) <= CLOSE:
                break
            aim = min(0.999, predicted * wanted / before / share)  # the same model, as if it took what it took
        met = [entry for entry in found if entry[0] * before <= wanted * (1 + CLOSE)]
        share, best = max(met, key=lambda entry: entry[0]) if met else min(found, key=lambda entry: entry[0])
        if share >= 1 and not self.insist:
            _warn(
                f"the pruned model is not faster on {target.name} ({share:.2f} of the time): the model is returned as "
                "it was; insist=True returns the pruned one"
            )
            return replace(program, plan=None).with_report(**best.report, unchanged=True)
        if not met:
            reached = 1e3 * share * before
            _warn(f"{1e3 * wanted:.3f} ms were asked for on {target.name}, and {reached:.3f} ms were reached")
        return best

    def _wanted(self, before: float) -> float:
        """The seconds that are asked for. Raises `BudgetError` where the model takes no more already."""
        if self.latency is None:
            return before * (1 - self.options.budgets["latency"])
        wanted = latency_of(self.latency, before)
        if wanted >= before:
            raise BudgetError(
                f"latency={self.latency!r}: the model takes {1e3 * before:.3f} ms on {self.target} already"
            )
        return wanted

    def _pruned(self, program: Program, statistics: Any, clock: Any, aim: float) -> tuple[Program, float]:
        """The model pruned to a predicted share of its time, and that share."""
        budgets = {name: share for name, share in self.options.budgets.items() if name != "latency"}
        budgets = budgets if self.latency is None or isinstance(self.options.budget, Mapping) else {}
        options = replace(self.options, budget=budgets | {"latency": 1 - aim})
        prune = replace(self.prune, options=options, target=self.target, statistics=statistics, clock=clock)
        slim = prune.apply(program)
        before, after = slim.report["latency"]
        return slim, after / before

    def _compiled(self, program: Program, threads: int) -> Any:
        inputs = frontend_of(program.model).example_inputs_of(program.model, program.example_inputs)
        return compile_model(program.model, target=self.target, example_inputs=inputs, threads=threads)


def _with_times(slim: Program, seconds: dict[str, float]) -> Program:
    """The same program; its report, and that of its plan, tell what was measured, in nanoseconds."""
    assert slim.plan is not None
    slim.plan.report["measured"] = [round(1e9 * seconds[name]) for name in ("dense", "slim")]
    return slim.with_report(measured=slim.plan.report["measured"])


def _warn(text: str) -> None:
    warnings.warn(text, LatencyWarning, stacklevel=5)


def pruning(
    options: Options,
    target: str | None = None,
    latency: str | None = None,
    threads: int | None = None,
    insist: bool = False,
    **rest: Any,
) -> "PruneChannels | PruneToLatency":
    """The pass that prunes: by measured time where latency is budgeted. `rest` are fields of `PruneChannels`."""
    prune = PruneChannels(options, target, **rest)
    if latency is None and "latency" not in options.budgets:
        return prune
    if latency is not None:
        latency_of(latency, 1.0)  # raises for what cannot be meant, before anything is compiled
        if options.budget != "params" and not (isinstance(options.budget, Mapping) and "latency" not in options.budget):
            raise OptionError(
                f"latency={latency!r} is the budget, so budget={options.budget!r} would be another one: say "
                "budget={'macs': 0.5} for what is to hold besides"
            )
    return PruneToLatency(prune, latency, threads, insist)
