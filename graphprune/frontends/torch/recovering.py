"""Recover accuracy without training: refit the layers of a pruned module, in order, to what the original computed.

The original and the pruned module run over the calibration batches side by side. Wherever a layer's result counts they
stop; the layer's weights are fitted by least squares to the original's result at that place, on the inputs that the
pruned module really has by then; then both go on. Where the result is added to a stream, what the stream has already
lost goes into the target, so that errors do not pile up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ...analysis import Analysis
from ...graph import Node
from ...plan import Plan
from ...reconstruction import Moments, Refit, fit
from ...shapes import Alive, living
from .chains import Chain, chains_of, inverse
from .contractions import Product, matrix_of, weight_of
from .follow import Runnable
from .inputs import Inputs
from .lockstep import Walk
from .places import places_of
from .twins import stored_tensors

ROWS = 40
"""Rows of calibration data per feature that a fit looks at, at most; beyond, they are chosen at random."""

WIDEST = 6144
"""Features of a layer above which weights are left alone, and only biases move: moments would not fit into memory."""

Tensor = torch.Tensor


@dataclass(frozen=True)
class Method:
    """What moves: `weights` and biases, or biases alone; `stream`: whether lost parts of a stream are made up for."""

    weights: bool = True
    stream: bool = True


@torch.no_grad()
def refit(
    original: torch.nn.Module,
    slim: torch.nn.Module,
    plan: Plan,
    analysis: Analysis,
    batches: Sequence[Inputs],
    method: Method = Method(),
    progress: Callable[[str, int, int | None], None] | None = None,
) -> list[Refit]:
    """Refit the layers of `slim`, in place. `analysis` and `plan` are those of `original`."""
    alive = living(analysis, plan)
    nodes = [node for node in analysis.graph.nodes if node.measured]
    chains = [chain if method.stream else _alone(chain) for chain in chains_of(nodes)]
    chains = sorted(chains, key=lambda chain: chain.end)
    tensors = {name: tensor for name, tensor, _ in stored_tensors(slim)}
    walks = [_Pair(original, slim, analysis, alive, chains, inputs) for inputs in batches]
    done = []
    try:
        for number, chain in enumerate(chains):
            if progress is not None:
                progress("refit layers", number, len(chains))
            stops = [walk.advance() for walk in walks]
            result = _refit_one(chain, nodes, stops, tensors, method)
            if result is not None:
                done.append(result)
        for walk in walks:
            walk.advance()
    finally:
        for walk in walks:
            walk.close()
    return done


def _alone(chain: Chain) -> Chain:
    return Chain(chain.contraction, chain.start, (), chain.start)


class _Stop(NamedTuple):
    """One batch at one chain's end: the product in the pruned module, and what it should give."""

    product: Product
    target: Tensor


class _Pair:
    """The original and the pruned module on one batch, stopping at the ends of the same chains."""

    def __init__(
        self,
        original: torch.nn.Module,
        slim: torch.nn.Module,
        analysis: Analysis,
        alive: Alive,
        chains: Sequence[Chain],
        inputs: Inputs,
    ) -> None:
        self.analysis, self.alive = analysis, alive
        nodes = [node for node in analysis.graph.nodes if node.measured]
        self.position = {id(node): position for position, node in enumerate(nodes)}
        self.ends = {chain.end: chain for chain in chains}
        self.starts = {chain.start: chain for chain in chains}
        self.links = {link: chain for chain in chains for link in chain.links}
        self.layouts = {value.name: layout for value, layout in analysis.layouts.items()}
        self.walks = [
            Walk(lambda show, run=run, look=look: run(inputs, look(show)))
            for run, look in (
                (Runnable(original, analysis), self._original),
                (Runnable(slim, analysis), self._pruned),
            )
        ]

    def advance(self) -> "_Stop | None":
        """Both to their next stop."""
        wide = self.walks[0].advance()
        narrow = self.walks[1].advance()
        if wide is None or narrow is None:
            return None
        node, target = wide
        product, back = narrow
        for places in places_of(self.layouts[node.outputs[0].name], self.alive):
            target = places.taken(target)
        return _Stop(product, back(target))

    def close(self) -> None:
        for walk in self.walks:
            walk.close()

    def _original(self, show: Callable[[Any], None]) -> Any:
        def visit(node: Node, func: Any, args: Any, kwargs: Any) -> Any:
            here = self.position[id(node)]
            result = func(*args, **kwargs)
            if here in self.ends:
                show((node, result))
            return result

        return visit

    def _pruned(self, show: Callable[[Any], None]) -> Any:
        calls: dict[int, _Steps] = {}

        def visit(node: Node, func: Any, args: Any, kwargs: Any) -> Any:
            here = self.position[id(node)]
            if here in self.starts:
                chain = self.starts[here]
                steps = calls[chain.start] = _Steps(
                    Product.of(chain.contraction, func, args, kwargs), func, args, kwargs
                )
                if not chain.meets:
                    show((steps.product, lambda target: target))
                    return calls.pop(chain.start).again()
                return steps.start()
            if here in self.links:
                return calls[self.links[here].start].link(node, func, args, kwargs)
            chain = self.ends.get(here)
            if chain is None:
                return func(*args, **kwargs)
            steps = calls.pop(chain.start)
            place = next(i for i, item in enumerate(args) if item is steps.last)
            other = args[1 - place]
            show((steps.product, lambda target: steps.back(target - other)))
            fresh = steps.again()
            return func(*(fresh if i == place else item for i, item in enumerate(args)), **kwargs)

        return visit


class _Steps:
    """The calls of one chain in the pruned module, to be made again once its weights have moved."""

    def __init__(self, product: Product, func: Any, args: Any, kwargs: Any) -> None:
        self.product, self._first = product, lambda: func(*args, **kwargs)
        self._links: list[tuple[Node, Callable[[Tensor], Tensor], Tensor]] = []
        self.last: Any = None

    def start(self) -> Tensor:
        self.last = self._first()
        return self.last

    def link(self, node: Node, func: Any, args: Any, kwargs: Any) -> Tensor:
        given = self.last
        call = lambda x: func(x, *args[1:], **kwargs)  # noqa: E731
        self._links.append((node, call, given))
        self.last = call(given)
        return self.last

    def back(self, target: Tensor) -> Tensor:
        """What the product should give, so that the end of the chain is `target`."""
        for node, call, given in reversed(self._links):
            target = inverse(node, call, given, target)
        return target

    def again(self) -> Tensor:
        """The end of the chain with the weights as they are now."""
        value = self._first()
        for _, call, _ in self._links:
            value = call(value)
        return value


def _refit_one(
    chain: Chain, nodes: Sequence[Node], stops: list[Any], tensors: dict[str, Tensor], method: Method
) -> Refit | None:
    contraction = chain.contraction
    weight = tensors[contraction.weight]
    absorbs = _bias_of(chain, nodes, tensors)
    start = matrix_of(contraction, weight.detach()).double().cpu().numpy()
    solve = method.weights and start.shape[1] <= WIDEST
    if not solve:
        start_shape = (start.shape[0], 1, start.shape[2])
    seen, checked = (Moments.zero(*start.shape) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    share = max(ROWS * start.shape[1], 8192) // len(stops) + 1
    for number, stop in enumerate(stops):
        total = stop.product.positions
        rows = torch.randperm(total, generator=generator)[:share] if total > share else torch.arange(total)
        samples = max(int(stop.product.x.shape[0]), 1)
        sample = rows // max(total // samples, 1) if samples > 1 else rows
        held = (sample + number) % 5 == 4 if samples > 1 or len(stops) < 5 else torch.full(rows.shape, number % 5 == 4)
        for moments, part in ((seen, rows[~held]), (checked, rows[held])):
            if len(part):
                features = stop.product.features(part).float().cpu().numpy()
                targets = stop.product.targets(stop.target, part).float().cpu().numpy()
                moments.add(features, targets)
    bias = absorbs.now(start.shape) if absorbs else np.zeros((start.shape[0], start.shape[2]))
    found = fit(seen, checked, start, bias, absorbs is not None, solve)
    if found.better:
        with torch.no_grad():
            weight.copy_(weight_of(contraction, torch.from_numpy(found.weight), weight))
            if absorbs is not None:
                absorbs.write(found.bias)
    return Refit(contraction.weight, found.before, found.after)


class _Bias(NamedTuple):
    """What takes up a constant: the layer's own bias, or the mean that the batch norm behind it takes away."""

    tensor: Tensor
    sign: float

    def now(self, shape: Any) -> Any:
        value = self.tensor.detach().double().cpu().numpy().reshape(shape[0], shape[2])
        return value if self.sign > 0 else np.zeros_like(value)

    def write(self, bias: Any) -> None:
        fresh = torch.from_numpy(bias).reshape(self.tensor.shape).to(self.tensor)
        if self.sign > 0:
            self.tensor.copy_(fresh)
        else:
            self.tensor.sub_(fresh)


def _bias_of(chain: Chain, nodes: Sequence[Node], tensors: dict[str, Tensor]) -> _Bias | None:
    contraction = chain.contraction
    if contraction.bias is not None:
        return _Bias(tensors[contraction.bias], 1.0)
    value = contraction.node.outputs[0]
    for node in nodes[chain.start + 1 :]:
        if value in node.inputs:
            mean = node.inputs[3] if node.op == "batch_norm" and len(node.inputs) > 3 else None
            if mean is not None and value.uses == 1 and mean.is_leaf and mean.uses == 1:
                return _Bias(tensors[mean.name], -1.0)
            return None
    return None
