"""Running averages of the weights (EMA, SWA): modules of the same form, or tensors by name. They are sliced along."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ...errors import TrainingError
from ...plan import Plan
from .inplace import Change, changes_of, own_forwards, set_tensor
from .slicing import canonical_names, shapes_of, slim_tensor
from .twins import stored_tensors

Averages = tuple[Any, ...]

Apply = Callable[[torch.nn.Module], torch.nn.Module]
"""What makes a slim copy of a module."""


def averages_of(ema: Any, module: torch.nn.Module) -> Averages:
    """The modules and dictionaries that hold averages. Raises `TrainingError` where they are of another form."""
    if ema is None:
        return ()
    given = tuple(ema) if isinstance(ema, (list, tuple)) else (ema,)
    return tuple(_average(one, module) for one in given)


def _average(ema: Any, module: torch.nn.Module) -> Any:
    kind = type(ema).__name__
    if isinstance(ema, torch.nn.Module):
        wanted = shapes_of(module)
        for found in (ema, getattr(ema, "module", None)):  # AveragedModel holds what it averages as `module`
            if isinstance(found, torch.nn.Module) and shapes_of(found) == wanted:
                return found
        raise TrainingError(f"ema is a {kind} whose tensors have other names or shapes than those of the model")
    if isinstance(ema, Mapping):
        check_average(ema, module)
        return ema
    raise TrainingError(
        f"ema is a {kind}: pass an AveragedModel, a module of the form of the model, or a dict of tensors by name"
    )


def check_average(average: Any, module: torch.nn.Module) -> None:
    """Raise `TrainingError` where an average no longer has the form of the module."""
    if isinstance(average, torch.nn.Module):
        if shapes_of(average) != shapes_of(module):
            raise TrainingError("the averaged model and the model have tensors of other names or shapes by now")
        return
    shapes = {name: tuple(tensor.shape) for name, tensor, _ in stored_tensors(module)}
    for name, tensor in average.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if name not in shapes:
            raise TrainingError(
                f"ema holds {name!r}, which is no tensor of the model: names look like {list(shapes)[:3]}"
            )
        if tuple(tensor.shape) != shapes[name]:
            raise TrainingError(f"ema holds {name} of shape {tuple(tensor.shape)}; the model's has {shapes[name]}")


def average_changes(averages: Averages, module: torch.nn.Module, plan: Plan, apply: Apply) -> Iterator[Change]:
    """What gives the averages the sizes that a plan leaves of `module`."""
    firsts = canonical_names(module)
    names = {name: firsts[id(tensor)] for name, tensor, _ in stored_tensors(module)}
    for average in averages:
        if isinstance(average, torch.nn.Module):
            with own_forwards(average):
                yield from changes_of(average, apply(average), plan)
            continue
        for alias, tensor in average.items():
            name = names.get(alias)
            if isinstance(tensor, torch.Tensor) and name is not None and (name in plan.kept or name in plan.lookups):
                yield set_tensor(tensor, slim_tensor(tensor, plan, name), None)
