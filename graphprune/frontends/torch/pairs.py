"""The original and the pruned module on one batch, side by side, stopping wherever a layer's result counts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ...analysis import Analysis
from ...chains import Chain
from ...errors import DataError
from ...graph import Node
from ...reconstruction import Numbers
from ...refitting import Indices
from .calls import is_inplace
from .follow import Runnable, Visit
from .inputs import Inputs
from .links import inverse
from .lockstep import Show, Walk
from .places import Places
from .products import Product

Tensor = torch.Tensor
Back = Callable[[Tensor], Tensor]


class Stop(NamedTuple):
    """One batch at one chain's end: the product in the pruned module, and what it should give, as rows to fit it on.

    The target is None where the input of the product is gone by then; then there are no rows to take.
    """

    product: Product
    target: Tensor | None

    @property
    def positions(self) -> int:
        """How many rows there are."""
        return self.product.positions

    @property
    def samples(self) -> int:
        """How many samples they come from."""
        return self.product.samples

    def features(self, rows: Indices) -> Numbers:
        """(groups, rows, features), float32."""
        return np.asarray(self.product.features(rows).float().cpu().numpy())

    def targets(self, rows: Indices) -> Numbers:
        """(groups, rows, channels), float32."""
        assert self.target is not None
        return np.asarray(self.product.targets(self.target, rows).float().cpu().numpy())


class Pair:
    """Both modules on one batch. `advance()` goes to the end of the next chain, of which both run the same.

    `nodes` are those that the chains count in, `places` what lives of the value at a chain's end, `moving` the names of
    buffers of `slim` that change while it runs.
    """

    def __init__(
        self,
        original: torch.nn.Module,
        slim: torch.nn.Module,
        analysis: Analysis,
        nodes: Sequence[Node],
        chains: Sequence[Chain],
        places: Mapping[int, list[Places]],
        moving: Collection[str],
        inputs: Inputs,
    ) -> None:
        self.places = places
        self.ends = {id(nodes[chain.end]): chain for chain in chains}
        self.starts = {id(nodes[chain.start]): chain for chain in chains}
        self.links = {id(nodes[link]): chain for chain in chains for link in chain.links}
        wide, narrow = Runnable(original, analysis), Runnable(slim, analysis, shared=moving)
        self.wide = Walk(lambda show: wide(inputs, self._original(show)))
        self.narrow = Walk(lambda show: narrow(inputs, self._pruned(show)))

    def advance(self) -> Stop | None:
        """Both to their next stop; None once they have ended."""
        wide, narrow = self.wide.advance(), self.narrow.advance()
        if wide is None and narrow is None:
            return None
        if wide is None or narrow is None:
            raise DataError("the original and the pruned model take different ways on this batch")
        chain, target = wide
        product, back = narrow
        if back is None:
            return Stop(product, None)
        for place in self.places[chain.end]:
            target = place.taken(target)
        return Stop(product, back(target))

    def close(self) -> None:
        """End both runs where they stand."""
        self.wide.close()
        self.narrow.close()

    def _original(self, show: Show) -> Visit:
        def visit(node: Node, func: Any, args: Any, kwargs: Any) -> Any:
            result = func(*args, **kwargs)
            if id(node) in self.ends:
                show((self.ends[id(node)], result))
            return result

        return visit

    def _pruned(self, show: Show) -> Visit:
        running: dict[int, _Steps] = {}

        def visit(node: Node, func: Any, args: Any, kwargs: Any) -> Any:
            here = id(node)
            if here in self.starts:
                chain = self.starts[here]
                product = Product.of(chain.contraction, func, args, kwargs)
                if not chain.meets:
                    show((product, lambda target: target))
                    return func(*args, **kwargs)
                running[chain.end] = _Steps(product, lambda: func(*args, **kwargs))
                return running[chain.end].last
            if here in self.links:
                return running[self.links[here].end].link(node, func, args, kwargs)
            if here in self.ends:
                return running.pop(self.ends[here].end).meet(func, args, kwargs, show)
            return func(*args, **kwargs)

        return visit


class _Steps:
    """The calls of one chain in the pruned module, to be made again once its weights have moved."""

    def __init__(self, product: Product, first: Callable[[], Tensor]) -> None:
        self.product, self._first = product, first
        self._version = product.x._version
        self._links: list[tuple[Node, Back, Tensor]] = []
        self.last = first()

    def link(self, node: Node, func: Any, args: Any, kwargs: Any) -> Tensor:
        """One more call that its result goes through."""
        call = _with(self.last, func, args, kwargs)
        self._links.append((node, call, self.last))
        self.last = call(self.last)
        return self.last

    def meet(self, func: Any, args: Any, kwargs: Any, show: Show) -> Tensor:
        """The sum at the end, with the weights as they are once others have seen what there is to see."""
        call, last = _with(self.last, func, args, kwargs), self.last
        other = next(item for item in (*args, *kwargs.values()) if isinstance(item, Tensor) and item is not last)
        if self.product.x._version != self._version:  # written since: the product cannot be made again
            show((self.product, None))
            return call(last)
        show((self.product, lambda target: self._back(target - other)))
        result = call(self.again())
        return last.copy_(result) if is_inplace(func, kwargs) and other is not args[0] else result

    def _back(self, target: Tensor) -> Tensor:
        """What the product should give, so that the chain gives `target`."""
        for node, call, given in reversed(self._links):
            target = inverse(node, call, given, target)
        return target

    def again(self) -> Tensor:
        """The end of the chain with the weights as they are now."""
        value = self._first()
        for _, call, _ in self._links:
            value = call(value)
        return value


def _with(given: Tensor, func: Any, args: Any, kwargs: Any) -> Back:
    """A call as a function of one of its arguments."""

    def call(x: Tensor) -> Tensor:
        exchanged = (x if item is given else item for item in args)
        result: Tensor = func(*exchanged, **{key: x if item is given else item for key, item in kwargs.items()})
        return result

    return call
