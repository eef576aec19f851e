"""The state that optimizers keep of every parameter: followed through a pruning, or refused."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from ...errors import TrainingError, WeightsError
from ...plan import Plan
from .inplace import Change, set_entry, unit_of
from .slicing import slice_tensor

Optimizers = tuple[Any, ...]

_POWERS = {
    "momentum_buffer": 1,
    "exp_avg": 1,
    "grad_avg": 1,
    "prev": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "square_avg": 2,
    "sum": 2,
    "exp_inf": 1,
    "acc_delta": -2,
    "ax": -1,
}
"""The powers of the gradient that are averaged in a state: they change with the unit of a parameter."""


def optimizers_of(optimizer: Any) -> Optimizers:
    """A tuple of optimizers from one or several. Raises `TrainingError` for anything else."""
    found = tuple(optimizer) if isinstance(optimizer, (list, tuple)) else (optimizer,)
    for one in found:
        if not hasattr(one, "param_groups") or not hasattr(one, "state"):
            raise TrainingError(f"a {type(one).__name__} is no optimizer: pass one of torch.optim, or a list of them")
        for name, inner in vars(one).items():
            if isinstance(inner, torch.optim.Optimizer) and inner.state is not one.state:
                raise TrainingError(
                    f"{type(one).__name__} keeps its state in another optimizer, which it holds as .{name}, and may "
                    "hold a part of it only: use the inner optimizer, or prune before training"
                )
    return found


def check_held(module: torch.nn.Module, optimizers: Optimizers) -> None:
    """Raise `TrainingError` unless every parameter that is trained is held by one of the optimizers."""
    held = {id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]}
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    lost = [name for name, parameter in trained if id(parameter) not in held]
    if not lost:
        return
    several = len(lost) < len(trained)
    which = f"{len(lost)} of {len(trained)} trained parameters" if several else "the parameters"
    raise TrainingError(
        f"the optimizer does not hold {which} of {type(module).__name__} (first: {lost[0]}): make it from the "
        "parameters of this very model, pass all optimizers in a list, or freeze what is not trained with "
        "requires_grad_(False)"
    )


def check_state(optimizers: Optimizers, names: Mapping[int, str]) -> None:
    """Raise `TrainingError` for state that cannot be sliced along, `WeightsError` for state that is not finite."""
    for one, parameter, name, key, value in _states(optimizers, names):
        for tensor in _tensors(value):
            if tensor.shape != parameter.shape and tensor.numel() != 1:
                raise TrainingError(
                    f"{type(one).__name__} keeps {key} of shape {tuple(tensor.shape)} for {name} of shape "
                    f"{tuple(parameter.shape)}, and what it means is not known: use an optimizer whose state has the "
                    "shapes of the parameters (SGD, Adam, AdamW, RMSprop, ...), or prune before training"
                )
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise WeightsError(
                    f"the state {key} that {type(one).__name__} keeps of {name} is NaN or infinite: the training has "
                    "diverged. Go back to an earlier checkpoint."
                )


def state_changes(optimizers: Optimizers, names: Mapping[int, str], plan: Plan) -> Iterator[Change]:
    """What slices the state of the parameters that a plan slices."""
    for one, parameter, name, key, value in _states(optimizers, names):
        if name in plan.kept:
            unit = unit_of(name, plan) ** _POWERS.get(key, 0)
            yield set_entry(one.state[parameter], key, _sliced(value, parameter, plan, name, unit))


def _sliced(value: Any, parameter: torch.Tensor, plan: Plan, name: str, unit: float) -> Any:
    def one(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape != parameter.shape:  # a number of steps
            return tensor
        sliced = slice_tensor(tensor, plan.kept[name])
        return sliced if unit == 1 else sliced / unit

    return tree_map_only(torch.Tensor, one, value)


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _states(optimizers: Iterable[Any], names: Mapping[int, str]) -> Iterator[tuple[Any, torch.Tensor, str, str, Any]]:
    """(optimizer, parameter, name, key, value) of all that is kept of parameters of the model."""
    for one in optimizers:
        for parameter, entries in one.state.items():
            if id(parameter) in names:
                for key, value in entries.items():
                    yield one, parameter, names[id(parameter)], key, value
