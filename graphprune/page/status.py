"""What was proved of a pruned model, in words."""

from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import VerifyError

if TYPE_CHECKING:
    from ..equivalence import Verification


class Status(NamedTuple):
    """`kind` is "good", "fair", "bad" or "none"; `text` one line, `detail` the rest; `seen` the verification."""

    kind: str
    text: str
    detail: str = ""
    seen: "Verification | None" = None


ANALYSED = Status("none", "analysis only", "Nothing was pruned: this is what could be.")
UNCHECKED = Status("fair", "not verified", "Verification was switched off: nothing proves that pruning broke nothing.")


def checked(model: Any, slim: Any, example_inputs: Any) -> Status:
    """Compare a pruned model with the masked original; where weights were changed since, prove its plan alone."""
    from .. import api

    masks, plan = api.masks_of(slim), api.plan_of(slim)
    if masks is not None and masks.updated:
        return Status("fair", "zeros are where the masks say", "The weights that stay were updated as well.")
    try:
        return _proved(api.verify(model, slim, example_inputs=example_inputs))
    except VerifyError as error:
        message = str(error)
        if plan is None or masks is not None:
            return Status("bad", "differs from the masked original", message)
    try:
        again = plan.apply(model, example_inputs)
        found = api.verify(model, again, example_inputs=example_inputs)
    except VerifyError as error:
        return Status("bad", "differs from the masked original", str(error))
    return Status(
        "fair",
        "plan verified, weights changed since",
        f"{found}. The weights of this model are not those that pruning left, as after training or recovery: what it "
        "computes now is its own.",
        found,
    )


def _proved(seen: "Verification") -> Status:
    if seen.says_little:
        return Status("fair", "the verification says little", f"{seen}. Inputs hardly move the outputs.", seen)
    return Status("good", "verified: pruned equals masked", str(seen), seen)
