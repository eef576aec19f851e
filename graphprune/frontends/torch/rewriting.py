"""Where sizes are written into `forward`: rewrite the constants of a GraphModule instead of keeping the class."""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils._pytree import tree_leaves, tree_map

from ...analysis import Analysis
from ...errors import ApplyError
from ...graph import Node, Shape
from ...plan import Plan
from ...shapes import Alive, attributes_of, shape_of
from .calls import base_name
from .inputs import Inputs
from .twins import twin_of


def graph_modules(module: torch.nn.Module, inputs: Inputs) -> Iterator[fx.GraphModule]:
    """The module as an fx graph: symbolically traced, or else exported. Raises `ApplyError` where neither is possible.

    Tracing stores what it computes from constants in the module that it traces, so it is given a copy.
    """
    if isinstance(module, fx.GraphModule):
        yield module
        return
    failures = []
    for trace in (_symbolic, _exported_for_any_batch, _exported):
        try:
            whole = trace(twin_of(module, None)[0], inputs)
        except Exception as error:
            failures.append(error)
            continue
        yield whole
    if len(failures) == 3:
        raise ApplyError(
            f"sizes are written into forward(), and it can be neither traced ({failures[0]}) nor exported "
            f"({failures[2]})"
        ) from failures[2]


def _symbolic(twin: torch.nn.Module, inputs: Inputs) -> fx.GraphModule:
    return fx.symbolic_trace(twin)


def _exported_for_any_batch(twin: torch.nn.Module, inputs: Inputs) -> fx.GraphModule:
    """Exported with two of every input (export takes an axis of size 1 for one that stays 1), whose number may vary."""
    tensors = [item for item in tree_leaves(inputs) if _is_batch(item)]
    if len({len(tensor) for tensor in tensors}) != 1:
        raise ValueError("inputs have no batch in common")
    single = len(tensors[0]) == 1
    more: Inputs = tree_map(lambda item: torch.cat([item, item]) if single and _is_batch(item) else item, inputs)
    shapes = torch.export.ShapesCollection()
    for item in tree_leaves(more):
        if _is_batch(item):
            shapes[item] = {0: torch.export.Dim.AUTO}
    return torch.export.export(
        twin, more.args, more.kwargs, dynamic_shapes=shapes.dynamic_shapes(twin, more.args, more.kwargs), strict=False
    ).module()


def _is_batch(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.ndim > 0


def _exported(twin: torch.nn.Module, inputs: Inputs) -> fx.GraphModule:
    return torch.export.export(twin, inputs.args, inputs.kwargs, strict=False).module()


def rewrite(slim: fx.GraphModule, analysis: Analysis, plan: Plan, alive: Alive) -> None:
    """Replace the literal sizes in a sliced GraphModule by those that the labels predict, in place."""
    nodes = {node.name: node for node in slim.graph.nodes}
    for node in analysis.graph.nodes:
        if isinstance(node.call, str) and node.call in nodes:
            edit(nodes[node.call], node, analysis, plan, alive)
    slim.graph.lint()
    slim.recompile()


def edit(target: fx.Node, node: Node, analysis: Analysis, plan: Plan, alive: Alive) -> None:
    """Replace the literal sizes in one fx node, which runs `node`."""
    if target.op not in ("call_function", "call_method"):
        return
    name = target.target if isinstance(target.target, str) else base_name(target.target)
    change = _EDITS.get(name.rstrip("_") if not name.startswith("__") else name)
    if change is not None:
        shapes = [shape_of(value, analysis.layouts[value], alive) for value in node.outputs]
        change(target, node, shapes, _changed(node.attrs, attributes_of(node, analysis, plan, alive)))


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The attributes that a plan changes. Others stay as they are written: an end left open fits any batch."""
    changed = {key: new for key, new in after.items() if not np.array_equal(before[key], new)}
    if "cuts" in changed:
        pairs = zip(before["cuts"], after["cuts"], strict=True)
        changed["cuts"] = [new for old, new in pairs if tuple(old) != tuple(new)]
    return changed


Edit = Callable[[fx.Node, Node, list[Shape], dict[str, Any]], None]


def _sized(position: int, *names: str) -> Edit:
    """Literal sizes at a position (a sequence or the rest of the arguments) become the new output shape."""

    def change(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
        given, put = _argument(target, position, names)
        spread = isinstance(given, (int, fx.Node))
        sizes = list(target.args[position:]) if spread else list(given or ())
        if sizes and sizes == [given] and len(shapes[0]) > 1 and shapes[0] != node.outputs[0].shape:
            sizes = _spread(target, given, len(shapes[0]))
        if len(sizes) != len(shapes[0]):
            return
        new = _resized(sizes, node.outputs[0].shape, shapes[0])
        if spread:
            target.args = (*target.args[:position], *new)
        else:
            put(type(given)(new) if isinstance(given, (list, tuple)) else new)

    return change


def _spread(target: fx.Node, sizes: fx.Node, count: int) -> list[Any]:
    """Sizes that are computed as one tuple, one by one."""
    with target.graph.inserting_before(target):
        return [target.graph.call_function(operator.getitem, (sizes, axis)) for axis in range(count)]


def _unflatten(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
    given, put = _argument(target, 2, ("sizes",))
    axis, _ = _argument(target, 1, ("dim",))
    before = node.inputs[0]
    assert before is not None
    axis %= len(before.shape)
    part = slice(axis, axis + len(given))
    put(tuple(_resized(list(given), node.outputs[0].shape[part], shapes[0][part])))


def _resized(given: list[Any], before: Shape, after: Shape) -> list[Any]:
    """Sizes as written, except where the plan changes them: a size taken from another tensor may shrink otherwise."""
    return [
        size if old == new else new if size != -1 else -1 for size, old, new in zip(given, before, after, strict=True)
    ]


def _trailing(position: int, name: str) -> Edit:
    """normalized_shape: the last sizes of the output."""

    def change(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
        given, put = _argument(target, position, (name,))
        if not any(isinstance(size, fx.Node) for size in given):
            put(type(given)(shapes[0][len(shapes[0]) - len(given) :]))

    return change


def _split(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
    axis = node.attrs["axis"]
    sizes = [shape[axis] for shape in shapes]
    source = target.args[0] if target.args else target.kwargs.get("input", target.kwargs.get("self"))
    if sizes == list(node.attrs["sizes"]):
        return
    if target.op == "call_method":
        target.target = "split"
    elif isinstance(target.target, torch._ops.OpOverload):
        target.target = torch.ops.aten.split_with_sizes.default
    else:
        target.target = torch.split
    target.args, target.kwargs = (source, sizes, axis), {}


def _getitem(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
    index = target.args[1] if isinstance(target.args[1], tuple) else (target.args[1],)
    if "positions" in attrs:
        return _indexed(target, attrs["positions"])
    new = {axis: (start, stop) for axis, start, stop, _ in attrs.get("cuts", ())}
    before = node.inputs[0]
    if before is None or not new:
        return None
    hole = len(before.shape) - sum(isinstance(item, (int, slice, fx.Node)) for item in index)
    axis, items = 0, list[Any]()
    for item in index:
        if isinstance(item, slice) and axis in new and not _has_nodes(item):
            items.append(slice(*new[axis], item.step))
        else:
            items.append(item)
        axis += hole if item is ... else int(item is not None)
    target.args = (target.args[0], tuple(items))
    return None


def _indexed(target: fx.Node, positions: Any) -> None:
    """A list of positions written into the code; an index that is stored was brought in line already."""
    index = target.args[1] if isinstance(target.args[1], tuple) else (target.args[1],)
    items = [positions.tolist() if isinstance(item, (list, tuple)) else item for item in index]
    target.args = (target.args[0], tuple(items))


def _roll(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
    shifts = attrs.get("shifts")
    if shifts:
        source = target.args[0] if target.args else target.kwargs["input"]
        target.args, target.kwargs = (source, list(shifts.values()), list(shifts)), {}


def _slice(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
    for axis, start, stop, step in attrs.get("cuts", ()):
        target.args = (target.args[0], axis, start, stop, step)


def _narrow(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
    for axis, start, stop, _ in attrs.get("cuts", ()):
        source = target.args[0] if target.args else target.kwargs["input"]
        target.args, target.kwargs = (source, axis, start, stop - start), {}


def _groups(position: int, name: str) -> Edit:
    """How many groups a convolution or group norm has."""

    def change(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
        if "groups" in attrs:
            _argument(target, position, (name,))[1](attrs["groups"])

    return change


def _pin_scale(target: fx.Node, node: Node, shapes: list[Shape], attrs: dict[str, Any]) -> None:
    """The default scale of attention depends on the head width; it stays what it was."""
    if target.kwargs.get("scale") is None:
        target.kwargs = {**target.kwargs, "scale": node.attrs["scale"]}


def _argument(target: fx.Node, position: int, names: tuple[str, ...]) -> tuple[Any, Callable[[Any], None]]:
    """An argument of an fx node and a function that replaces it."""
    if position < len(target.args):
        args = target.args
        return args[position], lambda new: setattr(target, "args", (*args[:position], new, *args[position + 1 :]))
    name = next((name for name in names if name in target.kwargs), names[0] if names else "")
    return target.kwargs.get(name), lambda new: setattr(target, "kwargs", {**target.kwargs, name: new})


def _has_nodes(item: slice) -> bool:
    return any(isinstance(part, fx.Node) for part in (item.start, item.stop, item.step))


_EDITS: dict[str, Edit] = {
    **dict.fromkeys(["view", "reshape", "_unsafe_view"], _sized(1, "shape", "size")),
    **dict.fromkeys(["expand", "broadcast_to"], _sized(1, "size")),
    **dict.fromkeys(["split", "split_with_sizes", "chunk", "tensor_split"], _split),
    **{f"conv{n}d": _groups(6, "groups") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _groups(6, "groups") for n in (1, 2, 3)},
    "convolution": _groups(8, "groups"),
    "group_norm": _groups(1, "num_groups"),
    **dict.fromkeys(["zeros", "ones", "full"], _sized(0, "size")),
    **dict.fromkeys(["new_zeros", "new_ones", "new_full"], _sized(1, "size")),
    "unflatten": _unflatten,
    "layer_norm": _trailing(1, "normalized_shape"),
    "native_layer_norm": _trailing(1, "normalized_shape"),
    "rms_norm": _trailing(1, "normalized_shape"),
    base_name(operator.getitem): _getitem,
    "__getitem__": _getitem,
    "slice": _slice,
    "narrow": _narrow,
    "roll": _roll,
    "scaled_dot_product_attention": _pin_scale,
}
"""Call -> how its literal sizes follow from the new shapes."""
