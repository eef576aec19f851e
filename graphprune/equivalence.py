"""The oracle: the pruned program must equal the original with the dropped parameters set to zero.

It knows nothing of rules or labels: it runs both programs on random inputs and compares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import VerifyError
from .masks import Masks
from .progress import tell

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True)
class Precision:
    """In what a program runs: the largest error allowed, relative to the largest output, and the least that shows.

    Right programs show some 1e-16 in float64. Where operators run in less, `name` says which and `tolerance` is larger.
    """

    name: str = "float64"
    tolerance: float = 1e-9
    rounding: float = 1e-16


@dataclass(frozen=True)
class Verification:
    """What was seen: the largest error relative to the largest output, and how far inputs move the outputs.

    `precision` says in what both programs ran, and what error that allows.
    """

    error: float
    runs: int
    sensitivity: float
    precision: Precision = Precision()

    @property
    def says_little(self) -> bool:
        """True where inputs hardly move the outputs, so that equal outputs prove nothing."""
        return self.sensitivity <= 100 * max(self.error, self.precision.rounding)

    def __str__(self) -> str:
        seen = f"error {self.error:.1e} (allowed {self.precision.tolerance:.0e}) in {self.precision.name}"
        return f"pruned equals masked: {seen}, {self.runs} runs"


def compare(
    frontend: ModuleType,
    original: Any,
    slim: Any,
    plan: "Plan | Masks",
    example_inputs: Any,
    thorough: bool,
    strict: bool,
) -> Verification:
    """Run both programs; see `graphprune.verify`. With `strict`, outputs that no input moves are an error."""
    if not plan.kept:
        raise VerifyError("the plan drops nothing, so there is nothing to verify")
    runs = 3 if thorough else 1
    error, sensitivity = 0.0, 0.0
    first = frontend.inputs_of(original, plan, example_inputs, 0)
    pruned, masked = _runner(frontend, slim, first, None), _runner(frontend, original, first, plan)
    precision = _precision(pruned, masked)

    def agree(inputs: Any, expected: list[NDArray[Any]], found: list[NDArray[Any]]) -> float:
        apart = _largest_error(expected, found)
        # an error is small where it is small beside the outputs and beside what inputs do to them
        allowed = min(precision.tolerance, max(sensitivity / 100, 100 * precision.rounding))
        if not apart <= allowed:
            first = "" if isinstance(plan, Masks) else frontend.first_difference(original, slim, plan, inputs)
            raise VerifyError(
                f"the pruned program differs from the masked original by {apart:.2e} of the largest output "
                f"({allowed:.0e} allowed in {precision.name}){first and f'; first at {first}'}{_refitted(plan)}"
            )
        return apart

    for seed in range(runs):
        tell("verify", seed, runs)
        inputs = first if seed == 0 else frontend.inputs_of(original, plan, example_inputs, seed)
        found = pruned(inputs)
        if seed == 0:
            sensitivity = _moved(found, pruned(frontend.inputs_of(original, plan, example_inputs, runs)))
        error = max(error, agree(inputs, masked(inputs), found))
    if thorough and hasattr(frontend, "other_sizes"):
        resized = frontend.other_sizes(original, first, runs)
        expected = _try_run(frontend, original, resized, plan)
        if expected is not None:
            found = _runner(frontend, slim, resized, None)(resized)
            error, runs = max(error, agree(resized, expected, found)), runs + 1
    result = Verification(error, runs, sensitivity, precision)
    if strict and result.says_little:
        raise VerifyError(
            f"inputs move the outputs by {sensitivity:.1e} only, so equal outputs prove nothing. Give example_inputs "
            "that matter, or initialise layers that are zero."
        )
    return result


def _refitted(plan: "Plan | Masks") -> str:
    """Why a recovered model is not what this compares with."""
    if "recovery" not in plan.report:
        return ""
    return ". Its weights were refitted after pruning (recover=): what can be proved is plan.apply(original)"


def _try_run(frontend: ModuleType, original: Any, resized: Any, plan: "Plan | Masks") -> list[NDArray[Any]] | None:
    """The masked original at other sizes; None where it has no others, or does not run at these."""
    if resized is None:
        return None
    try:
        return _runner(frontend, original, resized, plan)(resized)
    except VerifyError:
        return None


Run = Callable[[Any], list[NDArray[Any]]]


def _runner(frontend: ModuleType, model: Any, inputs: Any, plan: "Plan | Masks | None") -> Run:
    """How a program is run, many times: frontends that prepare something for that have a `runner` of their own."""
    if hasattr(frontend, "runner"):
        run: Run = frontend.runner(model, inputs, plan)
        return run
    return lambda given: list(frontend.outputs(model, given, plan))


def _precision(*runs: Run) -> Precision:
    """The coarser of those in which programs run."""
    return max((getattr(run, "precision", Precision()) for run in runs), key=lambda one: one.tolerance)


def _moved(first: list[NDArray[Any]], second: list[NDArray[Any]]) -> float:
    """How far apart the outputs for two inputs are; detectors give as many rows as they find."""
    if [output.shape for output in first] != [output.shape for output in second]:
        return 1.0
    return _largest_error(first, second)


def _largest_error(expected: list[NDArray[Any]], found: list[NDArray[Any]]) -> float:
    if len(expected) != len(found):
        raise VerifyError(f"the original has {len(expected)} output tensors, the pruned program {len(found)}")
    worst = 0.0
    for number, (left, right) in enumerate(zip(expected, found, strict=True)):
        if left.shape != right.shape:
            raise VerifyError(f"output {number} has shape {left.shape} in the original and {right.shape} after pruning")
        if not np.isfinite(left).all():
            raise VerifyError(f"output {number} of the masked original is not finite, so it cannot be compared")
        if left.size:
            difference = np.abs(left.astype(np.float64) - right.astype(np.float64)).max()
            scale = max(float(np.abs(left).max()), 1e-30)
            worst = max(worst, float(difference) / scale if np.isfinite(difference) else np.inf)
    return worst
