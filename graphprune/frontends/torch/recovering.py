"""Recover accuracy without training: refit the layers of a pruned module, in order, to what the original computed.

The original and the pruned module run over the calibration batches side by side. Wherever a layer's result counts they
stop; the layer's weights are fitted by least squares to the original's result at that place, on the inputs that the
pruned module really has by then; then both go on. Where the result is added to a stream, what the stream has already
lost goes into the target, so that errors do not pile up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ...analysis import Analysis
from ...chains import Chain, absorber_of, alone, chains_of
from ...contractions import is_product, matrix_of, refusal_of
from ...errors import VerifyError
from ...graph import Node
from ...plan import Plan
from ...reconstruction import Matrix, Refit
from ...refitting import TOO_FEW, WIDEST, fit_rows
from ...shapes import living
from .inputs import Inputs
from .pairs import Pair, Stop
from .places import Places, places_of
from .products import numbers_of, stored_as
from .twins import stored_tensors

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
    start = matrix_of(contraction, numbers_of(weight))
    solve = method.weights and start.shape[1] <= WIDEST
    if not solve and bias is None:
        return Refit(contraction.weight, None, None, "it has no bias")
    offset = np.zeros((start.shape[0], start.shape[2])) if bias is None else bias.now(start)
    found = fit_rows(stops, start, offset, bias is not None, solve)
    if found is None:
        return Refit(contraction.weight, None, None, TOO_FEW)
    if found.better and solve:
        weight.copy_(stored_as(contraction, found.weight, weight))
    if found.better and bias is not None:
        bias.write(found.bias)
    return Refit(contraction.weight, found.before, found.after)


class _Bias(NamedTuple):
    """What takes up a constant: the layer's own bias, or the mean that the batch norm behind it takes away."""

    name: str
    tensor: Tensor
    sign: float

    def now(self, start: Matrix) -> Matrix:
        """What is added to the product now, (groups, channels)."""
        value = numbers_of(self.tensor).reshape(start.shape[0], start.shape[2])
        return value if self.sign > 0 else np.zeros_like(value)

    def write(self, bias: Matrix) -> None:
        """Add this instead."""
        fresh = torch.from_numpy(bias).reshape(self.tensor.shape).to(self.tensor)
        if self.sign > 0:
            self.tensor.copy_(fresh)
        else:
            self.tensor.sub_(fresh)


def _bias_of(chain: Chain, nodes: Sequence[Node], tensors: dict[str, Tensor]) -> _Bias | None:
    found = absorber_of(chain, nodes)
    value = None if found is None else found[0].inputs[found[1]]
    if found is None or value is None or value.kind not in ("parameter", "buffer"):  # others are not saved
        return None
    return _Bias(value.name, tensors[value.name], 1.0 if found[0] is chain.contraction.node else -1.0)
