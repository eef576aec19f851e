"""`graphprune report`."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BudgetError, OptionError, VerifyError
from ..progress import Progress
from .options import AsJson, Given
from .output import check_out, print_json, show, stages
from .pruning import Pruning

EXAMPLES = (
    "graphprune report model.onnx -o report.html",
    "graphprune report my_models:Net -o report.html --sparsity 0.5 --budget macs --bench -i 1,3,32,32",
    "graphprune report my_models:Net -o report.html --weights trained.pt --slim slim.safetensors",
    "graphprune report my_models:Net -o report.html --sweep sweep.jsonl --plots plots",
)

SLIM_HELP = "The pruned model, which optimize wrote: slim.safetensors or slim.onnx."
PLAN_HELP = "The plan of a pruned model, which plan wrote: plan.json."
BENCH_HELP = "Compile and time both models for this machine, beside other runtimes."
TIMES_HELP = "Latencies that [b]graphprune bench MODEL --json[/b] printed into a file."
SWEEP_HELP = "Results of [b]graphprune sweep[/b]: sweep.jsonl."
PLOTS_HELP = "Write the drawings as PNG and SVG files, too."
VERIFY_HELP = "Prove that the pruned model equals the masked original."


@dataclass(frozen=True)
class Shown:
    """What a report shows beside the model."""

    slim: Annotated[Path | None, typer.Option(metavar="FILE", help=SLIM_HELP)] = None
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help=PLAN_HELP)] = None
    bench: Annotated[bool, typer.Option("--bench", help=BENCH_HELP)] = False
    times: Annotated[Path | None, typer.Option(metavar="FILE", help=TIMES_HELP)] = None
    sweep: Annotated[Path | None, typer.Option(metavar="FILE", help=SWEEP_HELP)] = None
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help=PLOTS_HELP)] = None
    title: Annotated[str | None, typer.Option(help="The head line; the name of the model where it is left out.")] = None
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help=VERIFY_HELP)] = True


def report(
    given: Given,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page: report.html")],
    shown: Shown,
    pruning: Pruning,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page: costs, widths, where they went, what hangs together, locks, latency, accuracy.

    Of a model alone it shows what could be pruned; with --slim or --plan what was; with --sparsity or another option
    of optimize the model is pruned for the report. The page holds all that it needs and loads nothing.
    """
    from ..page.writing import gather, write

    check_out(out, ".html", ".htm")
    options = _asked(shown, pruning)
    with stages() as stage:
        model, example_inputs = given.load(), given.example_inputs()
        slim = _slim(given, shown, options, model, example_inputs, stage)
        times: Any = shown.times
        if shown.bench:
            from ..bench import bench_pair

            if slim is None:
                raise OptionError("--bench times a pruned model, too: name it by --slim or --plan, or give --sparsity")
            times = bench_pair(model, slim, example_inputs, pruning.target or "x86", pruning.threads or 1)
        stage("write the report", 0, None)
        title = shown.title or given.model
        contents = gather(model, slim, None, example_inputs, shown.verify, times, shown.sweep, title)
        write(contents, out, shown.plots)
    status = contents.status
    if as_json:
        more = {} if shown.plots is None else {"plots": str(shown.plots)}
        print_json({"out": str(out), "status": status.text, "verified": status.kind == "good"} | more)
    else:
        show(f"{status.text}; written to {out}" + ("" if shown.plots is None else f", drawings to {shown.plots}"))
    if status.kind == "bad":
        raise VerifyError(f"{status.text}: {status.detail}")


def _asked(shown: Shown, pruning: Pruning) -> "dict[str, Any] | None":
    """The options to prune with, None where the model is not to be pruned; raises `OptionError` for contradictions."""
    given = [field.name for field in fields(Pruning) if getattr(pruning, field.name) not in (field.default, None, [])]
    what = [f"--{name.replace('_', '-')}" for name in given if name not in ("target", "threads")]
    ways = [name for name, file in (("--slim", shown.slim), ("--plan", shown.plan)) if file is not None]
    if shown.slim is not None and shown.slim.suffix not in (".safetensors", ".onnx"):
        raise OptionError(
            f"--slim {shown.slim}: only .safetensors and .onnx files hold the plan; give --plan plan.json"
        )
    if len(ways) + bool(what) > 1:
        raise OptionError(f"{' and '.join([*ways, *what[:1]])} each say what is pruned: give one of them")
    if shown.bench and shown.times is not None:
        raise OptionError("--bench measures latencies and --times reads them: give one of them")
    if given and not what and not shown.bench:
        raise OptionError(f"--{given[0]} is for pruning or --bench: give --sparsity or --bench, too")
    return pruning.asked() if what else None


def _slim(
    given: Given, shown: Shown, options: "dict[str, Any] | None", model: Any, example_inputs: Any, stage: Progress
) -> Any:
    """The pruned model that the options name or ask for, or None."""
    from ..passes.chosen import passes_for
    from ..passes.pipeline import Program, run_passes
    from ..plan import Plan

    if shown.slim is not None:
        if shown.slim.suffix == ".onnx":
            return replace(given, model=str(shown.slim), weights=None).load()
        return replace(given, weights=shown.slim).load()
    if shown.plan is not None:
        return Plan.load(shown.plan).apply(model, example_inputs)
    if options is None:
        return None
    passes = passes_for(options | {"verify": False}, stage)  # the report itself verifies
    program = run_passes(Program(model, example_inputs), passes, before=lambda step, _: stage(step.name, 0, None))
    if "unchanged" in program.report:
        raise BudgetError("what pruning leaves is not faster, so there is nothing to report")
    return program.model
