"""What the commands of the command line share: types of their options, texts of their help, words read as values."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from .files import atomic_path

MODEL_HELP = (
    "A model: [b]package.module:callable[/b] that returns an nn.Module, a saved program [b]model.pt2[/b], or "
    "[b]model.onnx[/b]."
)
INPUT_HELP = (
    "Shape of one input, [b]1,3,224,224[/b] or [b]1,128:int64[/b]; repeat for several; ONNX inputs also by name, "
    "[b]x=1,3,224,224[/b]. Inferred where possible."
)
WEIGHTS_HELP = "Weights to load into the model first: .safetensors (also pruned ones) or a state dict (.pt)."

POLICY_HELP = (
    "What goes where channels are split: heads or dims (head widths), positions (of groups) or groups; repeatable."
)
EXACT_HELP = "Drop groups for which dropping is not masking: prefer (only when nothing else is left), yes (never), no."

TUNE_HELP = "Measure candidates for the kernels for so many seconds; what was measured is remembered. 0: only use that."

LIBRARIES_HELP = (
    "Where libtvm_runtime.so and libtvm_ffi.so for another kind of machine lie; without it, those of this one."
)

SEPARATE_HELP = (
    "Put the weights beside the code; they are mapped into memory, and shared by all processes that load the file."
)

RPC_HELP = (
    "Of an artifact: measure on the machine where [b]python -m tvm.exec.rpc_server[/b] runs, such as pi.local:9090."
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", metavar="SHAPE", help=INPUT_HELP, show_default=False)
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help=WEIGHTS_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


BUDGET_HELP = (
    "What is counted: params, macs, bytes, memory (peak of activations) or latency (on the target), of single weights "
    "params or weights (those that may become zero); repeat for "
    "several, each with a sparsity of its own where it has one: [b]params=0.5[/b]."
)
SPARSITY_HELP = "The share of the budget to remove; patterns such as 2:4 fix it."
STRUCTURE_HELP = (
    "What goes: [b]channel[/b], or single weights, which become zero: [b]unstructured[/b], [b]2:4[/b] or any n:m, "
    "[b]block:16x1[/b]."
)
CRITERION_HELP = (
    "What goes first: l2, l1, linf, lamp, fpgm, bn_scale, random; with --data taylor, fisher, reconstruction and "
    "others. Of single weights: magnitude, wanda, sparsegpt."
)
DATA_HELP = (
    "Calibration data: a .npy file with the input, or a .npz file with an array for every input by name, and "
    "[b]targets[/b] where they are known; samples along the first axis, taken 32 at a time."
)
RECOVER_HELP = "Accuracy back without training, from --data or from batch-norm statistics."
SCOPE_HELP = "Where groups compete; global, unless the criterion asks for layer."
ALLOCATE_HELP = "What goes first: the least important (score), or what loses the least for what it saves (per_cost)."
WIDTH_HELP = (
    "Bounds on the outputs of layers, [b]PATTERN=FEWEST:MOST[/b], numbers or shares, one may be missing: "
    "[b]layer1.*=8:[/b] or [b]fc=:0.5[/b]; repeat."
)
MIN_WIDTH_HELP = "The fewest outputs of any layer that is pruned, a number or a share."
LATENCY_HELP = (
    "The time that the compiled model may take on the target, [b]'2.5 ms'[/b], or a share of it, [b]'60 %'[/b]."
)
INSIST_HELP = "Take the pruned model although it is measured to be no faster."

Recover = Annotated[Literal["least_squares", "bias", "batch_norm"] | None, typer.Option(help=RECOVER_HELP)]
Budget = Annotated[list[str] | None, typer.Option(metavar="WORD", help=BUDGET_HELP, show_default="params")]
Bounds = Annotated[list[str] | None, typer.Option("--width", metavar="BOUND", help=WIDTH_HELP)]


def budget_of(words: Iterable[str] | None, sparsity: float) -> Any:
    """`["params", "macs=0.4"]` as budgets; those without a number take `sparsity`. Exits with usage for others."""
    from .budget import BUDGETS
    from .masking import BUDGETS as OF_WEIGHTS

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


def load(model: str, weights: Path | None) -> Any:
    """The model named on the command line, with the weights named beside it."""
    import graphprune

    from .frontends import source_of

    source = source_of(model)
    with spinner(f"loading {model}"):
        loaded = source.load_model(model)
        if weights is None:
            return loaded
        if weights.suffix == ".safetensors":
            return graphprune.load_weights(loaded, weights)
        source.load_state(loaded, weights)
        return loaded


def spinner(text: str) -> Any:
    """A spinner on the terminal while something takes its time."""
    return Console(stderr=True).status(text + " ...")


def write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def print_json(figures: dict[str, Any]) -> None:
    """Print figures for programs."""
    print(json.dumps(figures, indent=2))
