"""Choosing what goes: options, and the way from scores over granules to a plan within its budgets."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .allocation import Account, Granules, alive_after, by_cost, cut, granules
from .collector import collector_paused
from .cost import CostModel
from .criteria import NORMALIZERS, REDUCTIONS, Criterion, Normalizer, resolve
from .errors import BudgetError, CriterionError, NothingToPruneError, OptionError
from .explain import lock_summary
from .labels import Labels
from .policy import DEFAULT, Policy, resolve_policy
from .scores import check_finite, class_scores
from .statistics import Statistics
from .units import Units, build_units, isomorphic, steps_of
from .widths import Limit, Widths, bounds, check_reach, check_widths, kept_classes

if TYPE_CHECKING:
    from .analysis import Analysis
    from .latency import Clock
    from .plan import Plan

BUDGETS = ("params", "macs", "bytes", "memory", "latency")
SCOPES = ("global", "layer", "isomorphic")
ALLOCATIONS = ("score", "per_cost")

WASTE = 0.02
"""Share of all by which channel counts that suit the runtime may miss the budget; else finer ones are tried."""

Budget = str | tuple[str, ...] | Mapping[str, float]


def budgets_of(budget: Any, sparsity: Any) -> dict[str, float]:
    """The share that goes of every budgeted quantity: `budgets_of(("params", "macs"), 0.5)`.

    Raises `BudgetError` for a share that is none, `OptionError` for an unknown quantity.
    """
    names = (budget,) if isinstance(budget, str) else budget
    if not isinstance(names, (tuple, list, Mapping)):
        raise OptionError(f"budget={budget!r} must be a quantity, a tuple of them, or a dict with a sparsity for each")
    named = budget if isinstance(budget, Mapping) else dict.fromkeys(names, sparsity)
    if not named:
        raise OptionError(f"budget={budget!r} names no quantity: choose of {', '.join(BUDGETS)}")
    for quantity, share in named.items():
        if quantity not in BUDGETS:
            raise OptionError(f"budget={budget!r}: choose one of {', '.join(BUDGETS)}, several, or a dict of them")
        number = isinstance(share, (int, float, np.number)) and not isinstance(share, bool)
        if not number or not 0 < share < 1:
            where = f"budget={{{quantity!r}: {share!r}}}" if isinstance(budget, Mapping) else f"sparsity={share!r}"
            raise BudgetError(f"{where} must lie between 0 and 1, exclusive: 0.5 drops half of the {quantity}")
    return {quantity: float(share) for quantity, share in named.items()}


@dataclass(frozen=True)
class Options:
    """What the user asked for; see `graphprune.optimize`."""

    sparsity: float = 0.5
    budget: Budget = "params"
    criterion: Any = "l2"
    scope: str = "global"
    keep: tuple[str, ...] = ()
    multiple_of: int | None = None
    exact: bool | str = "prefer"
    seed: int = 0
    policy: Policy = DEFAULT
    allocate: str | None = None
    widths: Widths = field(default_factory=dict)
    min_width: Limit = None
    reduction: str | None = None
    normalizer: str | None = None

    @property
    def budgets(self) -> dict[str, float]:
        """The share that goes of every budgeted quantity."""
        return budgets_of(self.budget, self.sparsity)

    def check(self) -> None:
        """Raise `BudgetError` or `OptionError` for values that cannot be meant."""
        budgets_of(self.budget, self.sparsity)
        if self.scope not in SCOPES:
            raise OptionError(f"scope={self.scope!r}: choose one of {', '.join(SCOPES)}")
        multiple = 1 if self.multiple_of is None else self.multiple_of
        if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
            raise OptionError(f"multiple_of={self.multiple_of!r} must be a positive whole number")
        if self.exact not in ("prefer", True, False):
            raise OptionError(f"exact={self.exact!r}: choose 'prefer', True or False")
        if self.allocate is not None and self.allocate not in ALLOCATIONS:
            raise OptionError(f"allocate={self.allocate!r}: choose one of {', '.join(ALLOCATIONS)}")
        if self.allocate == "per_cost" and self.scope != "global":
            raise OptionError(f"allocate='per_cost' compares all layers, and scope={self.scope!r} does not")
        check_widths(self.widths, self.min_width)
        for name, value, table in (
            ("reduction", self.reduction, REDUCTIONS),
            ("normalizer", self.normalizer, NORMALIZERS),
        ):
            if value is not None and value not in table:
                raise OptionError(f"{name}={value!r}: choose one of {', '.join(table)}")
        resolve(self.criterion)
        resolve_policy(self.policy)

    def as_json(self) -> dict[str, Any]:
        """The options as plain data for the plan; a criterion that is a function by its name."""
        criterion = self.criterion if isinstance(self.criterion, str) else _name_of(self.criterion)
        budget = self.budget if isinstance(self.budget, str) else self.budgets
        plain = {"criterion": criterion, "keep": list(self.keep), "policy": list(self.policy), "budget": budget}
        return vars(self) | plain | {"widths": {name: list(pair) for name, pair in self.widths.items()}}


def _usual(options: Options) -> str:
    """How the budget is spread where the user leaves it open: as suits the criterion, within the scope."""
    return resolve(options.criterion).allocate if options.scope == "global" else "score"


def _name_of(criterion: Any) -> str:
    score = criterion.score if isinstance(criterion, Criterion) else criterion
    return str(getattr(score, "__name__", type(score).__name__))


@collector_paused()
def make_plan(
    analysis: "Analysis", options: Options, clock: "Clock | None" = None, statistics: Statistics | None = None
) -> "Plan":
    """Score, order, cut. Exact groups first; inexact ones only as `options.exact` allows.

    `clock` tells the time of living channels, for the budget "latency"; `statistics` are those of calibration data, for
    criteria that look at it.
    """
    from .plan import Plan

    options.check()
    budgets = options.budgets
    if "latency" in budgets and clock is None:
        raise OptionError("the budget 'latency' needs the times of a target: graphprune.optimize(..., target=...)")
    free = analysis.free & ~kept_classes(analysis, options.keep)
    exact = analysis.solution.inexact < 0
    model = CostModel.of(analysis, clock)
    before = model.totals(np.ones(free.size, dtype=bool))
    limits = {name: int(np.floor(before[name] * (1 - share) + 1e-9)) for name, share in budgets.items()}
    nothing = [name for name in budgets if not before[name]]
    if nothing and analysis.stored.any():
        raise BudgetError(f"budget: this model has no {nothing[0]} that could become fewer; budget another quantity")
    if not free.any() or not (free & exact).any() and options.exact is True:
        raise NothingToPruneError(f"nothing can be dropped from this model.\n{_in_the_way(analysis, options)}")
    ways = [free] if options.exact is False else [free & exact]
    if options.exact == "prefer" and (free & ~exact).any():
        ways.append(free)
    multiples = analysis.graph.alignments if options.multiple_of is None else (options.multiple_of,)
    tries = [(candidates, replace(options, multiple_of=multiple)) for candidates in ways for multiple in multiples]
    if options.criterion != "random":
        check_finite(analysis)
    least = before
    for candidates, options in tries:
        units, order = _ordered(analysis, options, candidates, statistics)
        account = Account(model, units, limits)
        if (options.allocate or _usual(options)) == "per_cost":
            order = by_cost(account, order)
        staying = cut(account, order)
        if staying is None:
            floor = model.totals(alive_after(account, order, order.total)[units.of_class])
            least = {name: min(least[name], value) for name, value in floor.items()}
            continue
        alive = staying[units.of_class]
        after = model.totals(alive)
        closely = any(limit - after[name] <= WASTE * before[name] for name, limit in limits.items())
        if closely or options.multiple_of == multiples[-1]:
            touched = ~alive & ~exact
            if touched.any() and options.exact == "prefer":
                _warn_inexact(analysis, touched)
            return Plan.of(analysis, alive, options.as_json(), before, after)
    raise _unreachable(analysis, options, before, least, limits, statistics)


def _ordered(
    analysis: "Analysis", options: Options, free: NDArray[np.bool_], statistics: Statistics | None = None
) -> tuple[Units, Granules]:
    """Units and the granules in the order in which they are dropped."""
    criterion = resolve(options.criterion)
    if criterion.needs and statistics is None:
        raise CriterionError(f"criterion={options.criterion!r} looks at data: pass data=, an iterable of batches")
    scores = class_scores(analysis, criterion, free, options.seed, statistics, options.reduction)
    scored = ~np.isnan(scores)
    if free.any() and not (free & scored).any():
        name = options.criterion if isinstance(options.criterion, str) else "the criterion"
        line = (
            f"{name} has nothing to say of the groups that may be dropped (keep= and locks leave only tensors that it "
            "does not score): keep less, or choose another criterion"
        )
        raise CriterionError("\n".join([line, *_unseen(options, statistics)]))
    units = build_units(analysis, np.where(scored, scores, 0.0), free & scored)
    units = _normalised(units, NORMALIZERS[options.normalizer or criterion.normalizer])
    multiples = _multiples(analysis, units, options.multiple_of or 1)
    limits = bounds(analysis, units, options.widths, options.min_width)
    pools = {"global": None, "layer": np.arange(multiples.size), "isomorphic": None}[options.scope]
    if options.scope == "isomorphic":
        pools = isomorphic(analysis, units)
    order = granules(units, _protected(analysis, units), multiples, pools, limits)
    check_reach(analysis, units, order, limits, multiples)
    return units, order


def _multiples(analysis: "Analysis", units: Units, multiple_of: int) -> Labels:
    """Of what the numbers of units of every family become multiples: what the user asks for and what kernels need."""
    result = steps_of(analysis, units, multiple_of)
    for labels, multiple in analysis.equations.multiples:
        families = np.unique(units.family[units.of_class[analysis.solution.classes[labels]]])
        result[families] = np.lcm(result[families], multiple)
    return result


def _normalised(units: Units, normalizer: Normalizer) -> Units:
    """Scores that can be compared between layers; those of units that stay anyway do not count."""
    score = units.score.copy()
    score[units.free] = normalizer(score[units.free], units.family[units.free], int(units.family.max()) + 1)
    return replace(units, score=score)


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


def _warn_inexact(analysis: "Analysis", touched: NDArray[np.bool_]) -> None:
    first = analysis.solution.inexact[np.flatnonzero(touched)[0]]
    reason = analysis.equations.inexact[first][1]
    warnings.warn(
        f"the budget is out of reach of exact groups, so {int(touched.sum())} inexact ones were dropped ({reason}); "
        "pass exact=True to refuse this",
        stacklevel=4,
    )


def _unreachable(
    analysis: "Analysis",
    options: Options,
    before: Mapping[str, int],
    least: Mapping[str, int],
    limits: Mapping[str, int],
    statistics: Statistics | None,
) -> BudgetError:
    """What is out of reach, how far one gets, and what stands in the way."""
    lines, reachable = [], None
    for name, limit in limits.items():
        if least[name] > limit:
            most = 1 - least[name] / before[name]
            reachable = most if reachable is None else reachable
            lines.append(
                f"sparsity={options.budgets[name]} allows {limit:,} of {before[name]:,} {UNITS.get(name, name)}, but "
                f"at least {least[name]:,} must stay (sparsity {most:.3f} is the most that can be reached with these "
                "options)."
            )
    if (options.multiple_of or 1) > 1:
        lines.append(
            f"Channel counts stay multiples of {options.multiple_of}: a smaller multiple_of= may reach further."
        )
    lines += _unseen(options, statistics)
    return BudgetError("\n".join([*lines, _in_the_way(analysis, options)]), reachable)


def _unseen(options: Options, statistics: Statistics | None) -> list[str]:
    """A line on what the criterion has nothing to say of because nobody looked at the data there, if there is any."""
    found = [] if statistics is None else [f"{name} {reason}" for name, reason in statistics.unseen.items()]
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    name = options.criterion if isinstance(options.criterion, str) else "the criterion"
    line = f"{name} has nothing to say of channels that are read where it cannot look: {'; '.join(found[:3])}{more}."
    return [f"{line} They stay; wanda and other criteria score them."] if found else []


def _in_the_way(analysis: "Analysis", options: Options) -> str:
    """The locks, those by `keep=` among them."""
    kept = np.flatnonzero(kept_classes(analysis, options.keep) & analysis.free)
    return lock_summary(analysis.locked(kept, "is named by keep=", "keep less") if kept.size else analysis)


UNITS = {"memory": "bytes of peak activation memory", "latency": "ns of predicted latency"}
"""What quantities are called whose names do not say it."""
