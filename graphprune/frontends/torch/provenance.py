"""Where sizes come from: follow the integer attributes of modules into the sizes that a run uses.

A module that says `x.view(b, n, self.heads, self.dim)` works with other sizes once `heads` and `dim` are right. To find
the attributes, a copy is run in which every integer attribute is an `int` that remembers how it came about. Where
such a number is used as a size, the labels tell what the size becomes, which gives an equation for the attributes.
Equal numbers from different attributes stay apart: a window of 4 is not a head count of 4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from ...analysis import Analysis
from ...graph import Node, Shape, Value
from ...plan import Plan
from ...shapes import attributes_of, bound_of, living, shape_of
from .calls import Call, axis_of, base_name
from .inputs import Inputs
from .record import Recorder, prepare, run_recorded
from .slots import Becoming, Slot, Traced, own_holders, put, slots_in, slots_of, solve


class Origins(Recorder):
    """Follows a run along the nodes of an analysis and collects what numbers from attributes have to become."""

    def follow(self, analysis: Analysis, plan: Plan) -> "Origins":
        """Tell which program is run and what is dropped."""
        self.analysis, self.plan, self.alive = analysis, plan, living(analysis, plan)
        self.values = {value.name: value for value in analysis.graph.values()}
        self.shapes: dict[Value, Shape] = {}
        self.equations: dict[Becoming, set[int]] = {}
        self.lost = False
        return self

    def shape(self, value: Value) -> Shape:
        """The shape that a value of the analysis becomes."""
        if value not in self.shapes:
            self.shapes[value] = shape_of(value, self.analysis.layouts.get(value, ()), self.alive)
        return self.shapes[value]

    def bound(self, value: Value, axis: int, position: int) -> int:
        """Where a position of a value comes to lie."""
        return bound_of(self.analysis.layouts.get(value, ()), axis, position, self.alive)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run and record one torch call; sizes that it asks for know what they become."""
        result = super().__torch_function__(func, types, args, kwargs)
        if type(result) is torch.Size:
            return self._sizes(args[0], result)
        if type(result) is int and base_name(func) == "size":
            axis = args[1] if len(args) > 1 else (kwargs or {})["dim"]
            return self._sizes(args[0], args[0].shape)[axis]
        return result

    def _sizes(self, tensor: torch.Tensor, sizes: torch.Size) -> torch.Size:
        value = self.values.get(self.known(tensor))
        if value is None or value.shape != sizes or self.shape(value) == sizes:
            return sizes
        return torch.Size([Traced(old, new) for old, new in zip(sizes, self.shape(value), strict=True)])

    def _record(
        self,
        name: str,
        inplace: bool,
        args: tuple[Any, ...],
        translated: tuple[tuple[Any, ...], dict[str, Any]],
        result: Any,
        before: tuple[Value, ...],
    ) -> None:
        place = len(self.graph.nodes)
        super()._record(name, inplace, args, translated, result, before)
        if len(self.graph.nodes) == place or self.lost:
            return
        own, nodes = self.graph.nodes[-1], self.analysis.graph.nodes
        node = nodes[place] if place < len(nodes) else None
        if node is None or node.op != own.op or node.outputs[0].name != own.outputs[0].name:
            self.lost = True
        elif any(slots_in(number.becoming) for number in _numbers(translated)):
            self._equate(Call(name, *translated, tuple(value.shape for value in own.outputs)), node)

    def _equate(self, call: Call, node: Node) -> None:
        use = _USES.get(call.name, _unchanged)
        for given, new in use(call, node, self):
            if isinstance(given, Traced) and slots_in(given.becoming):
                self.equations.setdefault(given.becoming, set()).add(new)


def _numbers(tree: Any) -> Iterator[Traced]:
    if isinstance(tree, Traced):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _numbers(item)
    elif isinstance(tree, dict):
        yield from _numbers(list(tree.values()))
    elif isinstance(tree, slice):
        yield from _numbers((tree.start, tree.stop, tree.step))


Uses = Iterable[tuple[Any, int]]
"""Pairs of a number as given and what it has to be after pruning."""


def _unchanged(call: Call, node: Node, origins: Origins) -> Uses:
    """Strides, axes, counts, numbers to compute with: all of them stay."""
    return ((number, int(number)) for number in _numbers((call.args, call.kwargs)))


def _shaped(position: int, *names: str) -> Callable[[Call, Node, Origins], Uses]:
    """Sizes that are the shape of the result."""

    def use(call: Call, node: Node, origins: Origins) -> Uses:
        sizes, shape = call.varargs(position, *names), origins.shape(node.outputs[0])
        return zip(sizes, shape, strict=True) if len(sizes) == len(shape) else ()

    return use


def _unflatten(call: Call, node: Node, origins: Origins) -> Uses:
    axis = axis_of(call.x, call.get(1, "dim"))
    return zip(call.get(2, "sizes", "unflattened_size"), origins.shape(node.outputs[0])[axis:], strict=False)


def _trailing(call: Call, node: Node, origins: Origins) -> Uses:
    sizes, shape = tuple(call.get(1, "normalized_shape")), origins.shape(node.outputs[0])
    return zip(sizes, shape[len(shape) - len(sizes) :], strict=True)


def _split(call: Call, node: Node, origins: Origins) -> Uses:
    sizes, axis = call.get(1, "split_size_or_sections", "split_size", "split_sizes"), node.attrs["axis"]
    after = (origins.shape(value)[axis] for value in node.outputs)
    return zip(sizes if isinstance(sizes, (tuple, list)) else [sizes], after, strict=False)


def _narrow(call: Call, node: Node, origins: Origins) -> Uses:
    source = node.inputs[0]
    assert source is not None
    axis, start, length = axis_of(call.x, call.get(1, "dim")), call.get(2, "start"), call.get(3, "length")
    begin = origins.bound(source, axis, start % (source.shape[axis] + 1))
    return [(start, begin), (length, origins.bound(source, axis, start + length) - begin)] if start >= 0 else ()


def _getitem(call: Call, node: Node, origins: Origins) -> Uses:
    """Bounds of slices move with the positions before them; those written from the end stay so."""
    source = node.inputs[0]
    assert source is not None
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    hole = len(source.shape) - sum(item is not None and item is not ... for item in index)
    axis = 0
    for item in index:
        if isinstance(item, slice) and item.step in (None, 1):
            size = source.shape[axis]
            for bound in (item.start, item.stop):
                if isinstance(bound, Traced) and -size <= bound <= size:
                    end = origins.bound(source, axis, size) if bound < 0 else 0
                    yield bound, origins.bound(source, axis, bound % size if bound < 0 else bound) - end
        else:
            yield from ((number, int(number)) for number in _numbers(item))
        axis += hole if item is ... else int(item is not None)


def _repeat(call: Call, node: Node, origins: Origins) -> Uses:
    source, after = node.inputs[0], origins.shape(node.outputs[0])
    assert source is not None
    times, before = call.varargs(1, "repeats", "dims"), origins.shape(source)
    before = (1,) * (len(after) - len(before)) + before
    return ((given, new // old) for given, new, old in zip(times[::-1], after[::-1], before[::-1], strict=False))


def _repeat_interleave(call: Call, node: Node, origins: Origins) -> Uses:
    source = node.inputs[0]
    assert source is not None
    axis = node.attrs["axis"]
    return [(call.get(1, "repeats"), origins.shape(node.outputs[0])[axis] // origins.shape(source)[axis])]


def _groups(position: int, name: str) -> Callable[[Call, Node, Origins], Uses]:
    """A number of groups, of which some may go as a whole."""

    def use(call: Call, node: Node, origins: Origins) -> Uses:
        attrs = attributes_of(node, origins.analysis, origins.plan, origins.alive)
        return [(call.get(position, name), attrs["groups"])]

    return use


_USES: dict[str, Callable[[Call, Node, Origins], Uses]] = {
    **dict.fromkeys(["view", "reshape"], _shaped(1, "shape", "size")),
    **dict.fromkeys(["expand", "broadcast_to"], _shaped(1, "size", "sizes")),
    **dict.fromkeys(["zeros", "ones", "empty", "full", "rand", "randn"], _shaped(0, "size")),
    **dict.fromkeys(["new_zeros", "new_ones", "new_empty", "new_full"], _shaped(1, "size")),
    **dict.fromkeys(["layer_norm", "rms_norm"], _trailing),
    **dict.fromkeys(["split", "split_with_sizes"], _split),
    **dict.fromkeys(["repeat", "tile"], _repeat),
    **{f"conv{n}d": _groups(6, "groups") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _groups(6, "groups") for n in (1, 2, 3)},
    "group_norm": _groups(1, "num_groups"),
    "unflatten": _unflatten,
    "narrow": _narrow,
    "__getitem__": _getitem,
    "repeat_interleave": _repeat_interleave,
}
"""Call -> which of its numbers are sizes that follow the labels; in all other calls numbers stay."""


def origins_of(module: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs) -> dict[Slot, int]:
    """The integer attributes that the plan changes, with their new values, as far as a run of a copy tells.

    The module itself is not touched. Nothing where the run cannot be followed.
    """
    for device in ("meta", None):
        twin, recorder = prepare(module, device, Origins)
        for owner, holder in own_holders(twin, module).items():
            for slot in list(slots_of(owner, holder)):
                put(holder, slot.path, Traced(slot.value, slot))
        recorder.follow(analysis, plan)
        try:
            run_recorded(recorder, twin, inputs, device)
        except Exception:  # noqa: S112  # code that takes nothing but plain numbers, or needs real tensors
            continue
        return {} if recorder.lost else {s: new for s, new in solve(recorder.equations).items() if new != s.value}
    return {}


def set_attributes(slim: torch.nn.Module, module: torch.nn.Module, values: Mapping[Slot, int]) -> None:
    """Give the attributes of a slim copy of `module` their new values, in place."""
    holders = own_holders(slim, module)
    for slot, value in values.items():
        if slot.owner in holders:
            put(holders[slot.owner], slot.path, value)
