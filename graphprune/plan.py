"""The plan: which positions of which axes stay. Framework-neutral, small, saved as JSON."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .errors import FileFormatError, PlanError, WeightsError
from .files import atomic_path
from .policy import DEFAULT, Policy, resolve_policy
from .sketches import Sketch, is_matrix, sketch

if TYPE_CHECKING:
    from .analysis import Analysis

FORMAT = "graphprune-plan-1"

Kept = dict[str, dict[int, NDArray[np.int64]]]


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A hash of names and shapes of stored tensors; the numbers do not matter, so that retrained weights fit."""
    text = json.dumps(sorted((name, list(shape)) for name, shape in shapes.items()))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(eq=False)
class Plan:
    """The decision what stays.

    `kept[parameter][axis]` are the sorted kept indices (int64) of an axis: 1-D, or 2-D with one row per block
    (the groups of a convolution, each with indices within its group). Axes that stay whole are absent.
    `groups` are new group counts by weight name; `shapes` the shapes of the tensors before; `inputs` describes
    the example inputs; `report` holds costs before and after; `fingerprint` identifies the model.
    `exact` tells that dropping equals masking. `lookups` gives, for a stored index, the new position of every old one.
    `repairs` gives, for the scale of a root-mean-square norm, how many times fewer positions it sees, and the number
    that is added to it before use. `sketches` are those of the matrices that are sliced, by which they are found again
    under other names (see `graphprune.transfer`).

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    plan = graphprune.analyze(net).plan(sparsity=0.5)
    plan.save("plan.json")
    slim = graphprune.Plan.load("plan.json").apply(net)
    ```
    """

    kept: Kept
    groups: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    fingerprint: str
    inputs: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    exact: bool = True
    lookups: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    repairs: dict[str, tuple[float, float]] = field(default_factory=dict)
    sketches: dict[str, Sketch] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        analysis: "Analysis",
        alive: NDArray[np.bool_],
        options: dict[str, Any],
        before: Mapping[str, int],
        after: Mapping[str, int],
    ) -> "Plan":
        """Read the plan off an analysis and the classes that stay alive.

        `options` are what was asked for, as JSON; `before` and `after` are all quantities of the cost model by name.
        """
        kept: Kept = {}
        for (name, axis), classes in analysis.leaf_classes.items():
            living = alive[classes]
            if not living.all():
                kept.setdefault(name, {})[axis] = _indices(living, name, axis)
        classes, counts = analysis.solution.classes, analysis.equations.group_counts
        groups = {name: int(alive[classes[own]].sum()) for name, own in counts.items() if not alive[classes[own]].all()}
        leaves = analysis.graph.leaves
        return cls(
            kept=kept,
            groups=groups,
            shapes={name: leaves[name].shape for name in kept},
            fingerprint=analysis.fingerprint,
            inputs=analysis.inputs,
            options=options,
            report={name: [before[name], after[name]] for name in before},
            exact=bool((alive | (analysis.solution.inexact < 0)).all()),
            lookups=_lookups(analysis, alive),
            repairs=_repairs(analysis, kept),
            sketches=_sketches(analysis, kept),
        )

    @property
    def policy(self) -> Policy:
        """The policy of the analysis that the plan was made from."""
        return resolve_policy(self.options.get("policy", DEFAULT))

    def widths(self) -> list[tuple[str, int, int, int]]:
        """(parameter, axis, size before, size after) of every axis that shrinks."""
        return [
            (name, axis, self.shapes[name][axis], index.shape[-1])
            for name, axes in self.kept.items()
            for axis, index in axes.items()
        ]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """True where an element of a tensor stays; of the tensor's shape, with 1 for axes that stay whole."""
        shape = self.shapes[name]
        mask = np.ones([1] * len(shape), dtype=bool)
        for axis, index in self.kept[name].items():
            rows = np.zeros((index.shape[0] if index.ndim == 2 else 1, shape[axis]), dtype=bool)
            np.put_along_axis(rows, index.reshape(len(rows), -1), True, axis=1)
            spread = [1] * len(shape)
            spread[axis] = shape[axis]
            if index.ndim == 2:
                rows = np.repeat(rows, shape[0] // len(rows), axis=0)
                spread[0] = shape[0]
            mask = mask & rows.reshape(spread)
        return mask

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether the plan was made for a model with exactly these stored tensors, by names and shapes."""
        return fingerprint(shapes) == self.fingerprint

    def apply(self, model: Any, example_inputs: Any = None) -> Any:
        """A slim copy of a model (module, GraphModule, ExportedProgram, ONNX) or of a state dict.

        A plan that was made on a module is carried over to its ONNX export, and the other way round; `plan_of` gives
        the plan in the form of the result. The model given is not touched. Raises `PlanError` for a plan made for
        another model and `ApplyError` where the model's code cannot be kept right with the new sizes.
        """
        from .frontends import frontend_of

        return frontend_of(model).apply(model, self, example_inputs)

    def then(self, second: "Plan") -> "Plan":
        """This plan followed by another one that was made for the pruned model."""
        kept: Kept = {name: dict(axes) for name, axes in self.kept.items()}
        for name, axes in second.kept.items():
            for axis, index in axes.items():
                kept.setdefault(name, {})[axis] = _compose(kept.get(name, {}).get(axis), index, name, axis)
        report = {
            key: [self.report[key][0], second.report[key][1]]
            for key in second.report
            if key in self.report and isinstance(second.report[key], list)
        }
        return Plan(
            kept=kept,
            groups=self.groups | second.groups,
            shapes={**second.shapes, **self.shapes},
            fingerprint=self.fingerprint,
            inputs=second.inputs,
            options=second.options,
            report=report,
            exact=self.exact and second.exact,
            lookups=self.lookups
            | {
                name: moved[self.lookups[name]] if name in self.lookups else moved
                for name, moved in second.lookups.items()
            },
            repairs=self.repairs
            | {
                name: (share * self.repairs.get(name, (1.0,))[0], offset)
                for name, (share, offset) in second.repairs.items()
            },
            sketches=second.sketches | self.sketches,
        )

    def to_json(self) -> str:
        """The plan as JSON text."""
        body = vars(self) | {
            "kept": {n: {str(axis): i.tolist() for axis, i in axes.items()} for n, axes in self.kept.items()},
            "lookups": {name: moved.tolist() for name, moved in self.lookups.items()},
        }
        return json.dumps({"format": FORMAT, "graphprune": __version__, **body}, default=str)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read `to_json`. Raises `FileFormatError` where the text is no plan."""
        try:
            body = json.loads(text)
            if body.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            body.pop("graphprune", None)
            body["kept"] = {
                name: {int(axis): np.asarray(index, dtype=np.int64) for axis, index in axes.items()}
                for name, axes in body["kept"].items()
            }
            lookups = body.get("lookups", {}).items()
            body["lookups"] = {name: np.asarray(moved, dtype=np.int64) for name, moved in lookups}
            body["repairs"] = {name: (share, offset) for name, (share, offset) in body.get("repairs", {}).items()}
            body["shapes"] = {name: tuple(shape) for name, shape in body["shapes"].items()}
            plan = cls(**body)
            plan._check_indices()
            return plan
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"this is not a plan, or it is damaged: {error}. Make and save it again.") from error

    def _check_indices(self) -> None:
        for name, axes in self.kept.items():
            for axis, index in axes.items():
                size = self.shapes[name][axis]
                if index.size == 0 or index.min() < 0 or index.max() >= size or (np.diff(index) <= 0).any():
                    raise ValueError(f"indices of axis {axis} of {name} are not sorted positions below {size}")

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the plan as JSON; the file appears whole or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_text(self.to_json())

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Plan":
        """Read a saved plan. Raises `FileFormatError` for a missing or damaged file."""
        try:
            return cls.from_json(Path(path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(f"{os.fspath(path)} cannot be read as a plan: {error}") from error
        except FileFormatError as error:
            raise FileFormatError(f"{os.fspath(path)}: {error}") from error


UNTOUCHED = Plan({}, {}, {}, "")
"""The plan that drops nothing: it makes plain copies."""


def _indices(living: NDArray[np.bool_], name: str, axis: int) -> NDArray[np.int64]:
    if living.ndim == 1:
        return np.flatnonzero(living)
    counts = living.sum(axis=1)
    if (counts != counts[0]).any():
        raise PlanError(f"internal: the blocks of axis {axis} of {name} would keep {sorted(set(counts.tolist()))}")
    return np.nonzero(living)[1].reshape(len(living), -1)


def _lookups(analysis: "Analysis", alive: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """New positions by old ones for every index into an axis that shrinks; a dropped one repeats the one before."""
    living = {name: alive[analysis.solution.classes[labels]] for name, labels in analysis.equations.lookups.items()}
    return {name: np.maximum(np.cumsum(kept) - 1, 0) for name, kept in living.items() if not kept.all()}


def _repairs(analysis: "Analysis", kept: Kept) -> dict[str, tuple[float, float]]:
    """How many times fewer positions every repaired norm sees."""
    sizes = {name: leaf.shape[0] for name, leaf in analysis.graph.leaves.items() if name in analysis.equations.repairs}
    return {
        name: (size / kept[name][0].size, analysis.equations.repairs[name])
        for name, size in sizes.items()
        if 0 in kept.get(name, {})
    }


def _sketches(analysis: "Analysis", kept: Kept) -> dict[str, Sketch]:
    """What the matrices that are sliced look like, as far as their numbers are at hand."""
    leaves, found = analysis.graph.leaves, {}
    for name in kept:
        if is_matrix(leaves[name].shape):
            try:
                found[name] = sketch(analysis.weights(name))
            except WeightsError:
                continue
    return found


def _compose(first: NDArray[np.int64] | None, second: NDArray[np.int64], name: str, axis: int) -> NDArray[np.int64]:
    if first is None:
        return second
    if first.ndim != second.ndim:
        raise PlanError(f"plans cannot be composed: axis {axis} of {name} is sliced per block in one of them only")
    return np.take_along_axis(first, second, -1) if second.ndim == 2 else first[second]
