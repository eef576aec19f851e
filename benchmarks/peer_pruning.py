"""Torch-Pruning on a model, at a number of multiply-adds: the peer of the accuracy benchmarks."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import functional

import graphprune

CRITERIA = ("Magnitude", "BNScale", "LAMP", "FPGM", "Taylor", "Hessian")
"""Its importances by name; each is tried with layers compared globally and with the same share of every layer."""


def macs(model: torch.nn.Module, example: torch.Tensor) -> int:
    """Multiply-adds as GraphPrune counts them, for the models of both."""
    return graphprune.analyze(model, example).cost().macs


def pruned(
    model: torch.nn.Module,
    example: torch.Tensor,
    target: float,
    criterion: str,
    everywhere: bool,
    keep: Callable[[torch.nn.Module], Iterable[torch.nn.Module]],
    batches: list[tuple[torch.Tensor, torch.Tensor]],
) -> torch.nn.Module | None:
    """A copy with at most `target` multiply-adds: the smallest ratio that reaches it; None where none does."""
    import torch_pruning

    def at(ratio: float) -> torch.nn.Module | None:
        slim = copy.deepcopy(model)
        importance = getattr(torch_pruning.importance, f"{criterion}Importance")()
        options: dict[str, Any] = {"pruning_ratio": ratio, "ignored_layers": list(keep(slim))}
        pruner = torch_pruning.pruner.BasePruner(
            slim, example, importance=importance, global_pruning=everywhere, **options
        )
        if criterion in ("Taylor", "Hessian"):
            _learn(slim, importance, criterion, batches)
        try:
            pruner.step()
            slim.zero_grad(set_to_none=True)
            slim(example)
        except Exception:
            return None
        return slim

    low, high, best = 0.0, 1.0, None
    for _ in range(9):
        ratio = (low + high) / 2
        slim = at(ratio)
        if slim is None or macs(slim, example) > target:
            low = ratio
        else:
            best, high = slim, ratio
    return best


def _learn(model: torch.nn.Module, importance: Any, criterion: str, batches: Any) -> None:
    """Gradients for the importances that read them, as its manual says."""
    model.zero_grad()
    if criterion == "Taylor":
        for images, labels in batches:
            functional.cross_entropy(model(images), labels).backward()
        return
    importance.zero_grad()
    for images, labels in batches:
        for image, label in zip(images[:16].split(1), labels[:16].split(1), strict=True):  # sample by sample
            model.zero_grad()
            functional.cross_entropy(model(image), label).backward()
            importance.accumulate_grad(model)


def reestimated(model: torch.nn.Module, batches: list[torch.Tensor]) -> torch.nn.Module:
    """A copy with batch-norm statistics of these batches, which any user of any pruner can have."""
    fresh = copy.deepcopy(model)
    for part in fresh.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    fresh.train()
    with torch.no_grad():
        for images in batches:
            fresh(images)
    return fresh.eval()
