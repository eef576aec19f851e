"""Zeros in the weights of a module: write masks into a copy, hold them while it is trained, and let go again."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

from ...errors import ApplyError, PlanError, UnsupportedModelError
from ...masks import Masks
from ...plan import UNTOUCHED, Plan
from .slicing import canonical_names, shapes_of, slice_tensor, slim_copy
from .twins import stored_tensors

_MASKS = "_graphprune_masks"


class Masked(nn.Module):
    """A parametrization: weights where a mask is True, zero elsewhere. Gradients of what is masked are zero."""

    keep: torch.Tensor

    def __init__(self, keep: torch.Tensor, order: tuple[str, ...]) -> None:
        super().__init__()
        self.register_buffer("keep", keep)
        self.order = order  # of the parameters of the module, to be put back

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weights as the module sees them; of the shape and dtype of what is stored."""
        return weight.masked_fill(~self.keep, 0)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """What to store so that the module sees these weights, as far as the mask lets it."""
        return weight


def with_masks(module: nn.Module, masks: Masks, weights: Mapping[str, NDArray[Any]]) -> nn.Module:
    """A copy with new weights where they are given, and with zeros where the masks say so."""
    check_free(module)
    masks.check(shapes_of(module))
    result = slim_copy(module, UNTOUCHED)
    tensors = {name: tensor for name, tensor, _ in stored_tensors(result)}
    with torch.no_grad():
        for name, mask in masks.kept.items():
            tensor = tensors[name]
            if name in weights:
                tensor.copy_(torch.from_numpy(weights[name]))
            tensor.masked_fill_(~torch.from_numpy(mask).to(tensor.device), 0)
    remember(result, masks)
    return result


def remember(model: Any, masks: Masks) -> None:
    """Let a program remember its masks, together with those that it had."""
    earlier: Masks | None = getattr(model, _MASKS, None)
    if earlier is not None:
        kept = {name: mask & masks.kept[name] if name in masks.kept else mask for name, mask in earlier.kept.items()}
        masks = replace(masks, kept=masks.kept | kept, updated=masks.updated or earlier.updated)
    setattr(model, _MASKS, masks)


def masks_of(model: Any) -> Masks | None:
    """The masks of a model; those that are held tell the truth also after a state dict was loaded."""
    masks: Masks | None = getattr(model, _MASKS, None)
    if masks is None or not isinstance(model, nn.Module):
        return masks
    held = {name: masked.keep.cpu().numpy() for name, _, _, masked in _held(model) if name in masks.kept}
    return replace(masks, kept=masks.kept | held) if held else masks


def sliced(slim: nn.Module, module: nn.Module, plan: Plan) -> None:
    """Bring the masks of a slim copy in line with a plan: channels go after weights went."""
    masks = masks_of(module)
    if masks is None:
        return
    kept = {
        name: slice_tensor(torch.from_numpy(mask), plan.kept[name]).numpy() if name in plan.kept else mask
        for name, mask in masks.kept.items()
    }
    setattr(slim, _MASKS, replace(masks, kept=kept))


def hold_masks(module: nn.Module, masks: Masks | None = None) -> nn.Module:
    """Register a parametrization for every masked parameter, in place; see `graphprune.hold_masks`."""
    check_free(module)
    masks = masks if masks is not None else masks_of(module)
    if masks is None:
        raise PlanError("this model has no masks: make them with graphprune.optimize(structure=...), or pass masks=")
    masks.check(shapes_of(module))
    names = canonical_names(module)
    places = [
        (part, leaf, parameter, tuple(part._parameters))
        for part in module.modules()
        for leaf, parameter in part._parameters.items()
        if parameter is not None and names[id(parameter)] in masks.kept
    ]
    for part, leaf, *_ in places:
        if isinstance(part, nn.RNNBase):
            raise ApplyError(f"{leaf} of a {type(part).__name__} cannot be masked: recurrent layers copy their weights")
    for part, leaf, parameter, order in places:
        keep = torch.from_numpy(masks.kept[names[id(parameter)]]).to(parameter.device)
        with torch.no_grad():
            parameter.masked_fill_(~keep, 0)
        parametrize.register_parametrization(part, leaf, Masked(keep, order), unsafe=True)
    setattr(module, _MASKS, masks)
    return module


def finalize(module: nn.Module) -> nn.Module:
    """Write the zeros into the parameters and take the parametrizations off, in place; see `graphprune.finalize`."""
    held = list(_held(module))
    if not held and masks_of(module) is None:
        raise PlanError("this model has no masks: there is nothing to finalize")
    masks = masks_of(module)
    for _, part, leaf, mask in held:
        parametrize.remove_parametrizations(part, leaf, leave_parametrized=True)
        part._parameters = {name: part._parameters[name] for name in mask.order if name in part._parameters}
    if masks is not None:
        setattr(module, _MASKS, masks)
    return module


def check_free(module: nn.Module) -> None:
    """Raise `UnsupportedModelError` where masks are held by parametrizations."""
    first = next(_held(module), None)
    if first is not None:
        raise UnsupportedModelError(
            f"the mask of {first[0]} is held for training: call graphprune.finalize(model) first"
        )


def _held(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Masked]]:
    """(parameter name, module, its own name there, parametrization) of every mask that is held."""
    for prefix, part in module.named_modules():
        if not parametrize.is_parametrized(part):
            continue
        for leaf, chain in part.parametrizations.items():
            for item in chain:
                if isinstance(item, Masked):
                    yield f"{prefix}.{leaf}" if prefix else leaf, part, leaf, item
