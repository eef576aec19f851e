"""The frontend for torch.export.ExportedProgram: unlift to a GraphModule, prune that, export it again."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import fx
from torch.export import Dim, ExportedProgram

from ...analysis import Analysis
from ...masks import Masks
from ...plan import Plan
from ...policy import DEFAULT, Policy
from ...reconstruction import Recovery
from . import masked, modules, run
from .calibrate import Calibration
from .copying import copied
from .difference import first_difference as module_difference
from .inputs import Inputs, normalise
from .masked import masks_of
from .modules import note_of, plan_of


def as_module(program: ExportedProgram) -> fx.GraphModule:
    """The program as a GraphModule with its parameters, without run-time guards on its sizes."""
    try:
        module = program.module(check_guards=False)
    except TypeError:  # older torch has no such guards
        module = program.module()
    assert isinstance(module, fx.GraphModule)
    return module


def _inputs(program: ExportedProgram, example_inputs: Any) -> Inputs:
    if example_inputs is not None:
        return normalise(example_inputs)
    if program.example_inputs is not None:
        return Inputs(*program.example_inputs)
    return Inputs(tuple(_like(value) for value in _placeholders(program)), {})


def _placeholders(program: ExportedProgram) -> list[Any]:
    wanted = set(program.graph_signature.user_inputs)
    return [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]


def _like(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    shape = [int(size) if isinstance(size, int) else 2 for size in value.shape]
    return torch.zeros(shape, dtype=value.dtype)


def analyze(program: ExportedProgram, example_inputs: Any = None, policy: Policy = DEFAULT) -> Analysis:
    """Analyse an exported program. Parameters keep the names they have in its state dict."""
    return modules.analyze(as_module(program), _inputs(program, example_inputs), policy)


def apply(
    program: ExportedProgram, plan: Plan, example_inputs: Any = None, analysis: Analysis | None = None
) -> ExportedProgram:
    """A slim ExportedProgram with the same signature and dynamic axes."""
    inputs = _inputs(program, example_inputs)
    slim = modules.apply(as_module(program), plan, inputs, analysis)
    result = torch.export.export(slim, inputs.args, inputs.kwargs, dynamic_shapes=_dynamic(program), strict=False)
    modules.attach_plan(result, program, plan)
    return result


def with_masks(program: ExportedProgram, masks: Masks, weights: Mapping[str, NDArray[Any]]) -> ExportedProgram:
    """An ExportedProgram with new weights where they are given, and zeros where the masks say so."""
    sparse, inputs = masked.with_masks(as_module(program), masks, weights), _inputs(program, None)
    result = torch.export.export(sparse, inputs.args, inputs.kwargs, dynamic_shapes=_dynamic(program), strict=False)
    earlier = plan_of(program)
    if earlier is not None:
        setattr(result, modules.PLAN, earlier)
    for one in filter(None, (masks_of(program), masks)):
        masked.remember(result, one)
    return result


def calibration(program: ExportedProgram, example_inputs: Any, data: Any, criterion: str) -> Calibration:
    """A copy that runs calibration batches; see the frontend for modules."""
    return Calibration(as_module(program), _inputs(program, example_inputs), data, criterion)


def _dynamic(program: ExportedProgram) -> Any:
    """The dynamic axes of the inputs, or None where all sizes are fixed."""
    values = _placeholders(program)
    if not any(isinstance(v, torch.Tensor) and any(not isinstance(s, int) for s in v.shape) for v in values):
        return None
    dims: dict[str, Any] = {}

    def axis(size: Any) -> Any:
        if isinstance(size, int):
            return None
        return dims.setdefault(str(size), Dim.AUTO)

    flat = [
        {i: axis(s) for i, s in enumerate(v.shape) if axis(s) is not None} if isinstance(v, torch.Tensor) else None
        for v in values
    ]
    tree = torch.utils._pytree.tree_unflatten(flat, program.call_spec.in_spec)
    return tree[0] + tuple(tree[1].values())


def outputs(program: ExportedProgram, inputs: Inputs, plan: Plan | None = None) -> Any:
    """All output tensors of one run; see the frontend for modules."""
    return run.outputs(as_module(program), inputs, plan)


def inputs_of(program: ExportedProgram, plan: Plan | None, example_inputs: Any, seed: int) -> Inputs:
    """Random inputs of the program's own form."""
    return run.inputs_of(program, plan, _inputs(program, example_inputs), seed)


def example_inputs_of(program: ExportedProgram, example_inputs: Any) -> Any:
    """Example inputs as the compiler takes them."""
    return _inputs(program, example_inputs).as_given()


def first_difference(original: ExportedProgram, slim: ExportedProgram, plan: Plan, inputs: Inputs) -> str:
    """The first operation that differs."""
    return module_difference(as_module(original), as_module(slim), plan, inputs)


def recover(
    program: ExportedProgram, slim: ExportedProgram, plan: Plan, analysis: Analysis, *rest: Any
) -> tuple[ExportedProgram, Recovery]:
    """A program whose weights make up for what is gone; see the frontend for modules."""
    narrow = as_module(slim)
    better, recovery = modules.recover(as_module(program), narrow, plan, analysis, *rest)
    if better is narrow:
        return slim, recovery
    state = better.state_dict()
    fresh: ExportedProgram = copied(slim)
    with torch.no_grad():
        for name, tensor in fresh.state_dict.items():
            tensor.copy_(state[name])
    modules.remember_recovery(fresh, slim, recovery)
    return fresh, recovery


__all__ = [
    "analyze",
    "apply",
    "calibration",
    "first_difference",
    "inputs_of",
    "masks_of",
    "note_of",
    "outputs",
    "plan_of",
    "recover",
    "with_masks",
]
