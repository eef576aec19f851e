"""Helpers for tests of training: what a plan leaves of a tensor, worked out position by position."""

import copy

import torch
from torch import nn

import graphprune


def sliced(tensor: torch.Tensor, axes: dict) -> torch.Tensor:
    """The kept positions of every axis, those of blocks row by row."""
    for axis, kept in sorted(axes.items(), reverse=True):  # axis 0 last, so that blocks are whole
        if kept.ndim == 1:
            tensor = torch.stack([tensor.select(axis, int(position)) for position in kept], axis)
        else:
            size = tensor.shape[0] // len(kept)
            rows = [tensor[row * size : (row + 1) * size] for row in range(len(kept))]
            tensor = torch.cat([sliced(part, {axis: own}) for part, own in zip(rows, kept, strict=True)])
    return tensor


def zeroed(tensor: torch.Tensor, axes: dict) -> torch.Tensor:
    """The same tensor with zeros where a plan drops something."""
    mask = torch.zeros(tensor.shape, dtype=torch.bool)
    places = torch.arange(tensor.numel()).reshape(tensor.shape)
    mask.view(-1)[sliced(places, axes).flatten()] = True
    return tensor * mask


@torch.no_grad()
def mask(model: nn.Module, optimizer: torch.optim.Optimizer, plan: graphprune.Plan) -> None:
    """Set to zero, in place, what a plan drops of the parameters, the buffers and the state of the optimizer."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, axes in plan.kept.items():
        tensors[name].copy_(zeroed(tensors[name], axes))
        for key, value in optimizer.state.get(tensors[name], {}).items():
            if isinstance(value, torch.Tensor) and value.shape == tensors[name].shape:
                optimizer.state[tensors[name]][key] = zeroed(value, axes)


def twins(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Copies of a model and of its optimizer that belong together."""
    return copy.deepcopy((model, optimizer))


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Everything that a pruning changes, to compare with later."""
    return copy.deepcopy(
        {
            "weights": dict(model.state_dict()),
            "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
            "optimizer": optimizer.state_dict(),
            "layers": [repr(part) for part in model.modules()],
            "classes": [type(part).__name__ for part in model.modules()],
        }
    )


def same(left, right) -> bool:
    """Whether two snapshots are equal to the last bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
