"""Widths that the user fixes: layers that keep their sizes, and bounds on how many positions of an axis stay.

Patterns are names of parameters or modules with wildcards, such as `"layer1.*"` or `"fc"`.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .allocation import Bounds, Granules
from .errors import BudgetError, OptionError
from .labels import Labels
from .patterns import named
from .units import Units

if TYPE_CHECKING:
    from .analysis import Analysis

Limit = int | float | None
"""A number of positions, a share of them (a float up to 1), or None for no bound."""

Widths = Mapping[str, tuple[Limit, Limit]]
"""Pattern -> (the fewest, the most) positions of a layer's outputs that may stay."""


def kept_classes(analysis: "Analysis", patterns: Iterable[str]) -> NDArray[np.bool_]:
    """Which classes belong to tensors that keep their sizes."""
    kept = np.zeros(analysis.solution.count, dtype=bool)
    names = named(analysis.graph, patterns)
    for (name, _), classes in analysis.leaf_classes.items():
        if name in names:
            kept[classes.ravel()] = True
    return kept


def check_widths(widths: Any, min_width: Any) -> None:
    """Raise `OptionError` for bounds that cannot be meant."""
    if not isinstance(widths, Mapping):
        raise OptionError(f"widths={widths!r} must be a dict: {{pattern: (fewest, most)}}, None for no bound")
    for pattern, pair in widths.items():
        if not isinstance(pattern, str) or not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise OptionError(f"widths: {pattern!r}: {pair!r} must be a pattern and (fewest, most), None for no bound")
        least, most = (_checked(bound, f"widths: {pattern!r}") for bound in pair)
        if least is not None and most is not None and type(least) is type(most) and least > most:
            raise OptionError(f"widths: {pattern!r}: at least {least} and at most {most} contradict each other")
    _checked(min_width, "min_width")


def _checked(bound: Any, where: str) -> Limit:
    number = isinstance(bound, (int, float, np.number)) and not isinstance(bound, bool)
    whole = number and isinstance(bound, (int, np.integer))
    if bound is not None and not (number and (bound >= 1 if whole else 0 < bound <= 1)):
        raise OptionError(
            f"{where}: {bound!r} must be a whole number of positions from 1 on, or a share above 0 and up to 1.0"
        )
    result: Limit = bound
    return result


def output_axes(analysis: "Analysis") -> dict[str, list[int]]:
    """The axes of every stored tensor along which the outputs of the operation lie that reads it first.

    Those of a vector, and of a tensor that no operation reads as it is, are all its axes.
    """
    classes, found = analysis.solution.classes, dict[str, list[int]]()
    own: dict[str, list[int]] = {}
    for name, axis in analysis.leaf_classes:
        own.setdefault(name, []).append(axis)
    for node in analysis.graph.nodes:
        fresh = [v.name for v in node.inputs if v is not None and v.name in own and v.name not in found]
        if fresh:
            made = np.zeros(analysis.solution.count, dtype=bool)
            for value in node.outputs:
                for array in analysis.layouts.get(value, ()):
                    made[classes[array.labels]] = True
            made[classes[0]] = False
            for name in fresh:
                outer = [axis for axis in own[name] if made[analysis.leaf_classes[name, axis]].any()]
                found[name] = outer or own[name]
    return found


def bounds(analysis: "Analysis", units: Units, widths: Widths, min_width: Limit) -> Bounds:
    """The fewest and the most units of every family, by what is asked of axes of stored tensors.

    `min_width` is about all axes. Every family of an axis gives its share: of 64 positions in two families of 32, of
    which at most 16 may stay, at most 8 of each family stay. Raises `OptionError` for contradictions.
    """
    size = np.bincount(units.family)
    least, most = np.ones(size.size, dtype=np.int64), size.copy()
    if min_width is not None:
        for classes in analysis.leaf_classes.values():
            for family, share in _shares(units, classes, size, min_width):
                least[family] = max(least[family], min(size[family], int(np.ceil(share))))
    axes = output_axes(analysis) if widths else {}
    for pattern, (low, high) in widths.items():
        for name in sorted(named(analysis.graph, (pattern,), "widths")):
            for axis in axes.get(name, ()):
                classes = analysis.leaf_classes[name, axis]
                for family, share in _shares(units, classes, size, low) if low is not None else ():
                    least[family] = max(least[family], min(size[family], int(np.ceil(share))))
                for family, share in _shares(units, classes, size, high) if high is not None else ():
                    most[family] = min(most[family], int(np.floor(share)))
                    if most[family] < least[family]:
                        raise OptionError(
                            f"widths: {pattern!r}: of the {size[family]} groups of axis {axis} of {name} at most "
                            f"{most[family]} may stay, but another bound asks for {least[family]}: loosen one of them"
                        )
    return Bounds(least, most)


def _shares(units: Units, classes: Labels, size: Labels, bound: int | float) -> list[tuple[int, float]]:
    """What a bound on an axis means for each of its families, in units; rounded off against errors of floats."""
    share = float(bound) if isinstance(bound, float) else min(1.0, bound / classes.size)
    return [(int(f), round(size[f] * share, 6)) for f in np.unique(units.family[units.of_class[classes.ravel()]])]


def check_reach(analysis: "Analysis", units: Units, order: Granules, limits: Bounds, multiples: Labels) -> None:
    """Raise `BudgetError` where an upper bound is out of reach of what may be dropped."""
    size = np.bincount(units.family, minlength=multiples.size)
    left = size - np.bincount(units.family[order.units], minlength=size.size)
    for family in np.flatnonzero(left > limits.most):
        (name, axis), reason = _place(analysis, units, int(family)), _reason(analysis, units, int(family))
        raise BudgetError(
            f"widths: of the {size[family]} groups of axis {axis} of {name} at most {limits.most[family]} may stay, "
            f"but {left[family]} must ({reason or _granularity(limits, multiples, int(family))}): raise the bound"
        )


def _place(analysis: "Analysis", units: Units, family: int) -> tuple[str, int]:
    """An axis of a stored tensor on which a family lies."""
    return next(
        key
        for key, classes in analysis.leaf_classes.items()
        if (units.family[units.of_class[classes.ravel()]] == family).any()
    )


def _reason(analysis: "Analysis", units: Units, family: int) -> str:
    """Why units of a family may not be dropped; empty where all may."""
    held = units.family[units.of_class] == family
    locked = analysis.solution.locked[held & (analysis.solution.locked >= 0)]
    if locked.size:
        return str(analysis.equations.locks[locked[0]][1])
    inexact = analysis.solution.inexact[held & (analysis.solution.inexact >= 0)]
    if (held & ~units.free[units.of_class]).any():
        return str(analysis.equations.inexact[inexact[0]][1]) if inexact.size else "keep= or the criterion holds them"
    return ""


def _granularity(limits: Bounds, multiples: Labels, family: int) -> str:
    return f"they go in multiples of {multiples[family]}, and at least {limits.least[family]} stay"
