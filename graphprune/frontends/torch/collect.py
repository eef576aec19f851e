"""Collect statistics of stored weights over calibration data: inputs, their products, gradients of a loss."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...analysis import Analysis
from ...contractions import Contraction, by_kernel, contraction_of, features_of
from ...effort import samples_to_try
from ...errors import DataError, GraphPruneError, WeightsError
from ...graph import Node
from ...progress import Progress
from ...refitting import WIDEST, chosen, too_wide
from ...statistics import GRADIENTS, INPUTS, PRODUCTS, SENSITIVITIES, InputMoments, Products, Statistics, added
from .batches import NO_BATCHES, Batch, batches_of, running, samples_of
from .follow import Arguments, Runnable, moved
from .inputs import Inputs
from .losses import Loss, loss_of
from .products import Product, numbers_of
from .trial import Trial, some_of
from .twins import stored_tensors

Tensor = torch.Tensor

ROWS = 20
"""Rows per feature that the products of a layer's inputs are taken from, per batch at most an even share of them."""


def collect(
    module: torch.nn.Module,
    analysis: Analysis,
    example: Inputs,
    data: Any,
    wanted: Iterable[str],
    loss: Loss | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """One pass over the batches, in evaluation mode; the module, its gradients and its statistics are left alone.

    Raises `DataError` for data that is missing, empty, of the wrong form, or on which the model does not run.
    """
    if any(tensor.is_meta for _, tensor, _ in stored_tensors(module)):
        raise WeightsError(
            "the model is on the meta device and has no numbers: load weights, or use criterion='random'"
        )
    collector = _Collector(module, analysis, frozenset(wanted), loss, samples_to_try(analysis, samples_of(example)))
    for number, batch in enumerate(batches_of(data, example)):
        if progress is not None:
            progress("collect statistics", number, None)
        collector.take(batch, number)
    if not collector.batches:
        raise DataError(NO_BATCHES)
    statistics = collector.statistics()
    statistics.progress = progress
    return statistics


class _Collector:
    """Running sums over batches."""

    def __init__(
        self, module: torch.nn.Module, analysis: Analysis, wanted: frozenset[str], loss: Loss | None, tries: int
    ) -> None:
        self.wanted, self.loss, self.tries = wanted, loss, tries
        self.learns = bool(wanted & {GRADIENTS, SENSITIVITIES})
        self.run = Runnable(module, analysis, gradients=self.learns)
        self.analysis = analysis
        self.contractions = {
            id(node): found for node in analysis.graph.nodes if (found := contraction_of(node)) is not None
        }
        self.batches = self.samples = 0
        self.tried: list[Inputs] = []
        self.wishes = 0
        self.inputs: dict[str, list[Any]] = {}
        self.second: dict[str, list[Any]] = {}
        self.unseen: dict[str, str] = {}
        self.slopes: dict[str, list[Any]] = {}
        self.found: dict[str, Tensor] = {}
        self.random, self.rows = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def take(self, batch: Batch, number: int) -> None:
        """Run one batch."""
        inputs = moved(batch.inputs, self.run.device)
        with running(number), torch.set_grad_enabled(self.learns):
            outputs = self.run(inputs, self._visit)
        samples = samples_of(inputs)
        if PRODUCTS in self.wanted:
            self.tried += some_of([inputs], self.tries - sum(samples_of(given) for given in self.tried))
        if self.learns:
            self._learn(outputs, moved(batch.targets, self.run.device), samples, number)
        self.batches += 1
        self.samples += samples

    def _learn(self, outputs: Any, targets: Any, samples: int, number: int) -> None:
        with self._losing(number):
            value = loss_of(self.loss, outputs, targets, self.random) * samples
            if not bool(torch.isfinite(value)):
                raise DataError(f"the loss of batch {number} of data= is {value.item()}")
            value.backward()
        for name, tensor in self.run.parameters.items():
            if tensor.grad is None:
                continue
            slope = tensor.grad.double().cpu().numpy()
            if not np.isfinite(slope).all():
                raise DataError(f"the gradient of {name} is not finite on batch {number} of data=")
            if GRADIENTS in self.wanted:
                sums = self.slopes.setdefault(name, [0.0, 0.0])
                sums[0] = sums[0] + slope
                sums[1] = sums[1] + slope**2
            tensor.grad = None

    @contextmanager
    def _losing(self, number: int) -> Iterator[None]:
        try:
            with torch.enable_grad():
                yield
        except GraphPruneError:
            raise
        except Exception as error:
            name = "the loss" if self.loss is None else "loss="
            raise DataError(
                f"{name} cannot be computed, or has no gradient, on batch {number} of data=: {error}. Targets must fit "
                "the outputs; else give loss=, a function of both."
            ) from error

    def _visit(self, node: Node, func: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        contraction = self.contractions.get(id(node))
        if contraction is not None:
            with torch.no_grad():
                self._look(contraction, Product.of(contraction, func, args, kwargs))
            if SENSITIVITIES in self.wanted and result.requires_grad:
                result.register_hook(lambda slope: self._feel(contraction, slope))
        return result

    def _look(self, contraction: Contraction, product: Product) -> None:
        name = contraction.weight
        if INPUTS in self.wanted:
            x = product.x.detach()
            axis = contraction.channel_axis
            flat = x.movedim(axis, 0).reshape(x.shape[axis], -1).double()
            zeros = (flat == 0).sum(1)
            seen = [torch.tensor(flat.shape[1]), flat.sum(1), flat.abs().sum(1), flat.square().sum(1), zeros]
            self.inputs[name] = added(self.inputs.get(name), [part.cpu().double().numpy() for part in seen])
        if PRODUCTS in self.wanted:
            width = features_of(product.contraction, tuple(product.weight.shape))
            if width > WIDEST:
                self.unseen[name] = too_wide(width)
            else:
                rows = chosen(product.positions, max(ROWS * width, 4096), self.rows)
                features = product.features(rows).detach().float()
                second = (features.transpose(1, 2) @ features).double().cpu().numpy()
                self.second[name] = added(self.second.get(name), [np.array(float(rows.size)), second])

    def _feel(self, contraction: Contraction, slope: Tensor) -> None:
        axis = contraction.channel_axis
        energy = slope.double().square().movedim(axis, 0).reshape(slope.shape[axis], -1).sum(1)
        name = contraction.weight
        self.found[name] = self.found[name] + energy if name in self.found else energy

    def statistics(self) -> Statistics:
        """Means of what was seen."""
        tensors = {name: tensor for name, tensor, _ in self.run.stored}
        result = Statistics(self.samples, unseen=self.unseen)
        for contraction in self.contractions.values():
            if contraction.weight in self.inputs:
                count, *sums = self.inputs[contraction.weight]
                axis = 0 if contraction.is_depthwise else contraction.input_axis
                mean, magnitude, square, zeros = (part / count for part in sums)
                result.inputs[contraction.weight] = InputMoments(mean, magnitude, square, zeros, axis)
            if contraction.weight in self.second:
                count, second = self.second[contraction.weight]
                weight = by_kernel(contraction, numbers_of(tensors[contraction.weight]))
                result.products[contraction.weight] = Products(weight, second / count, contraction.input_axis)
        if self.tried:
            contractions = {own.weight: own for own in self.contractions.values()}
            result.trial = Trial(self.run.twin, contractions, tensors, self.tried)
        n = max(self.samples, 1)
        for name, (slopes, squares) in self.slopes.items():
            result.gradients[name], result.squares[name] = slopes / n, squares / n
        result.sensitivities = {name: energy.cpu().numpy() / n for name, energy in self.found.items()}
        return result
