"""`graphprune explain`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..progress import tell
from .options import AsJson, Given
from .output import print_json, stages, write

EXAMPLES = (
    "graphprune explain my_models:Net -i 1,3,32,32",
    "graphprune explain torchvision.models:resnet18 --dot groups.dot",
    "graphprune explain model.onnx --json",
)


def explain(
    given: Given,
    dot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the groups for Graphviz.")] = None,
    graphml: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the groups as GraphML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print which channels hang together, what each group costs, what is locked and how to unlock it."""
    import graphprune

    from ..explain import group_rows

    with stages():
        example_inputs = given.example_inputs()
        loaded = given.load(numbers=False)
        tell("analyse")
        analysis = graphprune.analyze(loaded, example_inputs=example_inputs)
    for path, text in ((dot, analysis.to_dot), (graphml, analysis.to_graphml)):
        if path:
            write(path, text())
    if as_json:
        cost, groups = analysis.cost(), [asdict(row) for row in group_rows(analysis)]
        print_json({**cost._asdict(), "groups": groups})
    else:
        print(analysis.explain())
