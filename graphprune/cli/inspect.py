"""`graphprune inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson
from .output import print_json, show

EXAMPLES = ("graphprune inspect slim.gp", "graphprune inspect slim.gp --json")


def inspect(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="What compile wrote: slim.gp")],
    as_json: AsJson = False,
) -> None:
    """Check an artifact, without running it, and print what it takes, returns, needs and holds."""
    from ..backends.contents import contents
    from ..backends.static_cost import static_cost

    found = contents(artifact)
    if as_json:
        print_json(found.figures())
        return
    show(str(found))
    if "code" in found.manifest:
        show(static_cost(found.manifest).table())
