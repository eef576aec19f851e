"""Penalties that train groups of coupled channels towards zero, before or while they are pruned.

Each is one function of a `View` (the groups of the model as it is) and one line in `REGULARIZERS`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...analysis import Analysis
from ...errors import OptionError, TrainingError
from ...plan import Plan
from ...schedule import relative_goals
from ...scores import roles
from ...shapes import living
from .inplace import own_forwards
from .slicing import shapes_of
from .twins import stored_tensors

Tensor = torch.Tensor


class Membership(NamedTuple):
    """The groups of the positions of one axis of a parameter.

    `group` (positions of the axis, or rows x positions) numbers them, -1 for none. `counted` tells which elements count
    here: one that is in the same group by an axis before does not count twice. None where all do.
    """

    parameter: Tensor
    axis: int
    group: Tensor
    counted: Tensor | None


class View(NamedTuple):
    """The groups that may be dropped from a model, as it is now.

    `members` are their positions, `sizes` (groups) how many elements each has, `scales` (parameter, indices) the scales
    of normalisations among them.
    """

    members: list[Membership]
    sizes: Tensor
    scales: list[tuple[Tensor, Tensor]]

    def squares(self) -> Tensor:
        """The sum of squares of all members of every group."""
        total = self.sizes.new_zeros(self.sizes.numel() + 1)  # the last one takes what is in no group
        for member in self.members:
            values = member.parameter.to(total.dtype).square()
            if member.counted is not None:
                values = values * member.counted
            rows, axis = (member.group.shape[0] if member.group.ndim == 2 else 1), member.axis
            blocks = values.reshape(rows, -1, *values.shape[1:])
            kept = (0, axis + 1) if rows > 1 or member.group.ndim == 2 else ((0, 1) if axis == 0 else (axis + 1,))
            sums = blocks.sum([other for other in range(blocks.ndim) if other not in kept])
            total = total.index_add(0, member.group.flatten().to(total.device), sums.flatten().to(total.device))
        return total[:-1]


def group_lasso(view: View) -> Tensor:
    """Sum over groups of sqrt(size) * norm of all members.

    Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006; for channels: Wen et al.,
    "Learning Structured Sparsity in Deep Neural Networks", 2016. Here a group is everything that goes together.
    """
    squares = view.squares()
    alive = squares > 0  # the norm has no derivative at 0: there the gradient is 0
    norms = torch.where(alive, squares, 1.0).sqrt() * alive
    return (view.sizes.sqrt() * norms).sum()


def bn_scale(view: View) -> Tensor:
    """Sum of absolute scales of normalisations: Liu et al., "Network Slimming", 2017."""
    if not view.scales:
        raise TrainingError("bn_scale: no channel that may be dropped has the scale of a normalisation; try group_lasso")
    return torch.stack([parameter[index].abs().sum() for parameter, index in view.scales]).sum()


def growing(view: View) -> Tensor:
    """Half the sum of squares of all members; the strength grows, and only groups to be dropped are in the view.

    Wang et al., "Neural Pruning via Growing Regularization", 2021.
    """
    return view.squares().sum() / 2


REGULARIZERS: dict[str, Callable[[View], Tensor]] = {
    "group_lasso": group_lasso,
    "bn_scale": bn_scale,
    "growing": growing,
}


class Regularizer:
    """A penalty that follows its model: call it in every step and add what it gives to the loss. See `regularizer`."""

    def __init__(
        self, penalty: Callable[[View], Tensor], module: torch.nn.Module, inputs: Any, strength: float, growth: "Growth | None"
    ) -> None:
        self.penalty, self.module, self.inputs, self.strength, self.growth = penalty, module, inputs, strength, growth
        self.calls = 0
        self._seen: tuple[Any, View] | None = None
        self.view()

    def __call__(self) -> Tensor:
        """The penalty of the model as it is, times its strength: a tensor of no axes with a gradient."""
        view = self.view()
        strength = self.strength if self.growth is None else self.growth.strength(self.strength, self.calls)
        self.calls += 1
        return strength * self.penalty(view)

    def view(self) -> View:
        """The groups of the model, found anew where it has other tensors or sizes than at the last call."""
        now = [(id(tensor), tuple(tensor.shape)) for tensor in self.module.parameters()]
        if self._seen is None or self._seen[0] != now:
            with own_forwards(self.module):
                self._seen = now, self._look()
        return self._seen[1]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the number of calls, and what the growth aims at."""
        return {"calls": self.calls, "before": None if self.growth is None else self.growth.before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.calls = state["calls"]
        if self.growth is not None:
            self.growth.before, self._seen = state["before"], None

    def _look(self) -> View:
        from .modules import analyze

        if self.growth is None:
            analysis = analyze(self.module, self.inputs)
            return _view(self.module, analysis, analysis.free)
        return self.growth.look(self.module, self.inputs)


class Growth:
    """What `growing` needs to know: which groups are to go, and how its strength grows."""

    def __init__(self, sparsity: float, every: int, ceiling: float, options: dict[str, Any]) -> None:
        self.sparsity, self.every, self.ceiling, self.options = sparsity, every, ceiling, options
        self.before: dict[str, Any] | None = None

    def strength(self, step: float, calls: int) -> float:
        """More by one `step` after every so many calls."""
        return min(self.ceiling, step * (calls // self.every + 1))

    def look(self, module: torch.nn.Module, inputs: Any) -> View:
        """The groups that a plan would drop now, on the way to a sparsity of the model as it was at first."""
        from .modules import analyze
        from .training import options_for

        analysis = analyze(module, inputs)
        cost = analysis.cost()._asdict()
        self.before = self.before or cost
        quantities = {name: [self.before[name], cost[name]] for name in cost}
        goals = relative_goals(dict.fromkeys([self.options.get("budget", "params")], self.sparsity), quantities)
        if not goals:  # pruned already
            return _view(module, analysis, np.zeros_like(analysis.free))
        plan = analysis.plan(next(iter(goals.values())), **self.options)
        return _view(module, analysis, _dropped(analysis, plan))


def _dropped(analysis: Analysis, plan: Plan) -> NDArray[np.bool_]:
    """The classes that a plan drops."""
    dropped = np.zeros(analysis.solution.count, dtype=bool)
    dropped[analysis.solution.classes[~living(analysis, plan)]] = True
    return dropped & analysis.stored


def _view(module: torch.nn.Module, analysis: Analysis, wanted: NDArray[np.bool_]) -> View:
    """The wanted classes of an analysis as groups of a module."""
    tensors = {name: tensor for name, tensor, _ in stored_tensors(module)}
    number = np.full(analysis.solution.count, -1, dtype=np.int64)
    number[wanted] = np.arange(wanted.sum())
    role = roles(analysis)
    members, scales = [], []
    sizes = np.zeros(int(wanted.sum()))
    ...
    return View(members, torch.from_numpy(sizes), scales)
