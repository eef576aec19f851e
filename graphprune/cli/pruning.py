"""What goes, and how much: options that `optimize` and `plan` share, and their words read as values."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from ..errors import DataError
from . import completing

SPARSITY_HELP = "The share of the budget to remove; patterns such as 2:4 fix it."
BUDGET_HELP = (
    "What is counted: params, macs, bytes, memory (peak of activations) or latency (on the target), of single weights "
    "params or weights (those that may become zero); repeat for "
    "several, each with a sparsity of its own where it has one: [b]params=0.5[/b]."
)
LATENCY_HELP = (
    "The time that the compiled model may take on the target, [b]'2.5 ms'[/b], or a share of it, [b]'60 %'[/b]."
)
CRITERION_HELP = (
    "What goes first: l2, l1, linf, lamp, fpgm, bn_scale, random; with --data taylor, fisher, reconstruction and "
    "others. Of single weights: magnitude, wanda, sparsegpt."
)
DATA_HELP = (
    "Calibration data: a .npy file with the input, or a .npz file with an array for every input by name, and "
    "[b]targets[/b] where they are known; samples along the first axis, taken 32 at a time."
)
SCOPE_HELP = "Where groups compete; global, unless the criterion asks for layer."
ALLOCATE_HELP = "What goes first: the least important (score), or what loses the least for what it saves (per_cost)."
WIDTH_HELP = (
    "Bounds on the outputs of layers, [b]PATTERN=FEWEST:MOST[/b], numbers or shares, one may be missing: "
    "[b]layer1.*=8:[/b] or [b]fc=:0.5[/b]; repeat."
)
MIN_WIDTH_HELP = "The fewest outputs of any layer that is pruned, a number or a share."
TARGET_HELP = "Keep multiples that suit this target, such as x86."
EXACT_HELP = "Drop groups for which dropping is not masking: prefer (only when nothing else is left), yes (never), no."
POLICY_HELP = (
    "What goes where channels are split: heads or dims (head widths); positions (of groups), groups, or narrow (groups "
    "of up to 16 channels, else positions); repeatable."
)


@dataclass(frozen=True)
class Pruning:
    """What goes; the names are those of `graphprune.optimize`."""

    PANEL: ClassVar[str] = "What goes"

    sparsity: Annotated[float | None, typer.Option(help=SPARSITY_HELP, show_default="0.5")] = None
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help=BUDGET_HELP, show_default="params", autocompletion=completing.budgets),
    ] = None
    latency: Annotated[str | None, typer.Option(metavar="TIME", help=LATENCY_HELP)] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to measure latency with.")] = None
    criterion: Annotated[str, typer.Option(metavar="NAME", help=CRITERION_HELP, autocompletion=completing.criteria)] = (
        "l2"
    )
    data: Annotated[Path | None, typer.Option(metavar="FILE", help=DATA_HELP)] = None
    scope: Annotated[Literal["global", "layer", "isomorphic"] | None, typer.Option(help=SCOPE_HELP)] = None
    allocate: Annotated[Literal["score", "per_cost"] | None, typer.Option(help=ALLOCATE_HELP)] = None
    width: Annotated[list[str] | None, typer.Option("--width", metavar="BOUND", help=WIDTH_HELP)] = None
    min_width: Annotated[str | None, typer.Option(metavar="BOUND", help=MIN_WIDTH_HELP)] = None
    keep: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Layers to leave; repeat.")] = None
    multiple_of: Annotated[int | None, typer.Option(min=1, help="Keep channel counts multiples of this.")] = None
    target: Annotated[str | None, typer.Option(help=TARGET_HELP, autocompletion=completing.targets)] = None
    exact: Annotated[Literal["prefer", "yes", "no"], typer.Option(help=EXACT_HELP)] = "prefer"
    policy: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help=POLICY_HELP, autocompletion=completing.policies)
    ] = None
    seed: Annotated[int, typer.Option(help="For the criterion random.")] = 0

    def asked(self) -> dict[str, Any]:
        """The options by the names that `graphprune.optimize` has for them.

        Exits with usage for wrong words; raises `DataError` for a criterion that lacks its data.
        """
        from ..data_files import load_batches

        if self.data is None and _looks_at_data(self.criterion):
            raise DataError(f"--criterion {self.criterion} looks at data: give it --data FILE, or choose another one")
        return {
            "sparsity": self.sparsity,
            "budget": budget_of(self.budget, 0.5 if self.sparsity is None else self.sparsity),
            "latency": self.latency,
            "threads": self.threads,
            "criterion": self.criterion,
            "scope": self.scope,
            "allocate": self.allocate,
            "widths": widths_of(self.width) or None,
            "min_width": bound_of(self.min_width, "--min-width"),
            "keep": self.keep or (),
            "multiple_of": self.multiple_of,
            "target": self.target,
            "exact": self.exact if self.exact == "prefer" else self.exact == "yes",
            "policy": self.policy or (),
            "seed": self.seed,
            "data": None if self.data is None else load_batches(self.data),
        }


def _looks_at_data(criterion: str) -> bool:
    from ..criteria import CRITERIA
    from ..masking import DATA_CRITERIA

    return criterion in DATA_CRITERIA or (criterion in CRITERIA and bool(CRITERIA[criterion].needs))


def budget_of(words: Iterable[str] | None, sparsity: float) -> Any:
    """`["params", "macs=0.4"]` as budgets; those without a number take `sparsity`. Exits with usage for others."""
    from ..budget import BUDGETS
    from ..masking import BUDGETS as OF_WEIGHTS

    found: dict[str, float] = {}
    for word in words or ("params",):
        name, equals, share = word.partition("=")
        if name not in (*BUDGETS, *OF_WEIGHTS) or equals and not _is_number(share):
            known = ", ".join(dict.fromkeys((*BUDGETS, *OF_WEIGHTS)))
            raise typer.BadParameter(f"{word!r} is none of {known}, nor one of them with =0.5", param_hint="--budget")
        found[name] = float(share) if equals else sparsity
    alone = len(found) == 1 and set(found.values()) == {sparsity}
    return next(iter(found)) if alone else found


def widths_of(words: Iterable[str] | None) -> dict[str, tuple[Any, Any]]:
    """`["layer1.*=8:", "fc=:0.5"]` as bounds by pattern. Exits with usage for others."""
    found = {}
    for word in words or ():
        pattern, equals, pair = word.rpartition("=")
        fewest, colon, most = pair.partition(":")
        if not equals or not colon or not pattern:
            raise typer.BadParameter(f"{word!r} is not PATTERN=FEWEST:MOST", param_hint="--width")
        found[pattern] = (bound_of(fewest, "--width"), bound_of(most, "--width"))
    return found


def bound_of(text: str | None, option: str) -> int | float | None:
    """A whole number, a share, or None where there is no text."""
    if not text:
        return None
    if not _is_number(text):
        raise typer.BadParameter(f"{text!r} is no number", param_hint=option)
    return int(text) if text.isdigit() else float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
