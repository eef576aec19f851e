"""Plans travel: from a module to its ONNX export and back, or to a copy under other names.

Tensors are found again by contents or by name, dropped positions become classes of the analysis at hand, and all that
hangs together with them goes. Whether this is what the plan meant is proved by its costs: multiply-accumulates before
and after stand in the same ratio as they did, to the last one.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cost import Cost, CostModel
from .errors import ExampleInputsError, PlanError, TraceError
from .graph import Shape
from .plan import Plan
from .shapes import dropped_positions
from .sketches import Sketch, alike, is_matrix, sketch

if TYPE_CHECKING:
    from .analysis import Analysis

FOREIGN = "this plan was made for another model"


class Match(NamedTuple):
    """A tensor that a plan slices, the one that it is here, and whether that is the transposed."""

    name: str
    leaf: str
    flipped: bool

    def axis(self, axis: int) -> int:
        """Where an axis of the plan's tensor lies here."""
        return 1 - axis if self.flipped else axis


def fitted(
    plan: Plan, shapes: Mapping[str, Shape], analyse: Callable[[], "Analysis"]
) -> "tuple[Plan, Analysis | None]":
    """The plan itself where it was made for a model with these tensors; else one for this model, and its analysis."""
    if plan.fits(shapes):
        return plan, None
    try:
        analysis = analyse()
    except (TraceError, ExampleInputsError) as error:
        raise PlanError(f"{FOREIGN}, and this one cannot be traced to carry it over: {error}") from error
    return transfer(plan, analysis), analysis


def transfer(plan: Plan, analysis: "Analysis") -> Plan:
    """The same decision for another form of the model: a plan made on a module for its export, or the other way round.

    Raises `PlanError` where a tensor is not found, where more would go than the plan says, or what is locked here.

    ```python
    import torch, graphprune
    from graphprune.transfer import transfer

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    plan = graphprune.analyze(net).plan(0.5)
    renamed = torch.nn.ModuleDict({"body": net})["body"]
    print(transfer(plan, graphprune.analyze(renamed)).widths())
    ```
    """
    matches = list(_matches(plan, analysis))
    dead = np.zeros(analysis.solution.count, dtype=bool)
    for match in matches:
        for members, dropped in _axes(plan, analysis, match):
            dead[members[dropped]] = True
    _check_locks(analysis, dead)
    for match in matches:
        _check_whole(plan, analysis, match, dead)
    model = CostModel.of(analysis)
    before, after = model.cost(np.ones(dead.size, dtype=bool)), model.cost(~dead)
    _check_costs(plan, analysis, matches, before, after)
    return Plan.of(analysis, ~dead, plan.options, before._asdict(), after._asdict())


def _matches(plan: Plan, analysis: "Analysis") -> Iterator[Match]:
    """The matrices that a plan slices with their counterparts here; those that are not found are left out."""
    shapes = {name: leaf.shape for name, leaf in analysis.graph.leaves.items() if is_matrix(leaf.shape)}

    @cache
    def known(name: str, flipped: bool) -> Sketch:
        numbers = analysis.weights(name)
        return sketch(numbers.T if flipped else numbers)

    for name, shape in plan.shapes.items():
        if not is_matrix(shape):  # vectors follow: exporters fold them away, or merge equal ones
            continue
        forms = [Match(name, leaf, False) for leaf, size in shapes.items() if size == shape]
        if len(shape) == 2:
            forms += [Match(name, leaf, True) for leaf, size in shapes.items() if size == shape[::-1]]
        named = [form for form in forms if form.leaf == name]
        wanted = plan.sketches.get(name, [])
        same = [form for form in named if alike(wanted, known(form.leaf, form.flipped))]
        same = same or [form for form in forms if alike(wanted, known(form.leaf, form.flipped))]
        if len(same) == 1 or not same and named:  # trained on since then: the name has to do
            yield (same or named)[0]


def _axes(plan: Plan, analysis: "Analysis", match: Match) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """For every labelled axis of a tensor that was found: its classes, and which positions the plan drops."""
    for axis in range(len(plan.shapes[match.name])):
        here, index = match.axis(axis), plan.kept.get(match.name, {}).get(axis)
        members = analysis.leaf_classes.get((match.leaf, here))
        if members is not None:
            none = np.zeros(members.shape, dtype=bool)
            yield members, none if index is None else dropped_positions(index, members, match.leaf, here)
        elif index is not None:
            raise PlanError(f"{FOREIGN}: it slices axis {here} of {match.leaf}, which carries no channels here")


def _check_locks(analysis: "Analysis", dead: NDArray[np.bool_]) -> None:
    locked = analysis.solution.locked[dead & (analysis.solution.locked >= 0)]
    if locked.size:
        reason = analysis.equations.locks[locked[0]][1]
        raise PlanError(f"this plan drops positions that are locked here: {reason}. Make a plan for this model.")


def _check_whole(plan: Plan, analysis: "Analysis", match: Match, dead: NDArray[np.bool_]) -> None:
    """Of a tensor that was found, exactly those positions go that the plan drops."""
    if any((dead[members] != dropped).any() for members, dropped in _axes(plan, analysis, match)):
        raise PlanError(f"{FOREIGN}, or edited: with what it drops, positions of {match.leaf} would go that it keeps")


def _check_costs(plan: Plan, analysis: "Analysis", matches: list[Match], before: Cost, after: Cost) -> None:
    """Nothing was missed and nothing went besides: every matrix that shrinks shows in the multiply-accumulates."""
    was, left = plan.report.get("macs", (0, 0))
    if was and matches and was * after.macs == left * before.macs:
        return
    found = {match.name for match in matches}
    lost = [name for name, shape in plan.shapes.items() if is_matrix(shape) and name not in found]
    if lost:
        raise PlanError(f"{FOREIGN}: {_missing(lost[0], plan, analysis)}")
    raise PlanError(
        f"{FOREIGN}: it leaves {left:,} of {was:,} multiply-accumulates there, and {after.macs:,} of {before.macs:,} "
        "here. If it is the same model, pass example_inputs of the sizes that the plan was made with."
    )


def _missing(name: str, plan: Plan, analysis: "Analysis") -> str:
    shape, leaf = tuple(plan.shapes[name]), analysis.graph.leaves.get(name)
    if leaf is not None and leaf.shape != shape:
        return f"{name} has shape {leaf.shape} here and {shape} there"
    return f"it slices {name} of shape {shape}, and no tensor here is known by its name or its numbers to be that one"
