"""Copies of modules: a deep copy whose tensors are replaced, fast where attributes are plain."""

import copy
import warnings
from typing import Any

import torch

from ...errors import TraceError

_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device)


def copy_with(module: torch.nn.Module, tensors: dict[int, Any]) -> torch.nn.Module:
    """A deep copy of `module` in which every tensor whose id is in `tensors` is replaced; others are copied.

    Raises `TraceError` where the module holds something that cannot be copied.
    """
    memo = dict(tensors)
    for part in reversed(list(module.modules())):  # children before parents
        clone = _clone(part, memo) if _copies_plainly(type(part)) else None
        if clone is not None:
            memo[id(part)] = clone
    try:
        result: torch.nn.Module = copied(module, memo)
        return result
    except Exception as error:
        raise TraceError(
            f"the model could not be copied: {error}. Take away what copy.deepcopy cannot copy."
        ) from error


def copied(item: Any, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy, without what torch has to say of the classes of its own that it copies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(item, memo)


def without_caches(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself, after a change to training and back: then modules drop what they have computed and kept."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.train()
    except NotImplementedError:  # an exported graph has one mode, and keeps nothing
        pass
    for part, mode in modes:
        part.training = mode
    return module


_HOOKS_OF_COPY = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")


def _copies_plainly(kind: type) -> bool:
    """True where copying an object of this class means copying its attributes."""
    if kind.__module__.startswith("torch.nn.modules."):  # their __setstate__ only adds what old pickles lack
        return True
    return all(getattr(kind, name, None) is getattr(torch.nn.Module, name, None) for name in _HOOKS_OF_COPY)


def _clone(part: torch.nn.Module, memo: dict[int, Any]) -> torch.nn.Module | None:
    """A copy of a module from copies of its parts; None where it holds anything unusual (hooks, other objects)."""
    attributes: dict[str, Any] = {}
    for name, item in part.__dict__.items():
        if name in ("_parameters", "_buffers", "_modules"):
            if any(child is not None and id(child) not in memo for child in item.values()):
                return None
            attributes[name] = type(item)(
                (key, None if child is None else memo[id(child)]) for key, child in item.items()
            )
        elif isinstance(item, (dict, set)) and not item:
            attributes[name] = type(item)()
        elif isinstance(item, _PLAIN) or (type(item) is tuple and all(isinstance(entry, _PLAIN) for entry in item)):
            attributes[name] = item
        elif type(item) in (list, set) and all(isinstance(entry, _PLAIN) for entry in item):
            attributes[name] = type(item)(item)
        else:
            return None
    clone: torch.nn.Module = type(part).__new__(type(part))
    clone.__dict__.update(attributes)
    return clone
