"""Recover accuracy without training: refit the layers of a pruned module, in order, to what the original computed.

The original and the pruned module run over the calibration batches side by side. Wherever a layer's result counts they
stop; the layer's weights are fitted by least squares to the original's result at that place, on the inputs that the
pruned module really has by then; then both go on. Where the result is added to a stream, what the stream has already
lost goes into the target, so that errors do not pile up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ...analysis import Analysis
from ...errors import VerifyError
from ...graph import Node
from ...plan import Plan
from ...reconstruction import Matrix, Moments, Refit, fit
from ...shapes import living
from .chains import Chain, alone, chains_of
from .contractions import is_product, matrix_of, refusal_of, weight_of
from .inputs import Inputs
from .pairs import Pair, Stop
from .places import Places, places_of
from .twins import stored_tensors

ROWS = 40
"""Rows of calibration data per feature that a fit looks at, at most; beyond, they are chosen at random."""

WIDEST = 6144
"""Features of a layer above which weights are left alone, and only biases move: moments would not fit into memory."""

HELD = 5
"""Every so many samples one is held out: it chooses among fits, and tells whether they are better."""

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
    nodes = [node for node in analysis.graph.nodes if node.measured]
    chains, places, done = _chains(analysis, plan, nodes, method)
    tensors = {name: tensor for name, tensor, _ in stored_tensors(slim)}
    taking = {chain.end: _bias_of(chain, nodes, tensors) for chain in chains}
    moving = {bias.name for bias in taking.values() if bias is not None}
    pairs: list[Pair] = []
    try:
        for inputs in batches:
            pairs.append(Pair(original, slim, analysis, nodes, chains, places, moving, inputs))
        for number, chain in enumerate(chains):
            if progress is not None:
                progress("refit layers", number, len(chains))
            stops = [stop for pair in pairs if (stop := pair.advance()) is not None]
            done.append(_refit_one(chain, stops, tensors[chain.contraction.weight], taking[chain.end], method))
        for pair in pairs:
            pair.advance()
    finally:
        for pair in pairs:
            pair.close()
    return done


def _chains(
    analysis: Analysis, plan: Plan, nodes: Sequence[Node], method: Method
) -> tuple[list[Chain], dict[int, list[Places]], list[Refit]]:
    """What is refitted, in its order; what lives at the ends; and what is left alone, with the reason."""
    alive, layouts = living(analysis, plan), {value.name: layout for value, layout in analysis.layouts.items()}
    found = sorted(map(alone, chains_of(nodes)), key=_end) if not method.stream else chains_of(nodes)
    chains, places, left = [], {}, []
    for node in nodes:
        if is_product(node) and refusal_of(node):
            weight = next(value for value in node.inputs[::-1] if value is not None and len(value.shape) > 1)
            left.append(Refit(weight.name, None, None, refusal_of(node)))
    for chain in found:
        try:
            places[chain.end] = places_of(layouts[nodes[chain.end].outputs[0].name], alive)
            chains.append(chain)
        except VerifyError:
            left.append(Refit(chain.contraction.weight, None, None, "what lives of its result has no regular form"))
    return chains, places, list(dict.fromkeys(left))


def _end(chain: Chain) -> int:
    return chain.end


def _refit_one(chain: Chain, stops: Sequence[Stop], weight: Tensor, bias: "_Bias | None", method: Method) -> Refit:
    contraction = stops[0].product.contraction if stops else chain.contraction
    if any(stop.target is None for stop in stops):
        return Refit(contraction.weight, None, None, "its input is written in place before its result counts")
    start = matrix_of(contraction, weight.detach()).double().cpu().numpy()
    solve = method.weights and start.shape[1] <= WIDEST
    if not solve and bias is None:
        return Refit(contraction.weight, None, None, "it has no bias")
    offset = np.zeros((start.shape[0], start.shape[2])) if bias is None else bias.now(start)
    seen, checked = (Moments.zero(*start.shape) for _ in range(2))
    for stop, rows, held in _rows(stops, max(ROWS * start.shape[1], 8192) // len(stops) + 1):
        for moments, part in ((seen, rows[~held]), (checked, rows[held])):
            if len(part) and stop.target is not None:
                features = stop.product.features(part).float().cpu().numpy()
                moments.add(features, stop.product.targets(stop.target, part).float().cpu().numpy())
    if not seen.rows or not checked.rows:
        return Refit(contraction.weight, None, None, f"fewer than {HELD} rows of calibration data reach it")
    found = fit(seen, checked, start, offset, bias is not None, solve)
    if found.better:
        weight.copy_(weight_of(contraction, torch.from_numpy(found.weight), weight))
        if bias is not None:
            bias.write(found.bias)
    return Refit(contraction.weight, found.before, found.after)


def _rows(stops: Sequence[Stop], share: int) -> Iterator[tuple[Stop, Tensor, Tensor]]:
    """Rows of every stop, at most so many, and which of them are held out: whole samples, where there are enough."""
    generator = torch.Generator().manual_seed(0)
    sizes = [max(int(stop.product.x.shape[0]), 1) if stop.product.x.dim() > 1 else 1 for stop in stops]
    by_sample, first = sum(sizes) >= HELD, 0
    for stop, size in zip(stops, sizes, strict=True):
        total = stop.product.positions
        rows = torch.randperm(total, generator=generator)[:share] if total > share else torch.arange(total)
        unit = rows * size // max(total, 1) if by_sample else rows
        yield stop, rows, (unit + first) % HELD == HELD - 1
        first += size if by_sample else total


class _Bias(NamedTuple):
    """What takes up a constant: the layer's own bias, or the mean that the batch norm behind it takes away."""

    name: str
    tensor: Tensor
    sign: float

    def now(self, start: Matrix) -> Matrix:
        """What is added to the product now, (groups, channels)."""
        value = self.tensor.detach().double().cpu().numpy().reshape(start.shape[0], start.shape[2])
        return np.asarray(value if self.sign > 0 else np.zeros_like(value))

    def write(self, bias: Matrix) -> None:
        """Add this instead."""
        fresh = torch.from_numpy(bias).reshape(self.tensor.shape).to(self.tensor)
        if self.sign > 0:
            self.tensor.copy_(fresh)
        else:
            self.tensor.sub_(fresh)


def _bias_of(chain: Chain, nodes: Sequence[Node], tensors: dict[str, Tensor]) -> _Bias | None:
    contraction = chain.contraction
    if contraction.bias is not None:
        return _Bias(contraction.bias, tensors[contraction.bias], 1.0)
    value = contraction.node.outputs[0]
    reader = next((node for node in nodes[chain.start + 1 :] if value in node.inputs), None)
    if reader is None or reader.op != "batch_norm" or value.uses != 1 or len(reader.inputs) < 4:
        return None
    mean = reader.inputs[3]
    if mean is None or mean.kind != "buffer" or mean.uses != 1:
        return None
    return _Bias(mean.name, tensors[mean.name], -1.0)
