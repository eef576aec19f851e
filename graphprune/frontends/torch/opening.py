"""Functions of torch that are written in Python, opened: the operations inside are seen instead of the call."""

import types
from collections.abc import Callable
from typing import Any

_OPENED: dict[Any, Callable[..., Any] | None] = {}


def opened(func: Any) -> Callable[..., Any] | None:
    """A copy of a Python function of torch that no longer hands itself to the active mode."""
    if func not in _OPENED:
        inside = None
        if isinstance(func, types.FunctionType) and func.__module__.startswith("torch"):
            checks = [name for name in func.__code__.co_names if name.startswith("has_torch_function")]
            if not checks:  # nothing to take away: entering it would come back here for ever
                return _OPENED.setdefault(func, None)
            space = {**func.__globals__, **dict.fromkeys(checks, _never)}
            inside = types.FunctionType(func.__code__, space, func.__name__, func.__defaults__, func.__closure__)
            inside.__kwdefaults__ = func.__kwdefaults__
        _OPENED[func] = inside
    return _OPENED[func]


def _never(*_: Any, **__: Any) -> bool:
    return False
