"""What an analysis found, for people: a table of groups, a summary of locks, a drawable graph."""

import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import networkx
import numpy as np

from .cost import CostModel
from .report import size
from .units import Units, build_units

if TYPE_CHECKING:
    from .analysis import Analysis


@dataclass(frozen=True)
class GroupRow:
    """All groups that touch the same axes: the channels of one width.

    `params` and `macs` are what dropping one of them saves; `status` is "free", "inexact" or "locked".
    """

    count: int
    params: int
    macs: int
    status: str
    reason: str
    unlock: str
    members: tuple[str, ...]


def group_rows(analysis: "Analysis") -> list[GroupRow]:
    """One row per width of the model, free ones first, largest first."""
    return list(rows_by_family(analysis).values())


def units_of(analysis: "Analysis") -> Units:
    """What is dropped at once, whatever its scores: the families of these units are the widths of the model."""
    return build_units(analysis, np.zeros(analysis.solution.count), analysis.free)


def rows_by_family(analysis: "Analysis") -> dict[int, GroupRow]:
    """The rows of `group_rows`, in their order, by the family of `units_of`."""
    solution, units = analysis.solution, units_of(analysis)
    model = CostModel.of(analysis)
    whole = model.cost(np.ones(solution.count, dtype=bool))
    members: dict[int, list[str]] = {}
    for (name, axis), classes in analysis.leaf_classes.items():
        for family in np.unique(units.family[units.of_class[classes]]):
            members.setdefault(int(family), []).append(f"{name}[{axis}]")
    rows = {}
    for family, names in members.items():
        own = np.flatnonzero(units.family == family)
        classes = np.flatnonzero(np.isin(units.of_class, own))
        alive = np.ones(solution.count, dtype=bool)
        alive[units.of_class == own[0]] = False
        cost = model.cost(alive)
        status, reason, unlock = _status(analysis, classes)
        saved = whole.params - cost.params, whole.macs - cost.macs
        rows[family] = GroupRow(own.size, *saved, status, reason, unlock, tuple(names))
    rank = {"free": 0, "inexact": 1, "locked": 2}
    return dict(sorted(rows.items(), key=lambda item: (rank[item[1].status], -item[1].params * item[1].count)))


def _status(analysis: "Analysis", classes: Any) -> tuple[str, str, str]:
    solution, equations = analysis.solution, analysis.equations
    for status, first, table in (
        ("locked", solution.locked, equations.locks),
        ("inexact", solution.inexact, equations.inexact),
    ):
        found = first[classes]
        if (found >= 0).any():
            reason = table[int(found[found >= 0].min())][1]
            return status, str(reason), reason.unlock
    return "free", "", ""


def explain(analysis: "Analysis", limit: int | None = None) -> str:
    """The groups as text: how many, what one of them costs, what locks them, how to unlock."""
    rows = group_rows(analysis)
    cost = analysis.cost()
    free = sum(row.count for row in rows if row.status == "free")
    lines = [
        f"{cost.params:,} parameters, {cost.macs:,} multiply-accumulates, "
        f"{size(cost.bytes)}, {size(cost.memory)} of activations at the peak; "
        f"{len(rows)} widths, {free:,} groups may be dropped",
        f"{'groups':>7} {'params each':>12} {'MACs each':>14}  {'status':<8} members",
    ]
    for row in rows[:limit]:
        shown = ", ".join(row.members[:3]) + (f" and {len(row.members) - 3} more" if len(row.members) > 3 else "")
        lines.append(f"{row.count:>7,} {row.params:>12,} {row.macs:>14,}  {row.status:<8} {shown}")
        if row.reason:
            lines.append(f"{'':>37}because {row.reason}" + (f"; way out: {row.unlock}" if row.unlock else ""))
    if limit is not None and len(rows) > limit:
        lines.append(f"... and {len(rows) - limit} more widths")
    return "\n".join(lines)


def lock_summary(analysis: "Analysis", limit: int = 5) -> str:
    """The locks that hold the most parameters, with the way out."""
    held: Counter[tuple[str, str]] = Counter()
    for row in group_rows(analysis):
        if row.status != "free":
            held[row.reason, row.unlock] += row.params * row.count
    lines = ["What stands in the way (parameters held):"]
    for (reason, unlock), params in held.most_common(limit):
        lines.append(f"  {params:>12,}  {reason}" + (f" -> {unlock}" if unlock else ""))
    return "\n".join(lines) if held else "No lock stands in the way; the last channel of every layer always stays."


def to_networkx(analysis: "Analysis") -> "networkx.Graph":
    """The coarse graph: one node per parameter axis, one per width; edges say which axis lies in which width."""
    graph = networkx.Graph()
    for number, row in enumerate(group_rows(analysis)):
        label = f"{row.count} x {row.params:,} params"
        facts = {"count": row.count, "params": row.params, "macs": row.macs, "status": row.status}
        graph.add_node(f"width {number}", kind="width", label=label, reason=row.reason, **facts)
        for member in row.members:
            graph.add_node(member, kind="axis", label=member)
            graph.add_edge(f"width {number}", member)
    return graph


def to_dot(analysis: "Analysis") -> str:
    """The coarse graph in Graphviz's language; free widths green, inexact yellow, locked red."""
    colours = {"free": "palegreen", "inexact": "khaki", "locked": "lightcoral"}
    graph = to_networkx(analysis)
    lines = ["graph graphprune {", "  rankdir=LR; node [fontname=Helvetica];"]
    for name, data in graph.nodes(data=True):
        style = "shape=box"
        if data["kind"] == "width":
            style = f'style=filled fillcolor={colours[data["status"]]} tooltip="{_quoted(data["reason"])}"'
        lines.append(f'  "{_quoted(name)}" [label="{_quoted(data["label"])}" {style}];')
    lines += [f'  "{_quoted(left)}" -- "{_quoted(right)}";' for left, right in graph.edges]
    return "\n".join([*lines, "}"])


def to_graphml(analysis: "Analysis") -> str:
    """The coarse graph as GraphML text, for yEd, Gephi or Cytoscape."""
    buffer = io.BytesIO()
    networkx.write_graphml(to_networkx(analysis), buffer)
    return buffer.getvalue().decode()


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
