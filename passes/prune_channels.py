"""Drop channels and neurons, consistently everywhere, until a budget is met."""

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..backends.targets import get_target
from ..budget import Options, make_plan
from ..frontends import frontend_of
from ..policy import resolve_policy
from .pipeline import Program


@dataclass(frozen=True)
class PruneChannels:
    """Analyse, plan, apply. Options are those of `graphprune.optimize`; a target asks for its channel alignment.

    ```python
    from graphprune.budget import Options
    from graphprune.passes.pipeline import Program, run_passes
    from graphprune.passes.prune_channels import PruneChannels

    program = run_passes(Program(model), [PruneChannels(Options(sparsity=0.5, budget="macs"))])
    ```
    """

    options: Options = field(default_factory=Options)
    target: str | None = None
    name: ClassVar[str] = "prune channels"

    def apply(self, program: Program) -> Program:
        """A program whose model is slim and whose origin is the model before."""
        options = self.options
        if self.target is not None:
            alignment = get_target(self.target).channel_alignment
            options = replace(options, multiple_of=math.lcm(options.multiple_of, alignment))
        program = program.analysed(resolve_policy(options.policy))
        assert program.analysis is not None
        plan = make_plan(program.analysis, options)
        frontend = frontend_of(program.model)
        slim = frontend.apply(program.model, plan, program.example_inputs, program.analysis)
        return replace(program, model=slim, plan=plan).with_report(**plan.report, note=frontend.note_of(slim))
