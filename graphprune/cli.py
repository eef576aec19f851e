"""The command line: `graphprune demo | explain | optimize | verify | compile | inspect | targets | runtime | bench`.

Frameworks are imported inside the commands, so that `--help` answers at once.
"""

import sys
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from . import __version__, report
from . import cli_options as told
from .cli_options import (
    AsJson,
    Bounds,
    Budget,
    Inputs,
    Model,
    Recover,
    Weights,
    load,
    print_json,
    spinner,
    write,
)
from .errors import BudgetError, GraphPruneError, OptionError

app = typer.Typer(
    help="Make trained neural networks smaller and faster, and verify that they still compute the same.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; errors of ours become one line and exit code 1."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        app()
    except (GraphPruneError, OSError) as error:
        print(f"graphprune: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"graphprune {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where models and picture go.")] = Path("graphprune-demo"),
    seed: Annotated[int, typer.Option(help="Seed of initialisation and training.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads to train and measure with.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Train, prune, verify, fine-tune, compile and measure a small network on handwritten digits; a minute."""
    with spinner("starting"):
        from .demo import run

    figures = run(out, seed, threads, Console(stderr=as_json))
    if as_json:
        print_json(figures)


@app.command(epilog="Example: [b]graphprune explain torchvision.models:resnet18 --dot groups.dot[/b]")
def explain(
    model: Model,
    inputs: Inputs = None,
    dot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the groups for Graphviz.")] = None,
    graphml: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the groups as GraphML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print which channels hang together, what each group costs, what is locked and how to unlock it."""
    import graphprune

    from .explain import group_rows
    from .frontends import source_of

    example_inputs = source_of(model).example_inputs(inputs or [])
    loaded = load(model, None)
    with spinner("analysing"):
        analysis = graphprune.analyze(loaded, example_inputs=example_inputs)
    for path, text in ((dot, analysis.to_dot), (graphml, analysis.to_graphml)):
        if path:
            write(path, text())
    if as_json:
        cost, groups = analysis.cost(), [asdict(row) for row in group_rows(analysis)]
        print_json({**cost._asdict(), "groups": groups})
    else:
        print(analysis.explain())


@app.command(epilog="Example: [b]graphprune optimize my_models:Net -o slim.safetensors --sparsity 0.5 -i 1,3,32,32[/b]")
def optimize(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="slim.onnx, slim.safetensors or slim.pt2")],
    sparsity: Annotated[float | None, typer.Option(help=told.SPARSITY_HELP, show_default="0.5")] = None,
    structure: Annotated[str, typer.Option(metavar="WORD", help=told.STRUCTURE_HELP)] = "channel",
    budget: Budget = None,
    criterion: Annotated[str, typer.Option(metavar="NAME", help=told.CRITERION_HELP)] = "l2",
    data: Annotated[Path | None, typer.Option(metavar="FILE", help=told.DATA_HELP)] = None,
    recover: Recover = None,
    scope: Annotated[Literal["global", "layer", "isomorphic"] | None, typer.Option(help=told.SCOPE_HELP)] = None,
    allocate: Annotated[Literal["score", "per_cost"] | None, typer.Option(help=told.ALLOCATE_HELP)] = None,
    width: Bounds = None,
    min_width: Annotated[str | None, typer.Option(metavar="BOUND", help=told.MIN_WIDTH_HELP)] = None,
    latency: Annotated[str | None, typer.Option(metavar="TIME", help=told.LATENCY_HELP)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to measure latency with.")] = None,
    insist: Annotated[bool, typer.Option("--insist", help=told.INSIST_HELP)] = False,
    keep: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Layers to leave; repeat.")] = None,
    multiple_of: Annotated[int | None, typer.Option(min=1, help="Keep channel counts multiples of this.")] = None,
    target: Annotated[str | None, typer.Option(help="Keep multiples that suit this target, such as x86.")] = None,
    exact: Annotated[Literal["prefer", "yes", "no"], typer.Option(help=told.EXACT_HELP)] = "prefer",
    policy: Annotated[list[str] | None, typer.Option(metavar="WORD", help=told.POLICY_HELP)] = None,
    seed: Annotated[int, typer.Option(help="For the criterion random.")] = 0,
    inputs: Inputs = None,
    weights: Weights = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="Verify over several inputs, not one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove channels or weights until at most 1 - SPARSITY of the budget is left, verify, and write the result.

    The file ending decides: .safetensors holds weights and plan (read by graphprune.load_weights), .pt2 a program;
    of an ONNX model an .onnx file is made.
    """
    from .data_files import load_batches
    from .frontends import source_of
    from .passes.chosen import passes_for
    from .passes.pipeline import Program, run_passes

    if out.suffix not in (".onnx", ".safetensors", ".pt2"):
        raise typer.BadParameter("must end in .onnx, .safetensors or .pt2", param_hint="--out")
    asked = {
        "structure": structure,
        "sparsity": sparsity,
        "budget": told.budget_of(budget, 0.5 if sparsity is None else sparsity),
        "criterion": criterion,
        "scope": scope,
        "allocate": allocate,
        "widths": told.widths_of(width) or None,
        "min_width": told.bound_of(min_width, "--min-width"),
        "latency": latency,
        "threads": threads,
        "insist": insist,
        "keep": keep or (),
        "multiple_of": multiple_of,
        "target": target,
        "exact": exact if exact == "prefer" else exact == "yes",
        "policy": policy or (),
        "seed": seed,
        "data": None if data is None else load_batches(data),
        "recover": recover or False,
    }
    status = spinner("starting")
    passes = passes_for(asked, lambda stage, done, total: status.update(f"{stage} {done + 1} ..."), thorough)
    source = source_of(model)
    program = Program(load(model, weights), source.example_inputs(inputs or []))
    source.check_ending(program.model, out)
    with status:
        program = run_passes(program, passes, before=lambda step, _: status.update(f"{step.name} ..."))
        if "unchanged" in program.report:
            raise BudgetError("what pruning leaves is not faster, so nothing is written; --insist writes it")
        source.save(program.model, out, program.example_inputs)
    found = program.report
    if as_json:
        print_json(report.facts(found) | {"out": str(out)})
    else:
        Console().print(report.optimized(found))
        print("\n".join([*report.remarks(found), f"written to {out}"]))


@app.command(epilog="Example: [b]graphprune verify my_models:Net slim.safetensors --thorough -i 1,3,32,32[/b]")
def verify(
    model: Model,
    slim: Annotated[Path, typer.Argument(metavar="SLIM", help="What optimize wrote: slim.safetensors or slim.onnx")],
    inputs: Inputs = None,
    weights: Weights = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="Over several inputs, not one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a pruned model computes what the original computes with the same channels set to zero."""
    import graphprune

    from .frontends import source_of

    example_inputs = source_of(model).example_inputs(inputs or [])
    pruned = load(str(slim), None) if slim.suffix == ".onnx" else load(model, slim)
    original = load(model, weights)
    with spinner("verifying"):
        verified = graphprune.verify(original, pruned, example_inputs=example_inputs, thorough=thorough)
    if as_json:
        print_json(asdict(verified))
    else:
        print(verified)


@app.command(
    "compile",
    epilog="Example: [b]graphprune compile my_models:Net -o slim.gp --weights slim.safetensors -i 1,3,32,32[/b]",
)
def compile_(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The artifact: slim.gp")],
    target: Annotated[str, typer.Option(help="The machine to compile for.")] = "x86",
    inputs: Inputs = None,
    weights: Weights = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to run with.")] = None,
    tune: Annotated[float | None, typer.Option(metavar="SECONDS", help=told.TUNE_HELP, show_default=False)] = None,
    separate: Annotated[bool, typer.Option("--separate-weights", help=told.SEPARATE_HELP)] = False,
    folder: Annotated[bool, typer.Option("--folder", help="Write a folder of parts instead of one file.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Time it here and store the latency in it.")] = False,
    examine: Annotated[bool, typer.Option("--examine", help="Count instructions, for graphprune inspect.")] = False,
    precision: Annotated[
        str, typer.Option(help="Of weights: fp32, fp16, bf16; on GPUs of products: tf32, too.")
    ] = "fp32",
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="On GPUs: launch all kernels at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compile a model, pruned or not, into one file that graphprune.load runs without PyTorch."""
    import graphprune

    from .bench import inputs_of, named, positional
    from .frontends import source_of

    example_inputs = source_of(model).example_inputs(inputs or [])
    loaded = load(model, weights)
    # While candidates are measured, there is a progress bar of its own.
    with nullcontext() if tune else spinner(f"compiling for {target}"):
        artifact = graphprune.compile(
            loaded,
            target=target,
            example_inputs=example_inputs,
            threads=threads,
            tune=tune,
            precision=precision,
            cuda_graph=cuda_graph,
            weights="separate" if separate else "embedded",
            examine=examine,
        )
        if measure:
            given = inputs_of(loaded, example_inputs, artifact)
            artifact.measure(*positional(given), **named(given))
        artifact.save(out, folder=folder)
    size = artifact.size
    tuning, latency = artifact.manifest.get("tuning"), artifact.manifest.get("latency")
    if as_json:
        more = {"tuning": tuning, "latency": latency}
        print_json({"target": target, "bytes": size, "out": str(out)} | {k: v for k, v in more.items() if v})
    else:
        if latency:
            print(f"takes {latency['milliseconds']:.3f} ms on {latency['threads']} thread(s)")
        if tuning:
            print(report.tuning(tuning))
        print(f"written to {out}: {report.size(size)} for {target}")


@app.command(epilog="Example: [b]graphprune inspect slim.gp[/b]")
def inspect(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="What compile wrote: slim.gp")],
    as_json: AsJson = False,
) -> None:
    """Check an artifact, without running it, and print what it takes, returns, needs and holds."""
    from .backends.contents import contents
    from .backends.static_cost import static_cost

    found = contents(artifact)
    if as_json:
        print_json(found.figures())
    else:
        print(found)
        if "code" in found.manifest:
            Console().print(static_cost(found.manifest).table())


@app.command(
    epilog="Example: [b]graphprune compile my_models:Net -o slim-arm.gp --target arm-cortex-a72 -i 1,3,32,32[/b]"
)
def targets(as_json: AsJson = False) -> None:
    """List the machines to compile for, and what this one lacks to run or to build their artifacts."""
    from .backends.survey import survey

    rows = survey()
    if as_json:
        print_json({"targets": [asdict(row) | {"runs": row.runs, "builds": row.builds} for row in rows]})
    else:
        Console().print(report.targets(rows))


@app.command(epilog="Example: [b]graphprune runtime deploy[/b]")
def runtime(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")],
    libraries: Annotated[Path | None, typer.Option(metavar="FOLDER", help=told.LIBRARIES_HELP)] = None,
    as_json: AsJson = False,
) -> None:
    """Collect what runs artifacts elsewhere: libraries, the loader for Python, the C interface and its sources."""
    from .backends.collecting import collect

    sizes = collect(out, libraries)
    if as_json:
        print_json({"out": str(out), "sizes": sizes})
    else:
        Console().print(report.table("", ["", "size"], [[name, report.size(size)] for name, size in sizes.items()]))
        print(f"written to {out}; {out / 'README.md'} says how to use it")


@app.command(epilog="Example: [b]graphprune bench torchvision.models:resnet18 --profile[/b]")
def bench(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{told.MODEL_HELP} Or an artifact, [b]slim.gp[/b].")],
    sparsity: Annotated[float, typer.Option(help="The share of the budget to remove.")] = 0.5,
    budget: Annotated[Literal["params", "macs", "bytes", "memory"], typer.Option(help="What is counted.")] = "macs",
    target: Annotated[str, typer.Option(help="The machine to compile for.")] = "x86",
    multiple_of: Annotated[int | None, typer.Option(min=1, help="Keep channel counts multiples of this.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every program.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of every program.")] = 20,
    inductor: Annotated[bool, typer.Option("--inductor", help="Measure torch.compile, too (slow to start).")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time of the artifacts goes.")] = False,
    rpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help=told.RPC_HELP, show_default=False)] = None,
    inputs: Inputs = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Time a model and what pruning leaves of it: compiled, in ONNX Runtime and, for modules, in PyTorch.

    An artifact is timed alone, here or on another machine.
    """
    from .bench import bench as measure
    from .frontends import source_of

    if model.endswith(".gp"):
        _bench_artifact(context, Path(model), rpc, threads, repeats, as_json)
        return
    if rpc is not None:
        raise OptionError(
            "--rpc measures an artifact: compile the model first, then graphprune bench model.gp --rpc ..."
        )
    example_inputs = source_of(model).example_inputs(inputs or [])
    loaded = load(model, weights)
    with spinner("starting") as status:
        found = measure(
            loaded,
            example_inputs,
            sparsity=sparsity,
            budget=budget,
            target=target,
            multiple_of=multiple_of,
            threads=threads,
            repeats=repeats,
            inductor=inductor,
            profile=profile,
            progress=lambda step: status.update(f"{step} ..."),
        )
    if as_json:
        print_json(found.figures())
    else:
        for table in found.tables():
            Console().print(table)


def _bench_artifact(
    context: typer.Context, path: Path, rpc: str | None, threads: int, repeats: int, as_json: bool
) -> None:
    """Time one artifact; options that are about models are refused."""
    from .bench import bench_artifact

    for name in ("sparsity", "budget", "target", "multiple_of", "inductor", "profile", "inputs", "weights"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise OptionError(f"--{name.replace('_', '-')} is for models; an artifact is measured as it is")
    with spinner(f"measuring {path} on {rpc or 'this machine'}"):
        given = context.get_parameter_source("threads")
        alone = rpc is None or (given is not None and given.name == "COMMANDLINE")
        found = bench_artifact(path, rpc, repeats, threads if alone else None)
    if as_json:
        print_json(found)
    else:
        Console().print(report.timed(found))
