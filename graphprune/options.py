"""Options that are passed on to a public verb: which there are."""

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from .errors import OptionError


def keywords_of(verb: Callable[..., Any]) -> list[str]:
    """The names of the keyword options of a function.

    ```python
    assert "budget" in keywords_of(graphprune.optimize)
    ```
    """
    return [name for name, one in inspect.signature(verb).parameters.items() if one.kind is one.KEYWORD_ONLY]


def check_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `OptionError`, which names all that are known, for an option that is not."""
    names = sorted(set(known))
    for name in given:
        if name not in names:
            close = get_close_matches(str(name), names, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise OptionError(f"there is no option {name!r}{hint}; known are {', '.join(names)}")
