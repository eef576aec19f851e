"""The frontend for state dicts: slicing by name, nothing else."""

from typing import Any

import torch

from ...errors import PlanError, UnsupportedModelError
from ...masks import Masks
from ...plan import UNTOUCHED, Plan
from .slicing import slim_tensor


def apply(state: dict[str, Any], plan: Plan, example_inputs: Any = None, analysis: Any = None) -> dict[str, Any]:
    """A state dict with sliced copies of the tensors that the plan names; tied tensors stay tied."""
    result: dict[str, Any] = {}
    sliced: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    missing = [name for name in plan.kept if name not in state]
    if missing:
        raise PlanError(f"this plan slices {missing[0]}, which the state dict lacks")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            result[name] = tensor
            continue
        key = (tensor.untyped_storage().data_ptr(), tuple(tensor.shape))
        if name in plan.kept:
            if tuple(tensor.shape) != plan.shapes[name]:
                raise PlanError(f"{name} has shape {tuple(tensor.shape)}; the plan was made for {plan.shapes[name]}")
            sliced[key] = slim_tensor(tensor, plan, name)
        result[name] = sliced[key] if key in sliced else slim_tensor(tensor, plan, name)
    return result


def with_masks(state: dict[str, Any], masks: Masks, weights: Any) -> dict[str, Any]:
    """A state dict with zeros where the masks say so; tied tensors stay tied."""
    result = apply(state, UNTOUCHED)
    masks.check({name: tuple(tensor.shape) for name, tensor in result.items() if isinstance(tensor, torch.Tensor)})
    for name, mask in masks.kept.items():
        result[name].masked_fill_(~torch.from_numpy(mask).to(result[name].device), 0)
    return result


def _refuse(*_: Any, **__: Any) -> Any:
    raise UnsupportedModelError("a state dict has weights but no program: pass the module itself")


analyze = outputs = inputs_of = plan_of = masks_of = example_inputs_of = load_weights = _refuse
