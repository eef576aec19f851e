"""Functions of the user's as the command line names them."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..errors import OptionError


def function_of(text: str) -> Callable[..., Any]:
    """The function that `package.module:function` names; the current folder is searched first, as for `python -m`.

    Raises `OptionError` where there is none.
    """
    place, colon, name = text.partition(":")
    if not (place and colon and name):
        raise OptionError(f"{text!r} names no function: write package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        value = getattr(import_module(place), name)
    except Exception as error:  # importing runs the user's code: anything can happen
        raise OptionError(f"{text!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(value):
        raise OptionError(f"{text!r} is a {type(value).__name__}, not a function")
    result: Callable[..., Any] = value
    return result
