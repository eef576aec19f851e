"""Recover accuracy without training: refit the layers of a pruned model, in order, to what the original computed.

The original and the pruned model run over the calibration batches from one layer whose result counts to the next.
There the weights are fitted by least squares to the original's result, on the inputs that the pruned model really has
by then. Where a result is added to a stream, what the stream has already lost goes into the target, so that errors do
not pile up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...analysis import Analysis
from ...chains import Chain, absorber_of, alone, chains_of
from ...contractions import OPERANDS, is_product, matrix_of, refusal_of, weight_of
from ...graph import Node, Value
from ...places import dropping
from ...plan import Plan
from ...progress import Progress
from ...reconstruction import Matrix, Refit
from ...refitting import TOO_FEW, WIDEST, fit_rows
from ...shapes import Alive, living
from .batches import Batch
from .links import back_through, before, leads_back, other_of
from .products import Product, contraction_in, data_of, nodes_of
from .walk import Array, Walk
from .writing import numbers_of, write


def refit(
    original: ir.Model,
    slim: ir.Model,
    plan: Plan,
    analysis: Analysis,
    batches: Sequence[Batch],
    weights: bool = True,
    progress: Progress | None = None,
) -> list[Refit]:
    """Refit the layers of `slim`, in place; without `weights` only biases move.

    `analysis` and `plan` are those of `original`.
    """
    task = _Task(original, slim, analysis, living(analysis, plan), batches)
    done = _left_alone(task)
    for number, chain in enumerate(task.chains):
        if progress is not None:
            progress("refit layers", number, len(task.chains))
        done.append(_refit_one(task, chain, weights))
    return done


class _Task:
    """Both models on their way through the batches, and the chains to be refitted, in the order of their ends."""

    def __init__(
        self, original: ir.Model, slim: ir.Model, analysis: Analysis, alive: Alive, batches: Sequence[Batch]
    ) -> None:
        self.slim, self.alive = slim, alive
        self.nodes, self.own = analysis.graph.nodes, nodes_of(slim)
        self.layouts = analysis.layouts
        self.wide, self.narrow = Walk(original, batches), Walk(slim, batches)
        self.chains = _chains(self.nodes, self.own)

    def products(self, chain: Chain) -> list[Product]:
        """The contraction of a chain in the pruned model, batch by batch, with what it should give.

        Nothing where sizes are such that this is not known.
        """
        end = self.nodes[chain.end].outputs[0]
        links = [self.nodes[link] for link in chain.links]
        goals = self.wide.at([end.name])
        data, stream = data_of(chain.contraction), [other_of(chain, self.nodes)] if chain.meets else []
        start = self.own[self.nodes[chain.start].name]
        seen = self.narrow.at([data, *map(before, links), *stream], moving=[start])
        products = []
        for goal, values in zip(goals, seen, strict=True):
            target = self._left(goal[end.name], end)
            if target is None or any(values[name].shape != target.shape for name in stream):
                return []
            for name in stream:
                target = target - values[name]
            for link in reversed(links):
                name = before(link)
                target = back_through(self.slim, self.own[link.name], name, values[name], target)
            products.append(Product.of(chain.contraction, start, values[data], target))
        return products if all(product.fits for product in products) else []

    def _left(self, target: Array, value: Value) -> Array | None:
        """The positions that live of a value of the original; None where they depend on the size of the batch."""
        for places in dropping(self.layouts[value], target.shape, self.alive):
            if places.kept.shape != tuple(target.shape[axis] for axis in places.axes):
                return None
            target = places.compress(target)
        return target


def _chains(nodes: Sequence[Node], own: Mapping[str, ir.Node]) -> list[Chain]:
    """The chains of an analysis as far as they are operators of the pruned model."""
    found = []
    for chain in chains_of(nodes):
        contraction = contraction_in(nodes[chain.start], own)
        if contraction is not None:
            whole = chain if leads_back(chain, nodes, own) else alone(chain)
            found.append(replace(whole, contraction=contraction))
    return sorted(found, key=lambda chain: chain.end)


def _left_alone(task: _Task) -> list[Refit]:
    """Products that are not refitted, with the reason."""
    refitted = {id(task.nodes[chain.start]) for chain in task.chains}
    left = []
    for node in task.nodes:
        if is_product(node) and id(node) not in refitted:
            weight = node.inputs[OPERANDS[node.op][1]]
            assert weight is not None
            left.append(Refit(weight.name, None, None, refusal_of(node) or "it does more than multiply and add"))
    return left


def _refit_one(task: _Task, chain: Chain, weights: bool) -> Refit:
    contraction, node = chain.contraction, task.own[task.nodes[chain.start].name]
    stored, products = numbers_of(node, 1), task.products(chain)
    if not products or stored is None:
        return Refit(contraction.weight, None, None, "the sizes of its result do not follow the batch")
    start = matrix_of(contraction, stored).astype(np.float64)
    absorber = _absorber(task, chain)
    bias = np.zeros((start.shape[0], start.shape[2]))
    if absorber is not None and absorber.sign > 0:
        bias = absorber.now(bias)
    solve = weights and start.shape[1] <= WIDEST
    found = fit_rows(products, start, bias, absorber is not None, solve)
    if found is None:
        return Refit(contraction.weight, None, None, TOO_FEW)
    if found.better and solve:
        write(task.slim, node, 1, weight_of(contraction, found.weight, stored.shape))
    if found.better and absorber is not None:
        absorber.write(task.slim, found.bias)
    return Refit(contraction.weight, found.before, found.after)


@dataclass(frozen=True)
class _Absorber:
    """What takes up a constant: an input of a node; the sign with which it counts."""

    node: ir.Node
    place: int
    sign: float

    def now(self, like: Matrix) -> Matrix:
        return _stored(self.node, self.place).astype(np.float64).reshape(like.shape)

    def write(self, model: ir.Model, bias: Matrix) -> None:
        numbers = _stored(self.node, self.place)
        fresh = bias.reshape(numbers.shape)
        write(model, self.node, self.place, fresh if self.sign > 0 else numbers - fresh)


def _stored(node: ir.Node, place: int) -> Array:
    numbers = numbers_of(node, place)
    assert numbers is not None
    return numbers


def _absorber(task: _Task, chain: Chain) -> _Absorber | None:
    found = absorber_of(chain, task.nodes)
    if found is None:
        return None
    reader, place = found
    node = task.own.get(reader.name)
    own = reader is chain.contraction.node
    if node is None or not own and node.op_type != "BatchNormalization":
        return None
    return _Absorber(node, 2 if own else place, 1.0 if own else -1.0)
