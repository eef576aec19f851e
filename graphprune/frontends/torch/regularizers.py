"""Penalties that train groups of coupled channels towards zero, before or while they are pruned.

Each is one function of a `View` (the groups of the model as it is) and one line in `REGULARIZERS`.
"""

import functools
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
from .agreement import unwrapped
from .inplace import own_forwards
from .twins import device_of, stored_tensors

Tensor = torch.Tensor


class Membership(NamedTuple):
    """The groups of the positions of one axis of a parameter.

    `group` (positions of the axis, or rows x positions; int64) numbers them; the number of groups stands for none.
    `counted` tells which elements count here: one that is in the same group by an axis before does not count twice.
    None where all do.
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
            rows = member.group.shape[0] if member.group.ndim == 2 else 1
            blocks = values.reshape(rows, -1, *values.shape[1:])
            others = [axis for axis in range(1, blocks.ndim) if axis != member.axis + 1]
            sums = blocks.sum(others) if others else blocks
            total = total.index_add(0, member.group.flatten(), sums.flatten())
        return total[:-1]


def group_lasso(view: View) -> Tensor:
    """Sum over groups of sqrt(size) * norm of all members.

    Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006; for channels: Wen et al.,
    "Learning Structured Sparsity in Deep Neural Networks", 2016. Here a group is everything that goes together.
    """
    squares = view.squares()
    alive = squares > 0  # at 0 the norm has no derivative; 0 is as good as any, and keeps what is 0 there
    norms = torch.where(alive, squares, 1.0).sqrt() * alive
    return (view.sizes.sqrt() * norms).sum()


def bn_scale(view: View) -> Tensor:
    """Sum of absolute scales of normalisations: Liu et al., "Network Slimming", 2017."""
    if not view.scales:
        raise TrainingError(
            "bn_scale: no channel that may be dropped has the scale of a normalisation; try group_lasso"
        )
    return torch.stack([parameter[index].abs().sum() for parameter, index in view.scales]).sum()


def growing(view: View) -> Tensor:
    """Half the sum of squares of all members of all groups; only groups to be dropped are in the view.

    An element that goes with two groups counts in both. The strength grows:
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
        self,
        penalty: Callable[[View], Tensor],
        module: torch.nn.Module,
        inputs: Any,
        strength: float,
        growth: "Growth | None",
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
        value = strength * self.penalty(view)
        return value if value.requires_grad else value.requires_grad_()  # where nothing is left to press on

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
        self.budget = options.get("budget", "params")
        if not isinstance(self.budget, str):
            raise OptionError(f"budget={self.budget!r}: 'growing' presses on what one budget would drop; name one")
        self.before: dict[str, Any] | None = None

    def strength(self, step: float, calls: int) -> float:
        """More by one `step` after every so many calls."""
        return min(self.ceiling, step * (calls // self.every + 1))

    def look(self, module: torch.nn.Module, inputs: Any) -> View:
        """The groups that a plan would drop now, on the way to a sparsity of the model as it was at first."""
        from .modules import analyze

        analysis = analyze(module, inputs)
        cost = analysis.cost()._asdict()
        self.before = self.before or cost
        quantities = {name: [self.before[name], cost[name]] for name in cost}
        goals = relative_goals({self.budget: self.sparsity}, quantities)
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
    tensors = {name: tensor for name, tensor, kind in stored_tensors(module) if kind == "parameter"}
    count = int(wanted.sum())
    number = np.full(analysis.solution.count, count, dtype=np.int64)
    number[wanted] = np.arange(count)
    role, members, scales = roles(analysis), list[Membership](), list[tuple[Tensor, Tensor]]()
    sizes = np.zeros(count + 1)
    before: dict[str, list[NDArray[np.int64]]] = {}
    for (name, axis), classes in analysis.leaf_classes.items():
        group = number[classes]
        if name not in tensors or (group == count).all():
            continue
        parameter = tensors[name]
        wide = _wide(group, axis, tuple(parameter.shape))
        counted = _counted(wide, before.setdefault(name, []), count)
        before[name].append(wide)
        every = np.broadcast_to(wide, parameter.shape)
        np.add.at(sizes, every[np.broadcast_to(counted, parameter.shape)] if counted is not None else every, 1)
        place = parameter.device
        mask = None if counted is None else torch.from_numpy(counted).to(place)
        members.append(Membership(parameter, axis, torch.from_numpy(group).to(place), mask))
        if role.get(name) == "scale":
            scales.append((parameter, torch.from_numpy(np.flatnonzero(group.ravel() < count)).to(place)))
    kind = functools.reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()}, torch.float32)
    return View(members, torch.from_numpy(sizes[:-1]).to(device_of(module), kind), scales)


def _wide(group: NDArray[np.int64], axis: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The groups of the positions of an axis in an array that broadcasts to the shape of the tensor."""
    spread = [1] * len(shape)
    spread[axis] = shape[axis]
    if group.ndim == 2:
        group, spread[0] = np.repeat(group, shape[0] // len(group), axis=0), shape[0]
    return group.reshape(spread)


def _counted(wide: NDArray[np.int64], before: list[NDArray[np.int64]], none: int) -> NDArray[np.bool_] | None:
    """Which elements are in their group by this axis and by none before it; None where that is all of them."""
    twice = [(wide == other) & (wide < none) for other in before if (np.intersect1d(wide, other) < none).any()]
    return ~functools.reduce(np.logical_or, twice) if twice else None


def regularizer(
    kind: "str | Callable[[View], Tensor]",
    model: torch.nn.Module,
    example_inputs: Any = None,
    *,
    strength: float = 1e-4,
    sparsity: float = 0.5,
    every: int = 10,
    ceiling: float = 1.0,
    **options: Any,
) -> Regularizer:
    """A penalty for the loss of a training, over the groups of channels that can only go together.

    **Arguments:**

    - `kind`: "group_lasso": the norms of whole groups, coupled members of all layers in one norm (Yuan and Lin, 2006;
      Wen et al., 2016); "bn_scale": the absolute scales of normalisations (Liu et al., "Network Slimming", 2017);
      "growing": squares of the groups that are to be dropped, more and more of them (Wang et al., 2021); or a function
      of a `View` that returns a tensor of no axes.
    - `model`: an `nn.Module`; it is followed when a `Schedule` prunes it in place.
    - `example_inputs`: as in `optimize`.
    - `strength`: what the penalty is multiplied with; for "growing" the amount that is added each time.
    - `sparsity`, `every`, `ceiling` and options of `Analysis.plan`: for "growing" alone: which groups are to go (those
      that a plan for this sparsity of the model as it is now would drop), after how many calls the strength grows, and
      its largest value.

    **Returns:** a `Regularizer`: call it once per step and add what it returns to the loss. Where it grows, its
    `state_dict()` belongs into checkpoints.

    **Raises:** `OptionError` for an unknown kind or other values; what `analyze` and `Analysis.plan` raise; when
    called, `TrainingError` where the model has no such groups.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    penalty = graphprune.regularizer("group_lasso", net, torch.randn(1, 4), strength=1e-3)
    loss = net(torch.randn(8, 4)).square().mean() + penalty()
    loss.backward()
    ```
    """
    if not callable(kind) and kind not in REGULARIZERS:
        raise OptionError(f"kind={kind!r}: choose one of {', '.join(REGULARIZERS)}, or pass a function of a View")
    if kind != "growing" and options:
        raise OptionError(f"{next(iter(options))} belongs to kind='growing' alone")
    if not strength >= 0 or not ceiling >= 0 or every < 1:
        raise OptionError(
            f"strength={strength!r} and ceiling={ceiling!r} must be at least 0, every={every!r} at least 1"
        )
    module = unwrapped(model)
    growth = Growth(sparsity, every, ceiling, options) if kind == "growing" else None
    return Regularizer(kind if callable(kind) else REGULARIZERS[kind], module, example_inputs, strength, growth)
