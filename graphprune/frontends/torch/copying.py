"""Copies of modules: a deep copy whose tensors are replaced, fast for the leaf layers that torch ships."""

import copy
from collections import OrderedDict
from typing import Any

import torch

from ...errors import TraceError

_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device)


def copy_with(module: torch.nn.Module, tensors: dict[int, Any]) -> torch.nn.Module:
    """A deep copy of `module` in which every tensor whose id is in `tensors` is replaced; others are copied.

    Raises `TraceError` where the module holds something that cannot be copied.
    """
    memo = dict(tensors)
    for part in module.modules():
        if not part._modules and type(part).__module__.startswith("torch.nn.modules."):
            clone = _leaf(part, tensors)
            if clone is not None:
                memo[id(part)] = clone
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise TraceError(
            f"the model could not be copied: {error}. Take away what copy.deepcopy cannot copy."
        ) from error


def _leaf(part: torch.nn.Module, tensors: dict[int, Any]) -> torch.nn.Module | None:
    """A copy of a layer whose attributes are plain; None where it holds anything else (hooks, other objects)."""
    attributes: dict[str, Any] = {}
    for name, item in vars(part).items():
        if name in ("_parameters", "_buffers"):
            if any(tensor is not None and id(tensor) not in tensors for tensor in item.values()):
                return None
            attributes[name] = type(item)((key, tensors[id(t)] if t is not None else None) for key, t in item.items())
        elif isinstance(item, (dict, OrderedDict, set)) and not item:
            attributes[name] = type(item)()
        elif name == "_non_persistent_buffers_set":
            attributes[name] = set(item)
        elif isinstance(item, _PLAIN) or (isinstance(item, (tuple, list)) and all(isinstance(i, _PLAIN) for i in item)):
            attributes[name] = type(item)(item) if type(item) is list else item
        else:
            return None
    clone: torch.nn.Module = type(part).__new__(type(part))
    clone.__dict__.update(attributes)
    return clone
