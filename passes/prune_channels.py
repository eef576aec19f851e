"""Drop channels and neurons, consistently everywhere, until a budget is met."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..backends.targets import get_target
from ..budget import Options, make_plan
from ..criteria import resolve
from ..errors import ApplyError
from ..frontends import frontend_of
from ..policy import Policy, resolve_policy
from ..progress import Progress
from .pipeline import Program

if TYPE_CHECKING:
    from ..latency import Clock
    from ..statistics import Statistics

ATTEMPTS = 12
"""How often a plan is made anew without the channels that the model's code does not let go."""


@dataclass(frozen=True)
class PruneChannels:
    """Analyse, plan, apply; where the model's code does not let channels go, they are kept and it starts anew.

    Options are those of `graphprune.optimize`; a target asks for its channel alignment. `data`, and a `loss` for it,
    are what a criterion looks at, unless its `statistics` are there already; a `clock` tells predicted times where they
    are budgeted.

    ```python
    from graphprune.budget import Options
    from graphprune.passes.pipeline import Program, run_passes
    from graphprune.passes.prune_channels import PruneChannels

    program = run_passes(Program(model), [PruneChannels(Options(sparsity=0.5, budget="macs"))])
    ```
    """

    options: Options = field(default_factory=Options)
    target: str | None = None
    data: Any = None
    loss: Callable[..., Any] | None = None
    progress: Progress | None = None
    statistics: "Statistics | None" = None
    clock: "Clock | None" = None
    name: ClassVar[str] = "prune channels"

    @property
    def policy(self) -> Policy:
        """The policy of the analysis that this pass takes."""
        return resolve_policy(self.options.policy)

    def apply(self, program: Program) -> Program:
        """A program whose model is slim and whose origin is the model before."""
        options = self.options
        if self.target is not None:
            alignment = get_target(self.target).channel_alignment
            options = replace(options, multiple_of=math.lcm(options.multiple_of or 1, alignment))
        program = program.analysed(self.policy)
        frontend, analysis, notes = frontend_of(program.model), program.analysis, []
        assert analysis is not None
        statistics = self.statistics
        if statistics is None:
            statistics = analysis.collect(resolve(options.criterion).needs, self.data, self.loss, self.progress)
        for attempt in range(ATTEMPTS):
            plan = make_plan(analysis, options, self.clock, statistics)
            try:
                slim = frontend.apply(program.model, plan, program.example_inputs, analysis)
                break
            except ApplyError as error:
                blame = error.blame[analysis.free[error.blame]]
                if not blame.size or attempt == ATTEMPTS - 1:
                    raise
                problem = str(error).split(". ")[0]
                notes.append(f"{blame.size} channels stay: {problem}")
                analysis = analysis.locked(blame, problem, "take sizes from tensors in forward()")
        note = "; ".join([*notes, *filter(None, [frontend.note_of(slim)])]) or None
        return replace(program, model=slim, plan=plan, masks=None, analysis=analysis).with_report(
            **plan.report, note=note
        )
