"""`graphprune runtime`."""

from pathlib import Path
from typing import Annotated

import typer

from .. import report
from .options import AsJson
from .output import check_out, print_json, show

LIBRARIES_HELP = (
    "Where libtvm_runtime.so and libtvm_ffi.so for another kind of machine lie; without it, those of this one."
)

EXAMPLES = ("graphprune runtime deploy", "graphprune runtime deploy-arm --libraries wheels/lib")


def runtime(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")],
    libraries: Annotated[Path | None, typer.Option(metavar="FOLDER", help=LIBRARIES_HELP)] = None,
    as_json: AsJson = False,
) -> None:
    """Collect what runs artifacts elsewhere: libraries, the loader for Python, the C interface and its sources."""
    from ..backends.collecting import collect

    check_out(out)
    sizes = collect(out, libraries)
    if as_json:
        print_json({"out": str(out), "sizes": sizes})
        return
    rows = [[name, report.size(size)] for name, size in sizes.items()]
    show(report.table("", ["", "size"], rows), f"written to {out}; {out / 'README.md'} says how to use it")
