"""`graphprune targets`."""

from dataclasses import asdict

from .. import report
from .options import AsJson
from .output import print_json, show

EXAMPLES = ("graphprune targets", "graphprune targets --json")


def targets(as_json: AsJson = False) -> None:
    """List the machines to compile for, and what this one lacks to run or to build their artifacts."""
    from ..backends.survey import survey

    rows = survey()
    if as_json:
        print_json({"targets": [asdict(row) | {"runs": row.runs, "builds": row.builds} for row in rows]})
    else:
        show(report.targets(rows))
