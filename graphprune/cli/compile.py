"""`graphprune compile`."""

from pathlib import Path
from typing import Annotated

import typer

from .. import report
from . import completing
from .options import AsJson, Given, Target
from .output import check_out, print_json, show, stages

TUNE_HELP = "Measure candidates for the kernels for so many seconds; what was measured is remembered. 0: only use that."
SEPARATE_HELP = (
    "Put the weights beside the code; they are mapped into memory, and shared by all processes that load the file."
)
PRECISION_HELP = "Of weights: fp32, fp16, bf16; on GPUs of products: tf32, too."

EXAMPLES = (
    "graphprune compile my_models:Net -o slim.gp --weights slim.safetensors -i 1,3,32,32",
    "graphprune compile model.onnx -o slim-arm.gp --target arm-cortex-a72",
    "graphprune compile model.onnx -o slim.gp --tune 60 --threads 4 --measure",
)


def compile(
    given: Given,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The artifact: slim.gp")],
    target: Target = "x86",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to run with.")] = None,
    tune: Annotated[float | None, typer.Option(metavar="SECONDS", help=TUNE_HELP, show_default=False)] = None,
    separate: Annotated[bool, typer.Option("--separate-weights", help=SEPARATE_HELP)] = False,
    folder: Annotated[bool, typer.Option("--folder", help="Write a folder of parts instead of one file.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Time it here and store the latency in it.")] = False,
    examine: Annotated[bool, typer.Option("--examine", help="Count instructions, for graphprune inspect.")] = False,
    precision: Annotated[str, typer.Option(help=PRECISION_HELP, autocompletion=completing.precisions)] = "fp32",
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="On GPUs: launch all kernels at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compile a model, pruned or not, into one file that graphprune.load runs without PyTorch."""
    import graphprune

    from ..bench import inputs_of, named, positional

    check_out(out)
    with stages() as report_stage:
        example_inputs = given.example_inputs()
        loaded = given.load()
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
            report_stage("measure", 0, None)
            inputs = inputs_of(loaded, example_inputs, artifact)
            artifact.measure(*positional(inputs), **named(inputs))
        artifact.save(out, folder=folder)
    size = artifact.size
    tuning, latency = artifact.manifest.get("tuning"), artifact.manifest.get("latency")
    if as_json:
        more = {"tuning": tuning, "latency": latency}
        print_json({"target": target, "bytes": size, "out": str(out)} | {k: v for k, v in more.items() if v})
        return
    if latency:
        show(f"takes {latency['milliseconds']:.3f} ms on {latency['threads']} thread(s)")
    if tuning:
        show(report.tuning(tuning))
    show(f"written to {out}: {report.size(size)} for {target}")
