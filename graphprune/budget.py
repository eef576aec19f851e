"""Allocation: which units to drop so that the budget is met, never exceeded, and missed by less than one granule."""

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .collector import collector_paused
from .cost import CostModel
from .criteria import resolve
from .errors import BudgetError, CriterionError, NothingToPruneError, OptionError
from .explain import lock_summary
from .labels import Labels
from .patterns import named
from .policy import DEFAULT, Policy, resolve_policy
from .scores import check_finite, class_scores
from .units import Units, build_units

if TYPE_CHECKING:
    from .analysis import Analysis
    from .plan import Plan

BUDGETS = ("params", "macs")
SCOPES = ("global", "layer")


@dataclass(frozen=True)
class Options:
    """What the user asked for; see `graphprune.optimize`."""

    sparsity: float = 0.5
    budget: str = "params"
    criterion: Any = "l2"
    scope: str = "global"
    keep: tuple[str, ...] = ()
    multiple_of: int | None = None
    exact: bool | str = "prefer"
    seed: int = 0
    policy: Policy = DEFAULT

    def check(self) -> None:
        """Raise `BudgetError` or `OptionError` for values that cannot be meant."""
        number = isinstance(self.sparsity, (int, float, np.number)) and not isinstance(self.sparsity, bool)
        if not number or not 0 < self.sparsity < 1:
            raise BudgetError(
                f"sparsity={self.sparsity!r} must lie between 0 and 1, exclusive: 0.5 drops half of the {self.budget}"
            )
        if self.budget not in BUDGETS:
            raise OptionError(f"budget={self.budget!r}: choose one of {', '.join(BUDGETS)}")
        if self.scope not in SCOPES:
            raise OptionError(f"scope={self.scope!r}: choose one of {', '.join(SCOPES)}")
        multiple = 1 if self.multiple_of is None else self.multiple_of
        if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
            raise OptionError(f"multiple_of={self.multiple_of!r} must be a positive whole number")
        if self.exact not in ("prefer", True, False):
            raise OptionError(f"exact={self.exact!r}: choose 'prefer', True or False")
        resolve(self.criterion)
        resolve_policy(self.policy)

    def as_json(self) -> dict[str, Any]:
        """The options as plain data for the plan; a criterion that is a function by its name."""
        name = getattr(self.criterion, "__name__", type(self.criterion).__name__)
        criterion = name if callable(self.criterion) else self.criterion
        return vars(self) | {"criterion": criterion, "keep": list(self.keep), "policy": list(self.policy)}


@collector_paused()
def make_plan(analysis: "Analysis", options: Options) -> "Plan":
    """Score, order, cut. Exact groups first; inexact ones only as `options.exact` allows."""
    from .plan import Plan

    options.check()
    kept_whole = _kept_classes(analysis, options.keep)
    free = analysis.free & ~kept_whole
    exact = analysis.solution.inexact < 0
    model = CostModel.of(analysis)
    before = model.cost(np.ones(free.size, dtype=bool))
    limit = int(np.floor(getattr(before, options.budget) * (1 - options.sparsity) + 1e-9))
    if not free.any() or not (free & exact).any() and options.exact is True:
        raise NothingToPruneError(f"nothing can be dropped from this model.\n{lock_summary(analysis)}")
    ways = [free] if options.exact is False else [free & exact]
    if options.exact == "prefer" and (free & ~exact).any():
        ways.append(free)
    multiples = analysis.graph.alignments if options.multiple_of is None else (options.multiple_of,)
    tries = [(candidates, replace(options, multiple_of=multiple)) for candidates in ways for multiple in multiples]
    waste = WASTE * getattr(before, options.budget)
    if options.criterion != "random":
        check_finite(analysis)
    least = None
    for candidates, options in tries:
        units, order = _ordered(analysis, options, candidates)
        alive = cut(model, options.budget, limit, units, order)
        least = min(least or before, alive[1], key=lambda cost: getattr(cost, options.budget))
        closely = alive[0] is not None and limit - model.evaluate(options.budget, alive[0]) <= waste
        if alive[0] is not None and (closely or options.multiple_of == multiples[-1]):
            touched = ~alive[0] & ~exact
            if touched.any() and options.exact == "prefer":
                _warn_inexact(analysis, touched)
            return Plan.of(analysis, alive[0], options.as_json(), before, model.cost(alive[0]))
    raise _unreachable(analysis, options, before, least, limit)


class Granules(NamedTuple):
    """Units in the order in which they are dropped; granule i is `units[ends[i]:ends[i + 1]]`."""

    units: Labels
    ends: Labels


def cut(
    model: CostModel, budget: str, limit: int, units: Units, order: Granules
) -> tuple[NDArray[np.bool_] | None, Any]:
    """Drop granules from the front of `order` until the cost is at most `limit`.

    Returns the living classes (None where the limit is out of reach) and the cost when everything is dropped.
    """
    total = order.ends.size - 1

    def alive_after(granules: int) -> NDArray[np.bool_]:
        dropped = np.zeros(units.count, dtype=bool)
        dropped[order.units[: order.ends[granules]]] = True
        return ~dropped[units.of_class]

    least = model.cost(alive_after(total))
    if getattr(least, budget) > limit:
        return None, least
    low, high = 0, total
    while low < high:
        middle = (low + high) // 2
        if model.evaluate(budget, alive_after(middle)) <= limit:
            high = middle
        else:
            low = middle + 1
    return _refilled(model, budget, limit, units, order, low)[units.of_class], least


SLACK = 0.005
"""Share of the limit that may stay unused without a search for what still fits."""

WASTE = 0.02
"""Share of all by which channel counts that suit the runtime may miss the budget; else finer ones are tried."""


def _refilled(
    model: CostModel, budget: str, limit: int, units: Units, order: Granules, dropped: int
) -> NDArray[np.bool_]:
    """Which units stay once `dropped` granules went and those that still fit are taken back, the most important first.

    Where granules are large, the last one may have missed the limit by far. A family gets its granules back in turn.
    """
    alive = np.ones(units.count, dtype=bool)
    alive[order.units[: order.ends[dropped]]] = False
    full: set[int] = set()
    for number in range(dropped - 1, -1, -1):
        if limit - model.evaluate(budget, alive[units.of_class]) <= SLACK * limit:
            break
        members = order.units[order.ends[number] : order.ends[number + 1]]
        family = int(units.family[members[0]])
        if family in full:
            continue
        alive[members] = True
        if model.evaluate(budget, alive[units.of_class]) > limit:
            alive[members] = False
            full.add(family)
    return alive


def _ordered(analysis: "Analysis", options: Options, free: NDArray[np.bool_]) -> tuple[Units, Granules]:
    """Units and the granules in the order in which they are dropped."""
    scores = class_scores(analysis, resolve(options.criterion), free, options.seed)
    scored = ~np.isnan(scores)
    if free.any() and not (free & scored).any():
        name = options.criterion if isinstance(options.criterion, str) else "the criterion"
        raise CriterionError(
            f"{name} has nothing to say of the groups that may be dropped (keep= and locks leave only tensors that it "
            "does not score): keep less, or choose another criterion"
        )
    units = build_units(analysis, np.where(scored, scores, 0.0), free & scored)
    units = _normalised(units)
    multiples = _multiples(analysis, units, options.multiple_of or 1)
    return units, granules(units, _protected(analysis, units), multiples, options.scope)


def _multiples(analysis: "Analysis", units: Units, multiple_of: int) -> Labels:
    """Of what the channel counts of every family become multiples: what the user asks for and what kernels need."""
    result = np.full(int(units.family.max()) + 1, multiple_of, dtype=np.int64)
    for labels, multiple in analysis.equations.multiples:
        families = np.unique(units.family[units.of_class[analysis.solution.classes[labels]]])
        result[families] = np.lcm(result[families], multiple)
    return result


def _normalised(units: Units) -> Units:
    """Divide scores by the mean of their family, so that layers of different scale can be compared."""
    number = int(units.family.max()) + 1
    weight = units.free.astype(np.float64)
    total = np.bincount(units.family, weights=units.score * weight, minlength=number)
    mean = total / np.maximum(np.bincount(units.family, weights=weight, minlength=number), 1)
    scale = np.where(mean > 0, mean, 1.0)
    return Units(units.of_class, units.score / scale[units.family], units.free, units.family)


def _protected(analysis: "Analysis", units: Units) -> NDArray[np.bool_]:
    """The best unit of every axis stays, so that no axis is ever emptied."""
    protected = np.zeros(units.count, dtype=bool)
    classes = analysis.solution.classes
    arrays = list(analysis.leaf_classes.values()) + [classes[labels] for labels in analysis.equations.filled]
    for array in arrays:
        for row in array if array.ndim == 2 else [array]:
            members = units.of_class[row]
            if units.free[members].all():
                protected[members[np.argmax(units.score[members])]] = True
    return protected


def granules(units: Units, protected: NDArray[np.bool_], multiples: Labels, scope: str) -> Granules:
    """Bundles of units, least important first; within a family the order of the scores is kept.

    Where channel counts are to be multiples, the first bundle of a family brings it to a multiple and every
    further one takes a whole multiple.
    """
    droppable = units.free & ~protected
    size = np.bincount(units.family, minlength=int(units.family.max()) + 1)
    index = np.flatnonzero(droppable)
    index = index[np.lexsort((units.score[index], units.family[index]))]
    bounds = np.flatnonzero(np.diff(units.family[index], prepend=-1, append=-1))
    starts, lengths, keys = [], [], []
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        family = units.family[index[start]]
        width, multiple_of = int(size[family]), int(multiples[family])
        first = width % multiple_of or multiple_of
        usable = min(int(stop - start), width - 1)
        count = (usable - first) // multiple_of + 1 if usable >= first else 0
        if count:
            own = np.full(count, multiple_of)
            own[0] = first
            begin = start + np.cumsum(own) - own
            starts.append(begin)
            lengths.append(own)
            means = np.add.reduceat(units.score[index[: begin[-1] + own[-1]]], begin) / own
            keys.append((begin - start) / width if scope == "layer" else np.maximum.accumulate(means))
    if not starts:
        return Granules(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64))
    order = np.argsort(np.concatenate(keys), kind="stable")
    start_of, length_of = np.concatenate(starts)[order], np.concatenate(lengths)[order]
    ends = np.cumsum(np.append(0, length_of))
    flat = index[np.repeat(start_of - ends[:-1], length_of) + np.arange(ends[-1])]
    return Granules(flat, ends)


def _kept_classes(analysis: "Analysis", patterns: tuple[str, ...]) -> NDArray[np.bool_]:
    kept = np.zeros(analysis.solution.count, dtype=bool)
    names = named(analysis.graph, patterns)
    for (name, _), classes in analysis.leaf_classes.items():
        if name in names:
            kept[classes.ravel()] = True
    return kept


def _warn_inexact(analysis: "Analysis", touched: NDArray[np.bool_]) -> None:
    first = analysis.solution.inexact[np.flatnonzero(touched)[0]]
    reason = analysis.equations.inexact[first][1]
    warnings.warn(
        f"the budget is out of reach of exact groups, so {int(touched.sum())} inexact ones were dropped ({reason}); "
        "pass exact=True to refuse this",
        stacklevel=4,
    )


def _unreachable(analysis: "Analysis", options: Options, before: Any, least: Any, limit: int) -> BudgetError:
    locks = lock_summary(analysis)
    total, floor = getattr(before, options.budget), getattr(least, options.budget)
    reachable = 1 - floor / total
    return BudgetError(
        f"sparsity={options.sparsity} allows {limit:,} of {total:,} {options.budget}, but at least {floor:,} must stay "
        f"(sparsity {reachable:.3f} is the most that can be reached with these options).\n{locks}",
        reachable,
    )
