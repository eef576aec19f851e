"""The frontend for nn.Module and fx.GraphModule."""

from typing import Any

import torch
from torch import fx

from ...analysis import Analysis
from ...errors import ApplyError
from ...plan import Plan
from ...shapes import living, mismatches
from .difference import first_difference
from .inputs import Inputs, normalise, rebuild
from .norms import mend_norms
from .read import analyze, trace
from .rewriting import as_graph_module, rewrite
from .run import inputs_of, outputs
from .slicing import shapes_of, slim_copy
from .weights import load_weights, save_weights

__all__ = [
    "analyze",
    "apply",
    "example_inputs_of",
    "first_difference",
    "inputs_of",
    "load_weights",
    "note_of",
    "outputs",
    "plan_of",
    "save_weights",
]

_PLAN = "_graphprune_plan"
_NOTE = "graphprune"


def apply(
    module: torch.nn.Module, plan: Plan, example_inputs: Any = None, analysis: Analysis | None = None
) -> torch.nn.Module:
    """A slim copy of the same class; a GraphModule with rewritten sizes where `forward` has them written in."""
    plan.check(shapes_of(module))
    inputs = normalise(example_inputs) if example_inputs is not None else rebuild(plan.inputs)
    analysis = analysis or analyze(module, inputs, plan.policy)
    slim = slim_copy(module, plan)
    mend_norms(slim, analysis, plan)
    problem = _problem(slim, plan, analysis, inputs)
    if problem:
        slim = _as_graph(module, plan, analysis, inputs, problem)
    attach_plan(slim, module, plan)
    return slim


def attach_plan(slim: Any, origin: Any, plan: Plan) -> None:
    """Let a pruned program remember its plan, composed with the one that made its origin."""
    earlier = plan_of(origin)
    setattr(slim, _PLAN, plan if earlier is None else earlier.then(plan))


def plan_of(model: Any) -> Plan | None:
    """The plan that made a pruned model, from the model before its first pruning to now; None if it was not."""
    return getattr(model, _PLAN, None)


def note_of(model: Any) -> str | None:
    """What a user should know of how a pruned model was made: why a GraphModule came out; None where nothing is odd."""
    return model.meta.get(_NOTE) if isinstance(model, fx.GraphModule) else None


def _problem(slim: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs) -> str | None:
    """The first thing that the slim module does differently from what the labels predict."""
    try:
        graph, _ = trace(slim, inputs)
    except Exception as error:
        return f"it does not run after pruning: {str(error).splitlines()[0]}"
    return next(mismatches(analysis, plan, graph, living(analysis, plan)), None)


def _as_graph(module: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs, problem: str) -> fx.GraphModule:
    whole = as_graph_module(module, inputs)
    if whole is not module:
        analysis = analyze(whole, inputs, plan.policy)
    slim = slim_copy(whole, plan)
    mend_norms(slim, analysis, plan)
    assert isinstance(slim, fx.GraphModule)
    rewrite(slim, analysis, plan, living(analysis, plan))
    left = _problem(slim, plan, analysis, inputs)
    if left:
        raise ApplyError(
            f"{type(module).__name__} cannot be kept right with the new sizes. In its own code: {problem}. "
            f"As a rewritten graph: {left}. Take sizes from tensors in forward(), or pass keep= for these layers."
        )
    if whole is not module:
        slim.meta[_NOTE] = f"sizes are written into forward(), so a GraphModule was made: {problem}"
    return slim


def example_inputs_of(module: torch.nn.Module, example_inputs: Any) -> Any:
    """Example inputs as the compiler takes them; inferred where they are not given."""
    if example_inputs is None:
        plan = plan_of(module)
        inputs = rebuild(plan.inputs) if plan is not None and plan.inputs else trace(module)[1]
    else:
        inputs = normalise(example_inputs)
    return inputs.as_given()
