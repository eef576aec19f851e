"""Give a pruned model back some of its accuracy without training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import OptionError, PlanError
from ..frontends import frontend_of
from ..reconstruction import METHODS
from .pipeline import Program


@dataclass(frozen=True)
class Recover:
    """Refit the layers of the pruned model to what the model before the last plan computes on calibration data.

    `method` is one of `graphprune.reconstruction.METHODS`; without `data`, inputs are made from batch-norm statistics.

    ```python
    from graphprune.budget import Options
    from graphprune.passes.pipeline import Program, run_passes
    from graphprune.passes.prune_channels import PruneChannels
    from graphprune.passes.recover import Recover

    program = run_passes(Program(model), [PruneChannels(Options(0.3)), Recover(data=batches)])
    ```
    """

    method: str = "least_squares"
    data: Any = None
    progress: Callable[[str, int, int | None], None] | None = None
    name: ClassVar[str] = "recover"

    def apply(self, program: Program) -> Program:
        """The same program with other weights, and what was won in its report."""
        if program.plan is None or program.analysis is None:
            raise PlanError("nothing to recover: no pass before this one made a plan")
        frontend = frontend_of(program.origin)
        if not hasattr(frontend, "recover"):
            raise OptionError("recover= works on modules, exported programs and ONNX models, not on weights alone")
        model, recovery = frontend.recover(
            program.origin, program.model, program.plan, program.analysis, self.data, self.method, self.progress
        )
        return replace(program, model=model).with_report(recovery=recovery)


def method_of(recover: "bool | str") -> str | None:
    """What `recover=` asks for: a method, or None for none. Raises `OptionError` for unknown ones."""
    if recover is False or recover is None:
        return None
    method = METHODS[0] if recover is True else recover
    if method not in METHODS:
        raise OptionError(f"recover={recover!r}: choose True or one of {', '.join(METHODS)}")
    return method
