"""`graphprune bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import report
from ..errors import OptionError
from .options import MODEL_HELP, AsJson, Given, Target
from .output import print_json, show, stages

RPC_HELP = (
    "Of an artifact: measure on the machine where [b]python -m tvm.exec.rpc_server[/b] runs, such as pi.local:9090."
)

EXAMPLES = (
    "graphprune bench torchvision.models:resnet18 --profile",
    "graphprune bench slim-arm.gp --rpc raspberrypi.local:9090",
)

OF_MODELS = ("sparsity", "budget", "target", "multiple_of", "inductor", "profile", "inputs", "weights")
"""Options that say nothing of an artifact."""


@dataclass(frozen=True)
class Timed(Given):
    """A model, or an artifact."""

    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP} Or an artifact, [b]slim.gp[/b].")]


def bench(
    context: typer.Context,
    given: Timed,
    sparsity: Annotated[float, typer.Option(help="The share of the budget to remove.")] = 0.5,
    budget: Annotated[Literal["params", "macs", "bytes", "memory"], typer.Option(help="What is counted.")] = "macs",
    target: Target = "x86",
    multiple_of: Annotated[int | None, typer.Option(min=1, help="Keep channel counts multiples of this.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every program.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of every program.")] = 20,
    inductor: Annotated[bool, typer.Option("--inductor", help="Measure torch.compile, too (slow to start).")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time of the artifacts goes.")] = False,
    rpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help=RPC_HELP, show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Time a model and what pruning leaves of it: compiled, in ONNX Runtime and, for modules, in PyTorch.

    An artifact is timed alone, here or on another machine.
    """
    from ..bench import bench as measure

    if given.model.endswith(".gp"):
        _bench_artifact(context, Path(given.model), rpc, threads, repeats, as_json)
        return
    if rpc is not None:
        raise OptionError(
            "--rpc measures an artifact: compile the model first, then graphprune bench model.gp --rpc ..."
        )
    with stages():
        example_inputs = given.example_inputs()
        loaded = given.load()
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
        )
    if as_json:
        print_json(found.figures())
    else:
        show(*found.tables())


def _bench_artifact(
    context: typer.Context, path: Path, rpc: str | None, threads: int, repeats: int, as_json: bool
) -> None:
    """Time one artifact; options that are about models are refused."""
    from ..bench import bench_artifact

    for name in OF_MODELS:
        if _was_given(context, name):
            raise OptionError(f"--{name.replace('_', '-')} is for models; an artifact is measured as it is")
    with stages() as report_stage:
        report_stage(f"measure {path} on {rpc or 'this machine'}", 0, None)
        alone = rpc is None or _was_given(context, "threads")
        found = bench_artifact(path, rpc, repeats, threads if alone else None)
    if as_json:
        print_json(found)
    else:
        show(report.timed(found))


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
