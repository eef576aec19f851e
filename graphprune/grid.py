"""The grid of a sweep: every combination of the options of `graphprune.optimize` that are to be tried."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from .api import optimize
from .errors import OptionError
from .options import check_known, keywords_of
from .structures import CHANNEL, resolve_structure

Options = dict[str, Any]
"""Options of `graphprune.optimize` by name."""

LISTS = ("keep", "policy", "block")
"""Options of which a list is one value; several values are a list of lists."""

_PLURALS = {"sparsity": "sparsities", "budget": "budgets", "criterion": "criteria"}


def points(sparsities: Any, budgets: Any, criteria: Any, options: Mapping[str, Any]) -> list[Options]:
    """Every combination once, in the order in which the values were given; the sparsity changes fastest.

    A list or a tuple of sparsities, budgets or criteria is values to try, and so is a list for any other option.
    A sparsity that something else fixes (budgets with a share for each, `latency=`, a pattern n:m) is left out.

    Raises `OptionError` for names that `optimize` does not know, and for values that cannot be told apart in a file.

    ```python
    from graphprune.grid import points

    print(len(points((0.3, 0.5), "params", ("l1", "l2"), {"multiple_of": [1, 8], "keep": ["head"]})))  # 8
    ```
    """
    _check_names(options)
    axes = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    axes |= {
        name: options[name] if _is_list_of_lists(options[name]) else [options[name]]
        for name in LISTS
        if name in options
    }
    axes |= {"criterion": _several(criteria), "budget": _several(budgets), "sparsity": _several(sparsities)}
    for name, several in axes.items():
        if not several:
            raise OptionError(f"{_PLURALS.get(name, name)}={several!r} holds no value to try")
    found: dict[str, Options] = {}
    for values in product(*axes.values()):
        point = _without_fixed(dict(zip(axes, values, strict=True)))
        other = found.setdefault(key_of(point), point)
        _check_same(point, other)
    return list(found.values())


def described(value: Any) -> Any:
    """An option as JSON: functions by their names, tuples as lists. Raises `OptionError` for what has no such form."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if callable(value):
        return name_of(value)
    raise OptionError(f"{value!r} cannot be an option of a sweep: it could not be found again in a file of results")


def key_of(point: Mapping[str, Any]) -> str:
    """What is equal for equal options, whatever their order."""
    return json.dumps(described(point), sort_keys=True)


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function: `package.module.function`."""
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _several(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple, np.ndarray)) else [values]


def _is_list_of_lists(value: Any) -> bool:
    return isinstance(value, list) and any(not isinstance(item, (str, int)) for item in value)


def _check_names(options: Iterable[str]) -> None:
    for name in _PLURALS.keys() & set(options):
        raise OptionError(f"{name}= is called {_PLURALS[name]}= here, and takes one value or several")
    check_known(options, set(keywords_of(optimize)) - {"example_inputs", "data", "progress"})


def _without_fixed(point: Options) -> Options:
    pattern = resolve_structure(point.get("structure", CHANNEL), point.get("block"))
    fixed = isinstance(point["budget"], Mapping) or point.get("latency") is not None or pattern and pattern.m
    return {name: value for name, value in point.items() if name != "sparsity" or not (fixed or value is None)}


def _check_same(one: Options, other: Options) -> None:
    """Two functions of one name would be taken for the same point, now or when the sweep is resumed."""
    odd = [name for name in one if callable(one[name]) and one[name] is not other[name]]
    if odd:
        raise OptionError(
            f"{_PLURALS.get(odd[0], odd[0])}= holds two functions of the name {name_of(one[odd[0]])}: give each a name "
            "of its own (def), by which it is found again in the file of results"
        )


def varying(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options, other than the sparsity, that are not the same in all points."""
    names = dict.fromkeys(name for point in points for name in point if name != "sparsity")
    return [name for name in names if len({key_of({name: point.get(name)}) for point in points}) > 1]
