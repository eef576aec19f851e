"""The frontend for ONNX: a path, an onnx.ModelProto, an onnx_ir.Model or an onnx_graphsurgeon.Graph."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ...analysis import Analysis
from ...collector import collector_paused
from ...errors import ApplyError, ExampleInputsError, FileFormatError
from ...packing import packed, unpacked
from ...plan import Plan
from ...policy import DEFAULT, Policy
from ...reconstruction import Recovery
from ...shapes import Mismatch, living, mismatches
from ...transfer import fitted
from . import files, saving
from .checking import first_difference, inputs_of, other_sizes, outputs, runner
from .collect import collect
from .inputs import HOW, candidates, describe, grown, normalise, opened, own_form, real_inputs, sizes_of
from .read import analyse, prepare, read, shapes_of
from .recovery import recovered
from .slim import slim_model
from .sparse import MASKS, masks_of, with_masks
from .tracing import Trace, first_name, trace

__all__ = [
    "analyze",
    "apply",
    "example_inputs_of",
    "first_difference",
    "inputs_of",
    "loaded",
    "masks_of",
    "note_of",
    "other_sizes",
    "outputs",
    "plan_of",
    "recover",
    "runner",
    "save_weights",
    "with_masks",
]

PLAN = "graphprune.plan"
"""The key of a slim model's metadata under which the plan that made it travels."""


def loaded(path: Any) -> Any:
    """What a path holds, as an `onnx.ModelProto` (an `onnx_ir.Model` above 2 GB)."""
    return files.give_back(files.read(path), path)


@collector_paused()
def analyze(origin: Any, example_inputs: Any = None, policy: Policy = DEFAULT) -> Analysis:
    """Analyse a model. Raises `ExampleInputsError`, `FileFormatError` or `UnsupportedModelError`."""
    model = prepare(files.read(origin))
    found, inputs = _traced(model, example_inputs)
    analysis = analyse(found, inputs, policy)
    analysis.collector = lambda *args: collect(model, analysis, *args)
    return analysis


def _traced(model: ir.Model, example_inputs: Any) -> tuple[Trace, dict[str, Any]]:
    """A trace for the example inputs, or for the first sizes at which the model holds together."""
    if example_inputs is not None:
        feeds = normalise(model, example_inputs)
        sizes = {name: tuple(array.shape) for name, array in feeds.items()}
        found = trace(model, sizes)
        if found.misfit:
            raise ExampleInputsError(f"the model does not run with inputs {sizes}: {found.misfit}. {HOW}")
        if found.problems and _fewest(model) < len(found.problems):
            name, problem = next(iter(found.problems.items()))
            raise ExampleInputsError(f"the model does not run with inputs {sizes}: {name}: {problem}. {HOW}")
        return found, describe(model, sizes, feeds)
    best: tuple[int, Trace, dict[str, Any]] | None = None
    for sizes in candidates(model):
        found = trace(model, sizes)
        empty = sum(0 in shape for shape in found.shapes.values())
        doubts = (1 << 30) * bool(found.misfit) + len(found.problems) + empty
        if best is None or doubts < best[0]:
            best = doubts, found, describe(model, sizes, None)
        if not doubts:
            break
    assert best is not None
    if best[1].misfit:
        raise ExampleInputsError(f"no sizes were found with which the model runs: {best[1].misfit}. {HOW}")
    if _only_broadcast(best[1]):
        raise ExampleInputsError(f"no sizes were found with which the model runs, other than 1 along open axes. {HOW}")
    return best[1:]


def _only_broadcast(found: Trace) -> bool:
    """Whether open axes have size 1 and nothing larger fits: what is stored for a larger size would be spread then."""
    sizes = {value.name or "": found.shapes[value.name or ""] for value in real_inputs(found.model)}
    larger = grown(found.model, sizes)
    if larger is None or all(sizes[name][axis] > 1 for name in sizes for axis in opened(found.model, name)):
        return False
    return len(trace(found.model, larger).problems) > len(found.problems)


def _fewest(model: ir.Model) -> int:
    try:
        return min(len(trace(model, sizes).problems) for sizes in candidates(model))
    except ExampleInputsError:
        return 1 << 30


@collector_paused()
def apply(origin: Any, plan: Plan, example_inputs: Any = None, analysis: Analysis | None = None) -> Any:
    """A slim model of the same kind; for a path an onnx.ModelProto."""
    model = prepare(files.read(origin))
    plan = replace(plan, inputs=own_form(plan.inputs, model))
    old, inputs = _traced_as(plan, model, example_inputs)
    own = analysis = analysis or analyse(old, inputs, plan.policy)
    plan, _ = fitted(plan, shapes_of(own.graph), lambda: own)
    earlier = plan_of(model)
    slim, new = slim_model(model, plan, _rebased(analysis, old), old)
    problem = next(mismatches(analysis, plan, read(new), living(analysis, plan)), None)
    if problem is not None:
        raise _error(problem, analysis)
    slim.metadata_props[PLAN] = packed((plan if earlier is None else earlier.then(plan)).to_json())
    slim.metadata_props.pop(MASKS, None)  # it tells the shapes before
    return files.give_back(slim, origin)


def _traced_as(plan: Plan, model: ir.Model, example_inputs: Any) -> tuple[Trace, Any]:
    """A trace for the example inputs, or for those that the plan describes."""
    if example_inputs is not None or not plan.inputs:
        return _traced(model, example_inputs)
    return trace(model, sizes_of(plan.inputs)), plan.inputs


def _rebased(analysis: Analysis, old: Trace) -> Analysis:
    """The analysis, its nodes pointing into this copy of the model."""
    nodes = {first_name(node): node for node in old.model.graph}
    for node in analysis.graph.nodes:
        node.call = nodes.get(first_name(node.call))
    return analysis


def _error(problem: Mismatch, analysis: Analysis) -> ApplyError:
    blame = np.unique(analysis.solution.classes[problem.labels])
    return ApplyError(f"{problem.text}. Keep its channels (keep=...), or make its sizes follow from its inputs.", blame)


def plan_of(origin: Any) -> Plan | None:
    """The plan that made a slim model, read from its metadata. Raises `FileFormatError` where that is damaged."""
    model = origin if isinstance(origin, ir.Model) else files.read(origin)
    text = model.metadata_props.get(PLAN)
    if text is None:
        return None
    try:
        plan = unpacked(text)
    except ValueError as error:
        raise FileFormatError(f"metadata {PLAN!r} of the model is damaged ({error}): remove that entry") from error
    return Plan.from_json(plan)


def recover(
    origin: Any,
    slim: Any,
    plan: Plan,
    analysis: Analysis,
    data: Any,
    method: str,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> tuple[Any, Recovery]:
    """A model like `slim` with other weights, and what was won; `slim` itself where nothing was."""
    model = files.read(slim)
    better, recovery = recovered(files.read(origin), model, plan, analysis, data, method, progress)
    if not better:
        return slim, recovery
    known = plan_of(model)
    if known is not None:
        known.report["recovery"] = recovery.as_json()
        model.metadata_props[PLAN] = packed(known.to_json())
    return files.give_back(model, slim), recovery


def example_inputs_of(origin: Any, example_inputs: Any) -> Any:
    """Example inputs as the compiler takes them: by name; made up where the model itself tells their sizes."""
    model = files.read(origin)
    if example_inputs is not None:
        return normalise(model, example_inputs)
    plan = plan_of(model)
    if plan is None:
        return None
    return {name: np.zeros(spec["shape"], dtype=spec["dtype"]) for name, spec in plan.inputs["onnx"].items()}


def save_weights(slim: Any, path: Any) -> None:
    """Write a model with its plan and what it knows of its masks inside."""
    saving.save(slim, path)


def note_of(model: Any) -> str | None:
    """Nothing is odd about slim ONNX models."""
    return None
