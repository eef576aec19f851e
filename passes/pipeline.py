"""Programs, passes, and the one way to run them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..analysis import Analysis
from ..errors import GraphPruneError
from ..frontends import frontend_of
from ..masks import Masks
from ..plan import Plan
from ..policy import DEFAULT, Policy


@dataclass(frozen=True)
class Program:
    """A model on its way through a pipeline.

    `model` is what it is now, `origin` what the last plan or masks were made for, `analysis` belongs to `origin`.
    `report` collects what passes have to say.
    """

    model: Any
    example_inputs: Any = None
    origin: Any = None
    analysis: Analysis | None = None
    plan: Plan | None = None
    masks: Masks | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def analysed(self, policy: Policy = DEFAULT) -> "Program":
        """The same program with the analysis of its current model."""
        if self.analysis is not None and self.origin is self.model and self.analysis.equations.policy == policy:
            return self
        analysis = frontend_of(self.model).analyze(self.model, self.example_inputs, policy)
        return replace(self, origin=self.model, analysis=analysis)

    def with_report(self, **facts: Any) -> "Program":
        """The same program with more facts in its report."""
        return replace(self, report={**self.report, **facts})


class Pass(Protocol):
    """Program in, valid program out. A pass is a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str:
        """What progress displays and error messages call it."""
        ...

    def apply(self, program: Program) -> Program:
        """Transform a program; never in place."""
        ...


Hook = Callable[[Pass, Program], None]


def run_passes(
    program: Program, passes: Sequence[Pass], before: Hook | None = None, after: Hook | None = None
) -> Program:
    """Run passes in order. Hooks see every program on its way: for progress, timing, dumps, verification.

    Errors of ours carry a note that tells which passes had run.
    """
    done: list[str] = []
    for step in passes:
        if before is not None:
            before(step, program)
        try:
            program = step.apply(program)
        except GraphPruneError as error:
            if done and hasattr(error, "add_note"):  # Python >= 3.11
                error.add_note(f"in pass {step.name}, after {', '.join(done)}")
            raise
        done.append(step.name)
        if after is not None:
            after(step, program)
    return program
