"""Collect statistics of stored weights over calibration data: what flows into them, and the products of that."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from ...analysis import Analysis
from ...contractions import Contraction, by_kernel, features_of
from ...criteria import CRITERIA
from ...effort import samples_to_try
from ...errors import CriterionError
from ...graph import Value
from ...progress import Progress
from ...refitting import WIDEST, chosen, too_wide
from ...statistics import GRADIENTS, INPUTS, PRODUCTS, SENSITIVITIES, InputMoments, Products, Statistics, added
from .batches import Batch, batches_of, fixed_size, some_of
from .products import Product, contraction_in, data_of, nodes_of
from .read import stored
from .trial import Trial
from .walk import Sessions, Walk, unfit

ROWS = 20
"""Rows per feature that the products of a layer's inputs are taken from, per batch."""

AT_ONCE = 256 * 2**20
"""Bytes of layers' inputs that are looked at together, about."""


def collect(
    model: ir.Model,
    analysis: Analysis,
    data: Any,
    wanted: Iterable[str],
    loss: Any = None,
    progress: Progress | None = None,
) -> Statistics:
    """One pass over the batches; the model is left alone. `analysis` is that of `model`.

    Raises `DataError` for data that is missing, empty, of the wrong form, or on which the model does not run, and
    `CriterionError` where gradients are wanted.
    """
    wishes = frozenset(wanted)
    if wishes & {GRADIENTS, SENSITIVITIES}:
        raise CriterionError(_no_gradients())
    collector = _Collector(model, analysis, wishes)
    for number, batch in enumerate(batches_of(model, data)):
        if progress is not None:
            progress("collect statistics", number, None)
        collector.take(batch)
    return collector.statistics()


def _no_gradients() -> str:
    others = [name for name, criterion in CRITERIA.items() if not {GRADIENTS, SENSITIVITIES} & set(criterion.needs)]
    learning = [name for name in CRITERIA if name not in others]
    return (
        f"{' and '.join(learning)} need gradients of a loss, which ONNX Runtime does not give: choose one of "
        f"{', '.join(others)}, or plan on the torch module that the model was exported from and apply that plan here"
    )


class _Collector:
    """Running sums over batches."""

    def __init__(self, model: ir.Model, analysis: Analysis, wanted: frozenset[str]) -> None:
        self.model, self.analysis, self.wanted = model, analysis, wanted
        self.nodes = nodes_of(model)
        found = (contraction_in(node, self.nodes) for node in analysis.graph.nodes)
        self.contractions = [contraction for contraction in found if contraction is not None]
        self.tensors = {value.name or "": tensor for value, tensor in stored(model).items()}
        self.sessions: Sessions = {}
        self.samples = 0
        self.tried: list[Batch] = []
        self.inputs: dict[str, list[Any]] = {}
        self.second: dict[str, list[Any]] = {}
        self.unseen: dict[str, str] = {}
        self.random = np.random.default_rng(0)

    def take(self, batch: Batch) -> None:
        """Run one batch, some layers at a time."""
        walk = Walk(self.model, [batch], self.sessions)
        for layers in self._portions(batch.samples):
            (values,) = walk.at(data_of(contraction) for contraction in layers)
            for contraction in layers:
                own, x = self.nodes[contraction.node.name], values[data_of(contraction)]
                axis, wanted = contraction.channel_axis, _data(contraction).shape
                if x.ndim != len(wanted) or x.shape[axis] != wanted[axis]:
                    raise unfit(batch, f"{own.op_type} {own.name!r} reads {x.shape}, but takes {wanted[axis]} channels")
                self._look(contraction, Product.of(contraction, own, x))
        if PRODUCTS in self.wanted:
            limit = samples_to_try(self.analysis, self._example_samples)
            left = limit - sum(one.samples for one in self.tried)
            self.tried += some_of([batch], left, fixed_size(self.model) is not None) if left > 0 else []
        self.samples += batch.samples

    @property
    def _example_samples(self) -> int:
        shape = self.analysis.graph.inputs[0].shape if self.analysis.graph.inputs else ()
        return max(shape[0], 1) if shape else 1

    def _portions(self, samples: int) -> "list[list[Contraction]]":
        """The layers in order, in portions whose inputs fit into memory together."""
        portions: list[list[Contraction]] = []
        room = 0
        for contraction in self.contractions:
            size = 4 * int(np.prod(_data(contraction).shape)) * samples // self._example_samples
            if room < size or not portions:
                portions.append([])
                room = AT_ONCE
            portions[-1].append(contraction)
            room -= size
        return portions

    def _look(self, contraction: Contraction, product: Product) -> None:
        name = contraction.weight
        if INPUTS in self.wanted:
            x = np.moveaxis(product.x, contraction.channel_axis, 0)
            flat = x.reshape(len(x), -1).astype(np.float64)
            zeros = (flat == 0).sum(axis=1)
            sums = [flat.shape[1], flat.sum(axis=1), np.abs(flat).sum(axis=1), np.square(flat).sum(axis=1), zeros]
            self.inputs[name] = added(self.inputs.get(name), sums)
        features = features_of(contraction, tuple(self.tensors[name].shape.numpy())) if PRODUCTS in self.wanted else 0
        if features > WIDEST:
            self.unseen[name] = too_wide(features)
        elif features:
            rows = chosen(product.positions, max(ROWS * features, 4096), self.random)
            seen = product.features(rows)
            second = (seen.transpose(0, 2, 1) @ seen).astype(np.float64)
            self.second[name] = added(self.second.get(name), [rows.size, second])

    def statistics(self) -> Statistics:
        """Means of what was seen."""
        result = Statistics(self.samples, unseen=self.unseen)
        for contraction in self.contractions:
            name = contraction.weight
            if name in self.inputs:
                count, *sums = self.inputs[name]
                mean, magnitude, square, zeros = (part / count for part in sums)
                axis = 0 if contraction.is_depthwise else contraction.input_axis
                result.inputs[name] = InputMoments(mean, magnitude, square, zeros, axis)
            if name in self.second:
                count, second = self.second[name]
                weight = by_kernel(contraction, self.tensors[name].numpy().astype(np.float64))
                result.products[name] = Products(weight, second / count, contraction.input_axis)
        if self.tried:
            own = [contraction for contraction in self.contractions if contraction.weight in result.products]
            result.trial = Trial(self.model, own, self.tried)
        return result


def _data(contraction: Contraction) -> Value:
    """What a contraction reads beside its weight."""
    return next(value for value in contraction.node.inputs if value and value.name == data_of(contraction))
