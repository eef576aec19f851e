"""`graphprune verify`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, Given, Thorough
from .output import print_json, stages

EXAMPLES = (
    "graphprune verify my_models:Net slim.safetensors --thorough -i 1,3,32,32",
    "graphprune verify model.onnx slim.onnx",
)


def verify(
    given: Given,
    slim: Annotated[Path, typer.Argument(metavar="SLIM", help="What optimize wrote: slim.safetensors or slim.onnx")],
    thorough: Thorough = False,
    as_json: AsJson = False,
) -> None:
    """Check that a pruned model computes what the original computes with the same channels set to zero."""
    import graphprune

    pruned = replace(given, model=str(slim), weights=None) if slim.suffix == ".onnx" else replace(given, weights=slim)
    with stages():
        loaded, original, inputs = pruned.load(), given.load(), given.example_inputs()
        verified = graphprune.verify(original, loaded, example_inputs=inputs, thorough=thorough)
    if as_json:
        print_json(asdict(verified))
    else:
        print(verified)
