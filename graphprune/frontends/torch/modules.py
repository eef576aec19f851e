"""The frontend for nn.Module and fx.GraphModule."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx

from ...analysis import Analysis
from ...errors import ApplyError, GraphPruneError, PlanError
from ...labels import Labels
from ...plan import Plan
from ...reconstruction import Recovery
from ...shapes import Mismatch, changing_scopes, living, mismatches, shrinking
from ...transfer import fitted
from .calibrate import Calibration
from .configs import NOTE, express, has_config
from .difference import first_difference
from .inputs import Inputs, normalise, own_form, rebuild
from .masked import finalize, hold_masks, masks_of, sliced, with_masks
from .norms import mend_norms
from .parts import rewrite_parts, same_kind
from .provenance import origins_of, set_attributes
from .read import analyze, trace
from .record import record_partly
from .recovery import recovered
from .rewriting import graph_modules, rewrite
from .run import inputs_of, outputs
from .semi_structured import to_semi_structured
from .slicing import shapes_of, slim_copy
from .training import attach
from .weights import load_weights, save_weights

__all__ = [
    "analyze",
    "apply",
    "calibration",
    "attach",
    "example_inputs_of",
    "finalize",
    "first_difference",
    "hold_masks",
    "inputs_of",
    "last_plan_of",
    "load_weights",
    "masks_of",
    "note_of",
    "outputs",
    "plan_of",
    "recover",
    "save_weights",
    "to_semi_structured",
    "with_masks",
]

PLAN = "_graphprune_plan"
_LAST = "_graphprune_last_plan"
_NOTE = "_graphprune_note"


def apply(
    module: torch.nn.Module, plan: Plan, example_inputs: Any = None, analysis: Analysis | None = None
) -> torch.nn.Module:
    """A slim copy of the same class; a GraphModule with rewritten sizes where `forward` has them written in."""
    plan = replace(plan, inputs=own_form(plan.inputs, module))
    plan, moved = fitted(plan, shapes_of(module), lambda: _analysis_for(plan, module, example_inputs))
    inputs = normalise(example_inputs) if example_inputs is not None else rebuild(plan.inputs)
    analysis = moved or analysis or analyze(module, inputs, plan.policy)
    slim = slim_copy(module, plan)
    mend_norms(slim, analysis, plan)
    setattr(slim, _NOTE, None)
    problem = _problem(slim, plan, analysis, inputs)
    if problem and not isinstance(module, fx.GraphModule):  # whose sizes are written into its code
        set_attributes(slim, module, origins_of(module, plan, analysis, inputs))
        problem = _problem(slim, plan, analysis, inputs)
        problem = problem and _rewrite_parts(slim, module, plan, analysis, inputs, problem)
    if problem:
        slim = _as_graph(module, slim, plan, analysis, inputs, problem)
    elif has_config(slim) and not express(slim, module, plan, analysis, inputs):
        setattr(slim, _NOTE, "; ".join(filter(None, [note_of(slim), NOTE])))
    attach_plan(slim, module, plan)
    sliced(slim, module, plan)
    return slim


def _analysis_for(plan: Plan, module: torch.nn.Module, example_inputs: Any) -> Analysis:
    """An analysis to carry a plan over to, with the sizes that the plan was made with unless others are given."""
    given = example_inputs is not None or not plan.inputs
    return analyze(module, example_inputs if given else rebuild(plan.inputs), plan.policy)


def attach_plan(slim: Any, origin: Any, plan: Plan) -> None:
    """Let a pruned program remember its plan, composed with the one that made its origin."""
    earlier = plan_of(origin)
    setattr(slim, PLAN, plan if earlier is None else earlier.then(plan))
    setattr(slim, _LAST, plan)


def plan_of(model: Any) -> Plan | None:
    """The plan that made a pruned model, from the model before its first pruning to now; None if it was not."""
    return getattr(model, PLAN, None)


def last_plan_of(model: Any) -> Plan | None:
    """The plan of the last pruning of a model alone; None where it was not pruned."""
    return getattr(model, _LAST, None)


def recover(
    original: torch.nn.Module, slim: torch.nn.Module, plan: Plan, analysis: Analysis, *rest: Any
) -> tuple[torch.nn.Module, Recovery]:
    """A copy of `slim` whose weights make up for what is gone, which remembers its plan; `slim` where nothing was won.

    Further arguments are data, method and progress; see `recovery`.
    """
    better, recovery = recovered(original, slim, plan, analysis, *rest)
    if better is not slim:
        remember_recovery(better, slim, recovery)
        setattr(better, _NOTE, note_of(slim))  # copies of graphs forget it
    return better, recovery


def remember_recovery(better: Any, slim: Any, recovery: Recovery) -> None:
    """Let a recovered program remember the plan of the one that it was made from, and what was won."""
    plan = copy.deepcopy(plan_of(slim))
    if plan is not None:
        plan.report["recovery"] = recovery.as_json()
    setattr(better, PLAN, plan)


def note_of(model: Any) -> str | None:
    """What a user should know of how a pruned model was made: why a GraphModule came out; None where nothing is odd."""
    return getattr(model, _NOTE, None)


def _problem(slim: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs) -> str | None:
    """The first thing that the slim module does differently from what the labels predict."""
    try:
        graph, _ = trace(slim, inputs)
    except Exception as error:
        return f"it does not run after pruning: {str(error).splitlines()[0]}"
    first = next(mismatches(analysis, plan, graph, living(analysis, plan)), None)
    return first.text if first else None


def _first(slim: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs) -> Mismatch | None:
    """Where the slim module first does something else than the labels predict, also where it fails there."""
    return next(mismatches(analysis, plan, record_partly(slim, inputs), living(analysis, plan)), None)


def _blame(slim: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs) -> Labels:
    """The classes that were to shrink at that place, and where other modules of that kind run such an operation."""
    first, alive = _first(slim, plan, analysis, inputs), living(analysis, plan)
    if first is None:
        return np.zeros(0, dtype=np.int64)
    kind = same_kind(slim, first.node.scope) if first.node.scope else set()
    others = [node for node in analysis.graph.nodes if node.scope in kind and node is not first.node]
    alike = [node for node in others if node.op == first.node.op]
    labels = np.concatenate([first.labels, *(shrinking(analysis, node, alive) for node in alike)])
    return np.unique(analysis.solution.classes[labels])


def _rewrite_parts(
    slim: torch.nn.Module, module: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs, problem: str
) -> str | None:
    """Rewrite the code of submodules of the slim module, kind by kind, in place; the problem that is left."""
    alive, rewritten = living(analysis, plan), set[str]()
    changing = changing_scopes(analysis, alive)
    left: str | None = problem
    while left:
        first = _first(slim, plan, analysis, inputs)
        if first is None or not first.node.scope or first.node.scope in rewritten:
            return left
        paths = same_kind(module, first.node.scope) & changing | {first.node.scope}
        if not rewrite_parts(slim, module, paths, analysis, plan, alive, inputs):
            return left
        rewritten |= paths
        left = _problem(slim, plan, analysis, inputs)
    setattr(slim, _NOTE, f"sizes are written into the code of {len(rewritten)} parts, which were rewritten: {problem}")
    return None


def _as_graph(
    module: torch.nn.Module, kept: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs, problem: str
) -> fx.GraphModule:
    """A slim GraphModule with rewritten sizes, where `kept`, which keeps the class, has a problem."""
    failures: list[ApplyError] = []
    try:
        for whole in graph_modules(module, inputs):
            try:
                slim = _rewritten(whole, plan, analysis, inputs)
            except ApplyError as error:
                failures.append(error)
                continue
            if whole is not module:
                _keep_modes(slim, module)
                setattr(slim, _NOTE, f"sizes are written into forward(), so a GraphModule was made: {problem}")
            return slim
    except ApplyError as error:
        failures.append(ApplyError(str(error), _blame(kept, plan, analysis, inputs)))
    blames = [error.blame for error in failures if error.blame.size]
    raise ApplyError(
        f"{type(module).__name__} cannot be kept right with the new sizes. In its own code: {problem}. "
        f"As a rewritten graph: {failures[0]}. Take sizes from tensors in forward(), or pass keep= for these layers.",
        blames[0] if blames else _blame(kept, plan, analysis, inputs),
    )


def _rewritten(whole: fx.GraphModule, plan: Plan, analysis: Analysis, inputs: Inputs) -> fx.GraphModule:
    """A slim copy of a model as a graph. Raises `ApplyError` with what it does wrong, and the classes to blame."""
    try:
        told = analyze(whole, inputs, plan.policy)
        alive = living(told, plan)
    except PlanError as error:  # tracing has computed constants from stored tensors that the plan slices
        raise ApplyError(f"constants were computed from tensors that were to be sliced ({error})") from error
    except GraphPruneError as error:  # what tracing gave does not run
        raise ApplyError(f"as a graph, {str(error).splitlines()[0]}") from error
    for labels, reason in told.equations.locks:  # tracing may have hidden where positions come from
        if reason.node is not None and not alive[labels].all():
            held = np.unique(told.solution.classes[labels[~alive[labels]]])
            raise ApplyError(f"as a graph, {reason}", _counterparts(held, told, analysis))
    slim = slim_copy(whole, plan)
    mend_norms(slim, told, plan)
    assert isinstance(slim, fx.GraphModule)
    rewrite(slim, told, plan, alive)
    left = _problem(slim, plan, told, inputs)
    if left:
        raise ApplyError(left, _counterparts(_blame(slim, plan, told, inputs), told, analysis))
    return slim


def _keep_modes(slim: fx.GraphModule, module: torch.nn.Module) -> None:
    """Train or eval as in the original: an exported graph refuses train() and eval()."""
    modes = {name: part.training for name, part in module.named_modules()}
    for name, part in slim.named_modules():
        part.training = modes.get(name, module.training)


def _counterparts(blame: Labels, told: Analysis, analysis: Analysis) -> Labels:
    """Classes of one analysis that hold the same positions of stored tensors as classes of another one."""
    own = analysis.leaf_classes
    pairs = [(classes.ravel(), own[key].ravel()) for key, classes in told.leaf_classes.items() if key in own]
    found = [mine[np.isin(theirs, blame)] for theirs, mine in pairs if mine.size == theirs.size]
    return np.unique(np.concatenate(found)) if found else blame[:0]


def calibration(module: torch.nn.Module, example_inputs: Any, data: Any, criterion: str) -> Calibration:
    """A copy of a module that runs calibration batches."""
    plan = plan_of(module)
    known = example_inputs is None and plan is not None and plan.inputs
    example = rebuild(plan.inputs) if known and plan else trace(module, example_inputs)[1]
    return Calibration(module, example, data, criterion)


def example_inputs_of(module: torch.nn.Module, example_inputs: Any) -> Any:
    """Example inputs as the compiler takes them; inferred where they are not given."""
    if example_inputs is None:
        plan = plan_of(module)
        inputs = rebuild(plan.inputs) if plan is not None and plan.inputs else trace(module)[1]
    else:
        inputs = normalise(example_inputs)
    return inputs.as_given()
