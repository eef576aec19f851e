"""Stored tensors of a module, and copies of it to run: on meta tensors, or sharing its parameters."""

from collections.abc import Iterator
from typing import Any

import torch

from .copying import copy_with, without_caches

_SIMPLE = frozenset({int, bool, float, str, tuple, type(None), list, dict})


def stored_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, str]]:
    """(name, tensor, kind) of every tensor in a module: parameters, saved buffers, others ("constant"); aliases too."""
    for prefix, part in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, parameter in part._parameters.items():
            if parameter is not None:
                yield dot + name, parameter, "parameter"
        for name, buffer in part._buffers.items():
            if buffer is not None:
                yield dot + name, buffer, "constant" if name in part._non_persistent_buffers_set else "buffer"
        for name, item in part.__dict__.items():
            if type(item) not in _SIMPLE and isinstance(item, torch.Tensor):
                yield dot + name, item, "parameter" if isinstance(item, torch.nn.Parameter) else "constant"


Stored = list[tuple[str, torch.Tensor, str]]


def twin_of(module: torch.nn.Module, device: str | None) -> tuple[torch.nn.Module, Stored]:
    """A copy in evaluation mode that shares the parameters (device None) or holds meta tensors instead.

    Also returns the tensors of the copy as `stored_tensors` would list them.
    """
    stored = list(stored_tensors(module))
    memo: dict[int, Any] = {}
    for _, tensor, kind in stored:
        if id(tensor) in memo:
            continue
        if device is not None:
            memo[id(tensor)] = _like(tensor, device)
        else:
            memo[id(tensor)] = tensor if kind == "parameter" else tensor.detach().clone()
    return without_caches(copy_with(module, memo)).eval(), [
        (name, memo[id(tensor)], kind) for name, tensor, kind in stored
    ]


def _like(tensor: torch.Tensor, device: str) -> torch.Tensor:
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module lives: the device of its first tensor."""
    return next((tensor.device for _, tensor, _ in stored_tensors(module)), torch.device("cpu"))
