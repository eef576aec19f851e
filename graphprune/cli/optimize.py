"""`graphprune optimize`."""

from typing import Annotated, Literal

import typer

from .. import report
from ..errors import BudgetError
from . import completing
from .options import AsJson, Given, Slim, Thorough, check_slim
from .output import print_json, show, stages
from .pruning import Pruning

STRUCTURE_HELP = (
    "What goes: [b]channel[/b], or single weights, which become zero: [b]unstructured[/b], [b]2:4[/b] or any n:m, "
    "[b]block:16x1[/b]."
)
RECOVER_HELP = "Accuracy back without training, from --data or from batch-norm statistics."
INSIST_HELP = "Take the pruned model although it is measured to be no faster."

EXAMPLES = (
    "graphprune optimize my_models:Net -o slim.safetensors --sparsity 0.5 -i 1,3,32,32",
    "graphprune optimize model.onnx -o slim.onnx --budget macs",
    "graphprune optimize my_models:Net -o slim.safetensors --data batches.npz --criterion taylor --recover bias",
)


def optimize(
    given: Given,
    out: Slim,
    pruning: Pruning,
    structure: Annotated[
        str, typer.Option(metavar="WORD", help=STRUCTURE_HELP, autocompletion=completing.structures)
    ] = "channel",
    recover: Annotated[Literal["least_squares", "bias", "batch_norm"] | None, typer.Option(help=RECOVER_HELP)] = None,
    insist: Annotated[bool, typer.Option("--insist", help=INSIST_HELP)] = False,
    thorough: Thorough = False,
    as_json: AsJson = False,
) -> None:
    """Remove channels or weights until at most 1 - SPARSITY of the budget is left, verify, and write the result.

    The file ending decides: .safetensors holds weights and plan (read by graphprune.load_weights), .pt2 a program;
    of an ONNX model an .onnx file is made.
    """
    from ..passes.chosen import passes_for
    from ..passes.pipeline import Program, run_passes

    check_slim(out)
    asked = pruning.asked() | {"structure": structure, "recover": recover or False, "insist": insist}
    with stages() as report_stage:
        passes = passes_for(asked, report_stage, thorough)
        program = Program(given.load(), given.example_inputs())
        given.source.check_ending(program.model, out)
        program = run_passes(program, passes, before=lambda step, _: report_stage(step.name, 0, None))
        if "unchanged" in program.report:
            raise BudgetError("what pruning leaves is not faster, so nothing is written; --insist writes it")
        given.source.save(program.model, out, program.example_inputs)
    found = program.report
    if as_json:
        print_json(report.facts(found) | {"out": str(out)})
    else:
        show(report.optimized(found), *report.remarks(found), f"written to {out}")
