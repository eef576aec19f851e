"""`graphprune verify`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, Given, Thorough
from .output import print_json, stages

SLIM_HELP = "The pruned model: slim.safetensors, slim.onnx or slim.pt2."
PLAN_HELP = "The plan that made it; a program (slim.pt2) does not hold its own, other files do."

EXAMPLES = (
    "graphprune verify my_models:Net slim.safetensors --thorough -i 1,3,32,32",
    "graphprune verify model.onnx slim.onnx",
    "graphprune verify my_models:Net slim.pt2 --plan plan.json -i 1,3,32,32",
)


def verify(
    given: Given,
    slim: Annotated[Path, typer.Argument(metavar="SLIM", help=SLIM_HELP)],
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help=PLAN_HELP)] = None,
    thorough: Thorough = False,
    as_json: AsJson = False,
) -> None:
    """Check that a pruned model computes what the original computes with the same channels set to zero."""
    import graphprune

    alone = slim.suffix in (".onnx", ".pt2")
    pruned = replace(given, model=str(slim), weights=None) if alone else replace(given, weights=slim)
    decision = None if plan is None else graphprune.Plan.load(plan)
    with stages():
        loaded, original, inputs = pruned.load(), given.load(), given.example_inputs()
        verified = graphprune.verify(original, loaded, decision, example_inputs=inputs, thorough=thorough)
    if as_json:
        print_json(asdict(verified))
    else:
        print(verified)
