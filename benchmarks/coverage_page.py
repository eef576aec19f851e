"""The page of the coverage benchmark: docs/coverage.md."""

from collections.abc import Iterable
from typing import Any

from common import machine, page
from coverage_models import FAMILIES
from graphprune import report

Record = dict[str, Any]
Records = dict[tuple[str, str, str], Record]
OURS, THEIRS = "graphprune", "torch-pruning"

SUMMARY = (
    "family",
    "models",
    "proved",
    "at <= 50 %",
    "refused",
    "other",
    "Torch-Pruning ok",
    "both",
    "CPU s",
    "Torch-Pruning CPU s",
)
MODELS = (
    "model",
    "parameters",
    "left",
    "MACs left",
    "result",
    "error",
    "optimize",
    "verify",
    "Torch-Pruning",
    "its CPU s",
)

TEXT = """
Printed by `python benchmarks/coverage.py`. {machine}.

Every model has random weights; constant ones (zero heads, layer scales of 1e-6) are randomised, and batch-norm
statistics are taken from its inputs, so that what goes in moves what comes out. Half of the parameters are asked for.

- *proved*: `graphprune.verify` found the pruned model equal to the masked original in float64; *error* is the largest
  difference relative to the largest output. Where half was out of reach, as much as can go was dropped, and what is in
  the way is named below. *refused*: the call raised an error that says why. *other*: a crash, a timeout, a wrong
  result, or outputs that no input moves.
- *Torch-Pruning*: `BasePruner` with global `GroupMagnitudeImportance(p=2)`, told of the model only which layers make
  the outputs. *ok*: at most half of the parameters are left, the model runs, and its outputs have the shapes that they
  had; what it computes is not compared. *-*: not measured.
- *CPU s*: processor seconds of one thread: `graphprune.optimize(verify=False)`, with *verify* beside it, and
  constructor and `step()` of the pruner at the first ratio of {ratios} that meets the budget.
  Records are kept and taken up again: they may come from several sittings, on a machine busy with other work.
  The sums in the first table are over the models that *both* did. The slowest `optimize` took {slowest}.
"""


def write_page(records: Records) -> None:
    """Write docs/coverage.md from all records."""
    from coverage_one import RATIOS

    rows = [_summary(family, _of(records, family)) for family in FAMILIES]
    rows.append(_summary(None, records.values()))
    slow = max((r for r in records.values() if r["tool"] == OURS and "seconds" in r), key=lambda r: r["seconds"])
    ratios = ", ".join(map(str, RATIOS))
    slowest = f"{slow['seconds']:.1f} s ({slow['name']})"
    text = TEXT.format(machine=machine(1, "torch-pruning", *_packages()), ratios=ratios, slowest=slowest)
    sections = []
    for key, family in FAMILIES.items():
        own = [r for r in _of(records, key) if r["tool"] == OURS]
        lines = [_line(record, records.get((key, record["name"], THEIRS), {"status": "-"})) for record in own]
        sections.append(f"## {family.title}\n\n{report.markdown(MODELS, lines)}\n{_notes(own)}".strip())
    page("coverage", "Coverage", text, (SUMMARY, rows), more=sections, folder="")


def _packages() -> tuple[str, ...]:
    return "torchvision", "timm", "transformers"


def _of(records: Records, family: str) -> list[Record]:
    return sorted((r for r in records.values() if r["family"] == family), key=lambda r: r["name"])


def _summary(family: str | None, records: Iterable[Record]) -> list[str]:
    records = list(records)
    ours = {(r["family"], r["name"]): r for r in records if r["tool"] == OURS}
    theirs = {(r["family"], r["name"]): r for r in records if r["tool"] == THEIRS}
    proved = {name for name, record in ours.items() if record["status"] == "proved"}
    good = {name for name, record in theirs.items() if record["status"] == "ok"}
    half = {name for name in proved if _left(ours[name], "params") <= 0.5}
    refused = sum(record["status"] == "refused" for record in ours.values())
    both = half & good
    seconds = [f"{sum(table[name]['seconds'] for name in both):.1f}" for table in (ours, theirs)]
    counts = len(ours), len(proved), len(half), refused, len(ours) - len(proved) - refused
    return [
        FAMILIES[family].title if family else "**all**",
        *map(str, counts),
        f"{len(good)} of {len(theirs)}",
        str(len(both)),
        *seconds,
    ]


def _left(record: Record, quantity: str) -> float:
    before, after = record[quantity]
    return float(after / before) if before else 1.0


def _line(ours: Record, theirs: Record) -> list[str]:
    result = ours["status"]
    if result == "proved":
        result += "" if ours["kind"] == "class" else ", as a GraphModule"
        result += "" if ours["exact"] else ", inexact groups"
    shares = [f"{100 * _left(ours, key):.1f} %" if key in ours else "-" for key in ("params", "macs")]
    error = f"{ours['error']:.0e}" if "error" in ours else "-"
    times = [_seconds(ours, "seconds"), _seconds(ours, "verify")]
    other = theirs["status"]
    return [
        ours["name"],
        report.count(ours.get("size", 0)),
        *shares,
        result,
        error,
        *times,
        other,
        _seconds(theirs, "seconds"),
    ]


def _seconds(record: Record, key: str) -> str:
    return f"{record[key]:.2f} s" if key in record else "-"


def _notes(records: list[Record]) -> str:
    """What is in the way of models that were refused, failed, kept more than half, or became a GraphModule."""
    lines = []
    for record in records:
        if "reason" in record:
            lines.append(f"- **{record['name']}**: {_plain(record['reason'])}")
        if record.get("note"):
            lines.append(f"- **{record['name']}**: {_plain(record['note'])}")
        for lock in record.get("locks", [])[:4]:
            lines.append(f"- **{record['name']}** (half is out of reach): {_plain(lock)}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").strip("- ")
