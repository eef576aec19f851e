"""`graphprune plan`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import report
from ..errors import BudgetError
from .options import AsJson, Given
from .output import check_out, print_json, show, stages
from .pruning import Pruning

EXAMPLES = (
    "graphprune plan my_models:Net -o plan.json --sparsity 0.5 -i 1,3,32,32",
    "graphprune plan model.onnx -o plan.json --budget macs --keep 'layer4.*'",
)


def plan(
    given: Given,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The plan: plan.json")],
    pruning: Pruning,
    as_json: AsJson = False,
) -> None:
    """Decide which channels go, without writing a model: print what each layer keeps, and write the plan.

    graphprune apply makes the pruned model from it. A plan is tried on a copy of the model before it is written.
    """
    from ..passes.chosen import passes_for
    from ..passes.pipeline import Program, run_passes

    check_out(out, ".json")
    asked = pruning.asked() | {"verify": False}
    with stages() as report_stage:
        passes = passes_for(asked, report_stage)
        program = Program(given.load(), given.example_inputs())
        program = run_passes(program, passes, before=lambda step, _: report_stage(step.name, 0, None))
        if program.plan is None:
            raise BudgetError("what pruning leaves is not faster, so there is no plan")
        program.plan.save(out)
    found, layers = program.report, _layers(program.plan.kept, program.plan.shapes)
    if as_json:
        facts = {name: value for name, value in report.facts(found).items() if name != "verification"}
        print_json(facts | {"layers": layers, "exact": program.plan.exact, "out": str(out)})
        return
    rows = [[name, _sizes(sizes["before"]), _sizes(sizes["after"])] for name, sizes in layers.items()]
    show(report.table("", ["layer", "before", "after"], rows), report.optimized(found))
    show(*filter(None, [found.get("note") and f"note: {found['note']}"]), f"written to {out}")


def _layers(kept: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, list[int]]]:
    """The shapes before and after of the weights that shrink; biases and statistics go with them."""
    found = {}
    for name, axes in kept.items():
        if len(shapes[name]) > 1:
            after = [axes[axis].shape[-1] if axis in axes else size for axis, size in enumerate(shapes[name])]
            found[name] = {"before": list(shapes[name]), "after": after}
    return found


def _sizes(shape: list[int]) -> str:
    return " x ".join(map(str, shape))
