"""The frontend's verb `recover`: a pruned module whose weights make up for what is gone, without training."""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from ...analysis import Analysis
from ...effort import samples_at_once
from ...errors import DataError, GraphPruneError, OptionError, UnsupportedModelError, WeightsError
from ...plan import Plan
from ...progress import Progress
from ...reconstruction import METHODS, Recovery
from .batches import NO_BATCHES, Batch, batches_of, running, samples_of
from .copying import copy_with
from .follow import OTHER_WAY, moved
from .inputs import Inputs, rebuild
from .losses import real_outputs
from .norm_statistics import reestimate
from .read import analyze, trace
from .recovering import Method, refit
from .rewriting import graph_modules
from .synthesis import synthesise
from .trial import some_of
from .twins import device_of, stored_tensors

BATCHES = 64
"""Batches that are used, at most: as many runs stand in memory at the same time."""


def recovered(
    original: torch.nn.Module,
    slim: torch.nn.Module,
    plan: Plan,
    analysis: Analysis,
    data: Any,
    method: str,
    progress: Progress | None = None,
) -> tuple[torch.nn.Module, Recovery]:
    """A copy of `slim` with other weights, and what was won; `slim` itself where nothing was.

    `analysis` and `plan` are those of `original`. Without data, inputs are made from batch-norm statistics. Raises
    `DataError` for data that does not fit, `UnsupportedModelError` where the pruned model runs other operations.
    """
    if method not in METHODS:
        raise OptionError(f"recover={method!r}: choose one of {', '.join(METHODS)}")
    if any(tensor.is_meta for _, tensor, _ in stored_tensors(slim)):
        raise WeightsError("recover=: the model is on the meta device and has no numbers. Load weights first.")
    example = rebuild(analysis.inputs)
    if data is None:
        data = [Batch(Inputs((made,), {})) for made in synthesise(original, example, progress)]
    batches = _within_memory(data, example, analysis, device_of(slim))
    better = copy_with(slim, {})
    modes = [(part, part.training) for part in better.modules()]
    before = _error(original, slim, batches)
    if not math.isfinite(before):
        raise DataError("recover=: outputs are not finite on data=, or of other shapes after pruning")
    layers = []
    if method == "batch_norm":
        reestimate(better, batches)
    else:
        origin, told = _alike(original, slim, plan, analysis, example)
        with _followed(origin, method):
            layers = refit(origin, better, plan, told, batches, _METHODS[method], progress)
    for part, mode in modes:
        part.training = mode
    after = _error(original, better, batches)
    recovery = Recovery(method, sum(samples_of(given) for given in batches), before, after, layers)
    return (better if after < before else slim), recovery


_METHODS = {"least_squares": Method(), "bias": Method(weights=False)}


@contextmanager
def _followed(origin: torch.nn.Module, method: str) -> Iterator[None]:
    """What goes wrong while runs are followed is an error of ours, with a way out."""
    try:
        yield
    except GraphPruneError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"recover={method!r}: the run of {type(origin).__name__} could not be followed layer by layer "
            f"({type(error).__name__}: {error}). {_ELSE}"
        ) from error


_ELSE = "Pass recover='batch_norm' where it has batch norms, or recover=False."


def _alike(
    original: torch.nn.Module, slim: torch.nn.Module, plan: Plan, analysis: Analysis, example: Inputs
) -> tuple[torch.nn.Module, Analysis]:
    """The original in a form that runs the operations of `slim`: a graph where `slim` was rewritten as one."""
    wanted = _operations(trace(slim, example)[0])
    if _operations(analysis.graph) == wanted:
        return original, analysis
    if isinstance(slim, fx.GraphModule):
        for whole in graph_modules(original, example):
            told = analyze(whole, example, plan.policy)
            if _operations(told.graph) == wanted:
                return whole, told
    raise UnsupportedModelError(
        f"recover=: the code of {type(original).__name__} was rewritten with the new sizes and runs other operations "
        f"than the original, so that layers cannot be compared one by one. {_ELSE}"
    )


def _operations(graph: Any) -> list[str]:
    return [node.op for node in graph.nodes if node.measured]


def _within_memory(data: Any, example: Inputs, analysis: Analysis, device: torch.device) -> list[Inputs]:
    """As many of the batches as fit, on the model's device. All of them stand in memory at the same time."""
    left, chosen = samples_at_once(analysis, samples_of(example)), list[Inputs]()
    for batch in batches_of(data, example):
        chosen += [moved(given, device) for given in some_of([batch.inputs], left)]
        left -= samples_of(batch.inputs)
        if left <= 0 or len(chosen) == BATCHES:
            break
    if not chosen:
        raise DataError(NO_BATCHES)
    return chosen


@torch.no_grad()
def _error(original: torch.nn.Module, slim: torch.nn.Module, batches: list[Inputs]) -> float:
    """The squared distance of outputs from those of the original, relative to their energy; the mean over outputs."""
    apart: dict[int, float] = defaultdict(float)
    energy: dict[int, float] = defaultdict(float)
    wide, narrow = _evaluating(original), _evaluating(slim)
    for number, given in enumerate(batches):
        with running(number):
            expected = _outputs(wide, given)
        try:
            found = _outputs(narrow, given)
        except Exception as error:
            ran = f"the pruned model fails on batch {number} of data= ({error})"
            raise DataError(OTHER_WAY.format(ran=ran, expected="other operations")) from error
        if [item.shape for item in expected] != [item.shape for item in found]:
            return math.inf
        for place, (left, right) in enumerate(zip(expected, found, strict=True)):
            apart[place] += float((right - left).square().sum())
            energy[place] += float(left.square().sum())
    return sum(apart[place] / max(energy[place], 1e-30) for place in apart) / len(apart)


def _outputs(module: torch.nn.Module, given: Inputs) -> list[torch.Tensor]:
    own = moved(given, device_of(module), copy=True)  # some models write into their inputs
    return [output.double() for output in real_outputs(module(*own.args, **own.kwargs))]


def _evaluating(module: torch.nn.Module) -> torch.nn.Module:
    """A copy that shares the parameters, in evaluation mode; an exported graph, which refuses eval(), has no other."""
    twin = copy_with(module, {id(tensor): tensor for tensor in module.parameters()})
    for part in twin.modules():
        part.training = False
    return twin
