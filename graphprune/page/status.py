"""What was proved of a pruned model, in words."""

from typing import TYPE_CHECKING, Any, NamedTuple

from ..equivalence import compare
from ..errors import VerifyError
from ..frontends import frontend_of
from ..plan import UNTOUCHED

if TYPE_CHECKING:
    from ..equivalence import Verification
    from ..masks import Masks
    from ..plan import Plan


class Status(NamedTuple):
    """`kind` is "good", "fair", "bad" or "none"; `text` one line, `detail` the rest; `seen` the verification."""

    kind: str
    text: str
    detail: str = ""
    seen: "Verification | None" = None


ANALYSED = Status("none", "analysis only", "Nothing was pruned: this is what could be.")
UNCHECKED = Status("fair", "not verified", "Verification was switched off: nothing proves that pruning broke nothing.")


def checked(model: Any, slim: Any, plan: "Plan | None", masks: "Masks | None", example_inputs: Any) -> Status:
    """Compare a pruned model with the masked original; where weights were changed since, prove its plan alone."""
    if not (masks or plan or UNTOUCHED).kept:
        return Status("fair", "nothing was dropped", "So there is nothing to verify.")
    try:
        if masks is not None:
            return _masked(model, slim, plan, masks, example_inputs)
        assert plan is not None
        return _proved(_compared(model, slim, plan, example_inputs))
    except VerifyError as error:
        differs = Status("bad", "differs from the masked original", str(error))
    if masks is not None or plan is None:
        return differs
    try:
        found = _compared(model, plan.apply(model, example_inputs), plan, example_inputs)
    except VerifyError:
        return differs
    return Status(
        "fair",
        "plan verified, weights changed since",
        f"{found}. The weights of this model are not those that pruning left, as after training or recovery: what it "
        "computes now is its own.",
        found,
    )


def _masked(model: Any, slim: Any, plan: "Plan | None", masks: "Masks", example_inputs: Any) -> Status:
    """Of a model whose weights became zero, after channels went where there is a plan, too."""
    if masks.updated:
        masks.check_zeros(frontend_of(slim).analyze(slim, example_inputs, masks.policy).weights)
        return Status("fair", "zeros are where the masks say", "The weights that stay were updated as well.")
    dense = model if plan is None else plan.apply(model, example_inputs)
    seen = _compared(dense, slim, masks, example_inputs)
    if plan is not None:
        seen = max(seen, _compared(model, dense, plan, example_inputs), key=lambda one: one.error)
    return _proved(seen)


def _compared(original: Any, slim: Any, decision: "Plan | Masks", example_inputs: Any) -> "Verification":
    return compare(frontend_of(original), original, slim, decision, example_inputs, thorough=True, strict=False)


def _proved(seen: "Verification") -> Status:
    if seen.says_little:
        return Status("fair", "the verification says little", f"{seen}. Inputs hardly move the outputs.", seen)
    return Status("good", "verified: pruned equals masked", str(seen), seen)
