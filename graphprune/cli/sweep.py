"""`graphprune sweep`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import report
from ..errors import BudgetError, OptionError, SweepError
from . import completing
from .functions import function_of
from .optimize import STRUCTURE_HELP
from .options import AsJson, Given
from .output import print_json, show
from .pruning import CRITERION_HELP, DATA_HELP, POLICY_HELP, TARGET_HELP

EXAMPLES = (
    "graphprune sweep my_models:Net --score my_models:accuracy -o sweep.jsonl --sparsity 0.3 --sparsity 0.6",
    "graphprune sweep model.onnx --score check:loss --lower --criterion l1 --criterion l2 -o sweep.jsonl --plot it.svg",
)

SCORE_HELP = "[b]package.module:function[/b], called with every model; returns a number, such as an accuracy."
OUT_HELP = "The results, a line of JSON per point. If the file is there, the sweep goes on where it was."
BUDGET_HELP = "What is counted: params, macs, bytes, memory or latency; repeat to try several."
MEASURE_HELP = "Compile every model for this target, such as x86, and time it beside the dense one."
RECOVER_HELP = "Accuracy back without training: least_squares, bias, batch_norm or none; repeat to try several."
PLOT_HELP = "Draw score against what is left: a .png, .svg or .pdf file."
OF_HELP = "What is left of what, in the picture and for the stars of the table: params, macs, measured, ..."


def sweep(
    given: Given,
    score: Annotated[str, typer.Option(metavar="FUNCTION", help=SCORE_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help=OUT_HELP)],
    sparsity: Annotated[
        list[float] | None, typer.Option(help="A share to remove; repeat.", show_default="0.25, 0.5, 0.75")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help=BUDGET_HELP, show_default="params", autocompletion=completing.budgets),
    ] = None,
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help=f"{CRITERION_HELP} Repeat.", show_default="l2", autocompletion=completing.criteria
        ),
    ] = None,
    structure: Annotated[list[str] | None, typer.Option(metavar="WORD", help=f"{STRUCTURE_HELP} Repeat.")] = None,
    recover: Annotated[list[str] | None, typer.Option(metavar="WORD", help=RECOVER_HELP)] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help=POLICY_HELP, autocompletion=completing.policies)
    ] = None,
    multiple_of: Annotated[list[int] | None, typer.Option(min=1, help="Keep multiples of this; repeat.")] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Layers to leave in every model.")] = None,
    target: Annotated[str | None, typer.Option(help=TARGET_HELP, autocompletion=completing.targets)] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help=DATA_HELP)] = None,
    lower: Annotated[bool, typer.Option("--lower", help="Lower scores are better: a loss.")] = False,
    measure: Annotated[
        str | None, typer.Option(metavar="TARGET", help=MEASURE_HELP, autocompletion=completing.targets)
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to measure with.")] = None,
    executor: Annotated[Literal["serial", "processes", "ray"], typer.Option(help="Where points run.")] = "serial",
    workers: Annotated[int | None, typer.Option(min=1, help="How many points at the same time.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help=PLOT_HELP)] = None,
    of: Annotated[str | None, typer.Option(metavar="QUANTITY", help=OF_HELP, show_default="params")] = None,
    as_json: AsJson = False,
) -> None:
    """Prune a model in every combination of the given options, score each result, and show what accuracy costs."""
    from ..data_files import load_batches
    from ..sweep_plot import check_ending
    from ..sweeping import SPARSITIES
    from ..sweeping import sweep as run

    if of is not None and of not in report.QUANTITIES:
        raise OptionError(f"--of {of}: choose one of {', '.join(report.QUANTITIES)}")
    if plot is not None:
        check_ending(plot)
    given_options: dict[str, Any] = {
        "structure": structure,
        "recover": recover and [False if word == "none" else word for word in recover],
        "policy": policy and [[word] for word in policy],
        "multiple_of": multiple_of,
        "keep": keep,
        "target": target,
        "threads": threads,
    }
    options = {name: value for name, value in given_options.items() if value is not None}
    scored = function_of(score)
    result = run(
        given.load(),
        sparsity or SPARSITIES,
        score=scored,
        budgets=budget or ["params"],
        criteria=criterion or ["l2"],
        example_inputs=given.example_inputs(),
        data=None if data is None else load_batches(data),
        out=out,
        better="lower" if lower else "higher",
        measure=measure,
        executor=executor,
        workers=workers,
        **options,
    )
    if as_json:
        print_json({**(result.header or {}), "points": [point.record for point in result.points], "out": str(out)})
    elif result.finished:
        show(result.table(of), f"written to {out}")
    if not result.finished:
        pruning = all(point.error is not None and point.error["stage"] == "prune" for point in result.points)
        kind = BudgetError if pruning else SweepError
        raise kind(f"no point could be reached; {out} holds the reasons. The first: {result.points[0].reason}")
    if plot is not None:
        result.plot(plot, of, given.model)
        if not as_json:
            show(f"drawn in {plot}")
