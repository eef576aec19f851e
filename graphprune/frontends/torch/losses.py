"""What a model's outputs are worth: the loss that gradients are taken of."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from ...errors import DataError

Tensor = torch.Tensor
Loss = Callable[[Any, Any], Tensor]


def loss_of(loss: Loss | None, outputs: Any, targets: Any, random: torch.Generator) -> Tensor:
    """The mean loss of one batch: `loss(outputs, targets)`, or what suits outputs and targets.

    A loss that the model itself computed (`outputs.loss`) comes first; then cross-entropy for targets of whole numbers,
    squared error for others. Without targets, what the model would draw from its own outputs stands for them: squared
    slopes are then those of the Fisher information for outputs with unit variance.
    """
    if loss is not None:
        value = loss(outputs, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise DataError(f"loss= gave {type(value).__name__}; expected a tensor with one number")
        return value.reshape(())
    own = getattr(outputs, "loss", None)
    if isinstance(own, Tensor):
        return own
    first = first_output(outputs)
    if targets is None:
        return _drawn(first, random)
    if not isinstance(targets, Tensor):
        raise DataError(f"targets are {type(targets).__name__}, not a tensor: give loss=, a function of both")
    if not targets.is_floating_point():
        classes = first if first.dim() != 3 else first.transpose(1, 2)
        if tuple(targets.shape) != (classes.shape[0], *classes.shape[2:]):
            raise DataError(
                f"targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(first.shape)}: give loss="
            )
        return F.cross_entropy(classes, targets.long())
    if targets.shape != first.shape:
        raise DataError(
            f"targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(first.shape)}: give loss="
        )
    return F.mse_loss(first, targets)


def first_output(outputs: Any) -> Tensor:
    """The first tensor of real numbers among the outputs; `logits` come first."""
    return real_outputs(outputs)[0]


def real_outputs(outputs: Any) -> list[Tensor]:
    """All tensors of real numbers among the outputs; `logits` alone where there are such. Raises `DataError`."""
    logits = getattr(outputs, "logits", None)
    tree = logits if isinstance(logits, Tensor) else outputs
    tree = vars(tree) if not isinstance(tree, (Tensor, list, tuple, dict)) and hasattr(tree, "__dict__") else tree
    found = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise DataError(
            "the model gives no tensor of real numbers: give loss=, a function of its outputs and the targets"
        )
    return found


def _drawn(output: Tensor, random: torch.Generator) -> Tensor:
    noise = torch.randn(output.shape, generator=random).to(output)
    return (output * noise).sum() / max(output.shape[0], 1)
