"""Weights and plan in one .safetensors file, without pickle."""

import os
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...errors import FileFormatError, PlanError
from ...files import atomic_path
from ...masks import Masks, masked_names
from ...plan import UNTOUCHED, Plan
from .masked import check_free, masks_of, remember
from .slicing import canonical_names, slim_copy
from .twins import stored_tensors

KEY, _MASKS = "graphprune_plan", "graphprune_masks"


def save_weights(slim: torch.nn.Module, path: "str | os.PathLike[str]") -> None:
    """Write every parameter and buffer under its first name, tied tensors once; what was pruned goes with them."""
    from .modules import plan_of

    check_free(slim)
    plan, masks = plan_of(slim), masks_of(slim)
    facts = {KEY: plan.to_json()} if plan else {}
    facts |= {_MASKS: masks.facts()} if masks else {}
    names, tensors = canonical_names(slim), {}
    for name, tensor, _ in stored_tensors(slim):
        if names[id(tensor)] == name:
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {**facts, "format": "pt"})


def load_weights(module: torch.nn.Module, path: "str | os.PathLike[str]") -> torch.nn.Module:
    """Replay the plan of a saved file on the original class and load its weights."""
    from .modules import apply

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata and _MASKS not in metadata:
                raise FileFormatError(f"{os.fspath(path)} holds no plan: write it with graphprune.save(slim, path)")
            plan = Plan.from_json(metadata[KEY]) if KEY in metadata else None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{os.fspath(path)} cannot be read, or is damaged: {error}. Save it again.") from error
    slim = apply(module, plan) if plan else slim_copy(module, UNTOUCHED)
    _part(slim, set(tensors))
    names = canonical_names(slim)
    own = {name: tensor for name, tensor, _ in stored_tensors(slim) if names[id(tensor)] == name}
    _check_same(own, tensors, os.fspath(path))
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.is_meta:
                _materialise(slim, name, tensors[name])
            else:
                tensor.copy_(tensors[name])
    if _MASKS in metadata:
        text = metadata[_MASKS]
        zeros = {name: (tensors[name] != 0).numpy() for name in masked_names(text) if name in tensors}
        remember(slim, Masks.of_facts(text, zeros))
    return slim


def _part(slim: torch.nn.Module, saved: set[str]) -> None:
    """Give buffers and constants that were saved under two names two tensors: casts part what was one before."""
    names = canonical_names(slim)
    for name, tensor, kind in list(stored_tensors(slim)):
        if kind != "parameter" and name in saved and names[id(tensor)] != name:
            prefix, _, leaf = name.rpartition(".")
            setattr(slim.get_submodule(prefix), leaf, tensor.detach().clone())


def _check_same(own: dict[str, Any], given: dict[str, Any], path: str) -> None:
    odd = sorted(own.keys() ^ given.keys())
    if odd:
        raise PlanError(f"{path} was written for another model: {', '.join(odd[:5])} are in one of them only")
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            raise PlanError(
                f"{path} was written for another model: {name} has shape {tuple(given[name].shape)} in the file and "
                f"{tuple(tensor.shape)} here"
            )


def _materialise(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner = {id(t) for n, t, _ in stored_tensors(module) if n == name}
    for alias, old, _ in list(stored_tensors(module)):
        if id(old) in owner:
            prefix, _, leaf = alias.rpartition(".")
            part: Any = module.get_submodule(prefix)
            fresh = torch.nn.Parameter(tensor, old.requires_grad) if isinstance(old, torch.nn.Parameter) else tensor
            setattr(part, leaf, fresh)
