"""Processes that train one model together: the first one decides, and all make sure that they did the same."""

import gc
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ...errors import TrainingError

Kind = TypeVar("Kind")


def together() -> bool:
    """Whether this process is one of several of a process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def attempt(action: Callable[[], Kind]) -> Kind:
    """What an action gives; where it fails in one process, it raises in all of them.

    Without this, the others would wait for it for ever.
    """
    if not together():
        return action()
    result, error = None, None
    try:
        result = action()
    except Exception as caught:  # ours, or one of the user's code: it is raised here, and told to the others
        error = caught
    messages: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise TrainingError(f"process {rank} could not prune, so none of them did. There: {message}")
    return result  # type: ignore[return-value]


def same(fact: str, what: str) -> None:
    """Raise `TrainingError` in all processes unless a fact is the same in all of them."""
    if together():
        facts: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(facts, fact)
        other = next((rank for rank, item in enumerate(facts) if item != facts[0]), None)
        if other is not None:
            raise TrainingError(f"{what} differs between process 0 and process {other}: they train different models")


def from_first(text: str) -> str:
    """What the first process says, in all of them."""
    box = [text]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@torch.no_grad()
def numbers_of_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors the numbers that they have in the first process, in place."""
    if together():
        for tensor in tensors:
            numbers = tensor.detach().contiguous().clone()
            dist.broadcast(numbers, src=0)
            tensor.copy_(numbers)


def is_first() -> bool:
    """Whether this process decides."""
    return not together() or dist.get_rank() == 0


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside of `DistributedDataParallel` and `torch.compile`."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def retire_wrappers(module: torch.nn.Module) -> None:
    """Let every wrapper whose buckets have the sizes before a pruning say so when it is called.

    It would leave out the gradients of what was pruned, for one step without a word.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return

    def refuse(wrapper: Any, *_: Any) -> None:
        raise TrainingError(
            f"this {type(wrapper).__name__} was built for the sizes before the last pruning: where pruner.step() "
            "returns True, wrap the module again"
        )

    for found in gc.get_objects():
        if issubclass(type(found), DistributedDataParallel) and module in found.modules():
            found.register_forward_pre_hook(refuse)
