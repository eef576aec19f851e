"""Decide which single weights become zero: options, the exact budget, scores, and the masks that follow.

The budget counts what is not zero, `||W||_0 <= (1 - sparsity) ||W||`, over all parameters or over the weights that may
be zero. It is never exceeded, and hit to the last weight (tile, pattern).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import BudgetError, CriterionError, NothingToPruneError, OptionError
from .masks import Masks
from .matrices import WeightMatrix, weight_matrices
from .patterns import named
from .scores import check_finite
from .sparsity import Kept, Scores, choose, shared, zeros_first
from .structures import Structure

if TYPE_CHECKING:
    from .analysis import Analysis

BUDGETS = ("params", "weights")
SCOPES = ("global", "layer")
DATA_CRITERIA = ("wanda", "sparsegpt")
CRITERIA = ("magnitude", "l2", *DATA_CRITERIA)


@dataclass(frozen=True)
class MaskOptions:
    """What the user asked for; see `graphprune.optimize`. None stands for what structure and criterion suggest."""

    structure: Structure = Structure()
    sparsity: float | None = None
    budget: Any = "params"
    criterion: Any = "magnitude"
    scope: str | None = None
    keep: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `BudgetError`, `CriterionError` or `OptionError` for values that cannot be meant."""
        share, pattern = self.sparsity, self.structure
        if share is not None:
            number = isinstance(share, (int, float, np.number)) and not isinstance(share, bool)
            if not number or not 0 < share < 1:
                raise BudgetError(f"sparsity={share!r} must lie between 0 and 1, exclusive: 0.5 halves the weights")
        if pattern.m and share is not None and abs(share - (1 - pattern.n / pattern.m)) > 1e-9:
            raise BudgetError(
                f"structure='{pattern}' makes {1 - pattern.n / pattern.m:g} of its weights zero, which does not agree "
                f"with sparsity={share}: leave sparsity out, or choose another pattern",
                1 - pattern.n / pattern.m,
            )
        if self.budget not in BUDGETS:
            raise OptionError(f"budget={self.budget!r}: for single weights choose one of {', '.join(BUDGETS)}")
        if self.criterion not in CRITERIA:
            raise CriterionError(
                f"criterion={self.criterion!r}: for single weights choose one of {', '.join(CRITERIA)}"
            )
        if self.scope not in (None, *SCOPES):
            raise OptionError(f"scope={self.scope!r}: choose one of {', '.join(SCOPES)}")
        if self.criterion == "sparsegpt" and self.scope == "global":
            raise OptionError("sparsegpt decides on one layer after the other: choose scope='layer', or leave it out")

    @property
    def by_layer(self) -> bool:
        """Whether every layer loses the same share; criteria that look at data are made for that."""
        return self.scope == "layer" or self.scope is None and self.criterion in DATA_CRITERIA

    def as_json(self) -> dict[str, Any]:
        """The options as plain data."""
        return vars(self) | {"structure": str(self.structure), "keep": list(self.keep)}


@dataclass(frozen=True)
class Task:
    """What is to be decided: the weights that may be zero, how many of them may stay, and what is counted besides."""

    weights: dict[str, WeightMatrix]
    limit: int
    outside: int
    total: int

    @classmethod
    def of(cls, analysis: "Analysis", options: MaskOptions) -> "Task":
        """Raises `NothingToPruneError`, `BudgetError` or `WeightsError`."""
        options.check()
        check_finite(analysis)
        weights = _chosen(analysis, options)
        size = sum(weight.size for weight in weights.values())
        parameters = {name: leaf for name, leaf in analysis.graph.leaves.items() if leaf.kind == "parameter"}
        total = sum(int(np.prod(leaf.shape)) for leaf in parameters.values())
        outside = sum(int(np.count_nonzero(analysis.weights(name))) for name in parameters if name not in weights)
        share = 0.5 if options.sparsity is None else float(options.sparsity)
        if options.structure.m:
            limit = size * options.structure.n // options.structure.m
        elif options.budget == "weights":
            limit = int(np.floor(size * (1 - share) + 1e-9))
        else:
            limit = int(np.floor(total * (1 - share) + 1e-9)) - outside
        if limit < 0:
            reachable = 1 - outside / total
            raise BudgetError(
                f"sparsity={share} allows {limit + outside:,} of {total:,} parameters that are not zero, but "
                f"{outside:,} lie in biases, norms, lookups and what keep= names, where no weight becomes zero "
                f"(sparsity {reachable:.3f} is the most that can be reached). Keep less, or take budget='weights'.",
                reachable,
            )
        return cls(weights, min(limit, size), outside, total)

    def limits(self) -> list[int]:
        """How many weights every layer keeps where all keep the same share."""
        return shared([weight.size for weight in self.weights.values()], self.limit)


def _chosen(analysis: "Analysis", options: MaskOptions) -> dict[str, WeightMatrix]:
    """The weights that may become zero with these options."""
    kept, m = named(analysis.graph, options.keep), options.structure.m
    every = {name: weight for name, weight in weight_matrices(analysis.graph).items() if name not in kept}
    weights = {name: weight for name, weight in every.items() if not m or weight.shape[3] % m == 0}
    if not weights:
        found = ", ".join(f"{weight.name} has {weight.shape[3]} inputs" for weight in list(every.values())[:3])
        reason = (
            f"no weight has a multiple of {m} inputs ({found})" if every else "no product with a stored weight is left"
        )
        raise NothingToPruneError(
            f"no weight can become zero: {reason}. Linear layers, convolutions and products with a stored matrix can; "
            "keep less, or choose another structure."
        )
    return weights


def make_masks(
    analysis: "Analysis", options: MaskOptions, task: Task, norms: Callable[[str], NDArray[np.float64]] | None = None
) -> Masks:
    """Score, choose, account. `norms` gives the squared lengths of a weight's inputs (groups, kernel, inputs)."""
    scores = [_scores(analysis, weight, options.structure, norms) for weight in task.weights.values()]
    limits = task.limits() if options.by_layer else [task.limit]
    chosen = choose(scores, options.structure, limits, alike=options.criterion == "wanda" and options.by_layer)
    return record(analysis, options, task, dict(zip(task.weights, chosen, strict=True)))


def _scores(
    analysis: "Analysis",
    weight: WeightMatrix,
    structure: Structure,
    norms: Callable[[str], NDArray[np.float64]] | None,
) -> Scores:
    """Squares of weights, times the squared lengths of their inputs where these are known."""
    numbers = weight.matrix(analysis.weights(weight.name)).astype(np.float64)
    scores = np.square(numbers)
    if norms is not None:
        scores *= norms(weight.name)[:, None]
    return zeros_first(scores, numbers, structure)


def record(
    analysis: "Analysis",
    options: MaskOptions,
    task: Task,
    chosen: dict[str, Kept],
    updated: Callable[[str], NDArray[Any]] | None = None,
) -> Masks:
    """The masks of a decision, with exact counts of what is not zero before and after."""
    kept = {name: task.weights[name].stored(mask) for name, mask in chosen.items()}
    before = sum(int(np.count_nonzero(analysis.weights(name))) for name in kept)
    weights = updated or analysis.weights
    after = sum(int(np.count_nonzero(weights(name)[mask])) for name, mask in kept.items())
    _warn_empty(kept)
    report = {
        "nonzero": [before + task.outside, after + task.outside],
        "params": task.total,
        "weights": [sum(mask.size for mask in kept.values()), int(sum(mask.sum() for mask in kept.values()))],
    }
    inputs = analysis.inputs
    return Masks(kept, analysis.fingerprint, options.as_json(), report, updated is not None, inputs)


def _warn_empty(kept: dict[str, Kept]) -> None:
    empty = [name for name, mask in kept.items() if not mask.any()]
    if empty:
        warnings.warn(
            f"no weight is left in {', '.join(empty[:3])}: take scope='layer', a lower sparsity, or keep= for these",
            stacklevel=5,
        )
