"""Names of stored tensors that a user means by a pattern."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from .errors import OptionError
from .graph import Graph


def named(graph: Graph, patterns: Iterable[str], option: str = "keep") -> set[str]:
    """First names of the stored tensors that patterns match: names, `layer1.*`, or the module they belong to.

    Raises `OptionError` for a pattern that matches nothing, with the name of the option.
    """
    every = {name: name for name in graph.leaves} | graph.aliases
    found: set[str] = set()
    for pattern in patterns:
        names = {first for name, first in every.items() if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not names:
            some = ", ".join(list(graph.leaves)[:3])
            raise OptionError(f"{option}={pattern!r} matches no parameter; names look like {some}")
        found |= names
    return found
