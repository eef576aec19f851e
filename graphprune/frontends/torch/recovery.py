"""The frontend's verb `recover`: a pruned module whose weights make up for what is gone, without training."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from ...analysis import Analysis
from ...errors import DataError, OptionError
from ...plan import Plan
from ...reconstruction import METHODS, Recovery
from .batches import batches_of
from .copying import copy_with
from .follow import moved
from .inputs import Inputs, rebuild
from .losses import first_output
from .recovering import Method, refit
from .statistics_of_norms import reestimate
from .synthesis import synthesise
from .trial import some_of
from .twins import device_of

MEMORY = 2 * 1024**3
"""Bytes of activations that the calibration batches may take together, about; it decides how many samples are used."""

Progress = Callable[[str, int, int | None], None]


def recover(
    original: torch.nn.Module,
    slim: torch.nn.Module,
    plan: Plan,
    analysis: Analysis,
    data: Any,
    method: str,
    progress: Progress | None = None,
) -> tuple[torch.nn.Module, Recovery]:
    """A copy of `slim` with other weights, and what was won; `slim` itself where nothing was.

    `analysis` and `plan` are those of `original`. Without data, inputs are made from batch-norm statistics.
    """
    if method not in METHODS:
        raise OptionError(f"recover={method!r}: choose one of {', '.join(METHODS)}")
    example = rebuild(analysis.inputs)
    if data is None:
        data = synthesise(original, example, progress)
    batches = _within_memory(data, example, analysis, device_of(slim))
    better = copy_with(slim, {})
    modes = [(part, part.training) for part in better.modules()]
    before = _error(original, slim, batches)
    layers = []
    if method == "batch_norm":
        reestimate(better, batches)
    else:
        layers = refit(original, better, plan, analysis, batches, _METHODS[method], progress)
    for part, mode in modes:
        part.training = mode
    after = _error(original, better, batches)
    recovery = Recovery(method, sum(_samples(given) for given in batches), before, after, layers)
    return (better if after < before else slim), recovery


_METHODS = {"least_squares": Method(), "bias": Method(weights=False)}


def _within_memory(data: Any, example: Inputs, analysis: Analysis, device: torch.device) -> list[Inputs]:
    """As many of the batches as fit, on the model's device. All of them stand in memory at the same time."""
    per_sample = max(analysis.cost().memory // max(_samples(example), 1), 1)
    left, chosen = max(int(MEMORY // (2 * per_sample)), 8), list[Inputs]()
    for batch in batches_of(data, example):
        chosen += [moved(given, device) for given in some_of([batch.inputs], left)]
        left -= _samples(batch.inputs)
        if left <= 0:
            break
    if not chosen:
        raise DataError("data= gave no batches; a generator can be read once only: give a list or a DataLoader")
    return chosen


def _samples(given: Inputs) -> int:
    sizes = [leaf.shape[0] for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    return int(sizes[0]) if sizes else 1


@torch.no_grad()
def _error(original: torch.nn.Module, slim: torch.nn.Module, batches: list[Inputs]) -> float:
    """The squared distance of the outputs from those of the original, relative to their energy."""
    apart = energy = 0.0
    runs = [copy_with(module, _shared(module)).eval() for module in (original, slim)]
    for given in batches:
        expected, found = (first_output(run(*given.args, **given.kwargs)).double() for run in runs)
        if expected.shape != found.shape:
            return float("inf")
        apart += float((found - expected).square().sum())
        energy += float(expected.square().sum())
    return apart / max(energy, 1e-30)


def _shared(module: torch.nn.Module) -> dict[int, Any]:
    return {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
