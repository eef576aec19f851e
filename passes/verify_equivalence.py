"""Prove that the pruned program equals the masked original."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

from ..equivalence import compare
from ..errors import PlanError
from ..frontends import frontend_of
from .pipeline import Program


@dataclass(frozen=True)
class VerifyEquivalence:
    """Compare with the program before the last plan; raises `VerifyError` where they differ."""

    thorough: bool = False
    name: ClassVar[str] = "verify"

    def apply(self, program: Program) -> Program:
        """The same program with the measured error in its report."""
        if program.report.get("unchanged"):
            return program
        if program.plan is None:
            raise PlanError("nothing to verify: no pass before this one made a plan")
        frontend, inputs = frontend_of(program.origin), program.example_inputs
        seen = compare(frontend, program.origin, program.model, program.plan, inputs, self.thorough, strict=False)
        if seen.says_little:
            warnings.warn(
                "the outputs depend on no input (zero-initialised last layer?), so the verification says little",
                stacklevel=4,
            )
        return program.with_report(verification=seen)
