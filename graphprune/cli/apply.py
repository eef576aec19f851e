"""`graphprune apply`."""

from pathlib import Path
from typing import Annotated

import typer

from .. import report
from ..progress import tell
from .options import AsJson, Given, Slim, Thorough, check_slim
from .output import print_json, show, stages

EXAMPLES = (
    "graphprune apply my_models:Net plan.json -o slim.safetensors -i 1,3,32,32",
    "graphprune apply model.onnx plan.json -o slim.onnx",
)


def apply(
    given: Given,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="What graphprune plan wrote: plan.json")],
    out: Slim,
    thorough: Thorough = False,
    as_json: AsJson = False,
) -> None:
    """Prune a model by a plan, verify, and write the result.

    The plan may be one of another training of the same model, or of the model that this one was exported from.
    """
    from ..equivalence import compare
    from ..frontends import frontend_of
    from ..plan import Plan

    check_slim(out)
    decision = Plan.load(plan)
    with stages():
        model, inputs = given.load(), given.example_inputs()
        given.source.check_ending(model, out)
        tell("apply the plan")
        slim = decision.apply(model, inputs)
        own = frontend_of(slim).plan_of(slim)
        verified = compare(frontend_of(model), model, slim, own, inputs, thorough, strict=False)
        given.source.save(slim, out, inputs)
    found = {**own.report, "verification": verified}
    if as_json:
        print_json(report.facts(found) | {"out": str(out)})
    else:
        show(report.optimized(found), *report.remarks(found), f"written to {out}")
