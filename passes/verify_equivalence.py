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
    """Compare with the program before the last plan or masks; raises `VerifyError` where they differ.

    Where the weights that stay were updated too, only the zeros can be checked.
    """

    thorough: bool = False
    name: ClassVar[str] = "verify"

    def apply(self, program: Program) -> Program:
        """The same program with the measured error in its report."""
        if program.report.get("unchanged"):
            return program
        decision = program.masks or program.plan
        if decision is None:
            raise PlanError("nothing to verify: no pass before this one made a plan")
        if program.masks is not None and program.masks.updated:
            sparse = program.analysed().analysis
            assert sparse is not None
            program.masks.check_zeros(sparse.weights)
            return program
        frontend, inputs = frontend_of(program.origin), program.example_inputs
        seen = compare(frontend, program.origin, program.model, decision, inputs, self.thorough, strict=False)
        if seen.says_little:
            warnings.warn(
                "the outputs depend on no input (zero-initialised last layer?), so the verification says little",
                stacklevel=4,
            )
        return program.with_report(verification=seen)
