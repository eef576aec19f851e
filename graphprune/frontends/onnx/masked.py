"""The masked original: dropped positions of stored tensors hold zero, and inexact operators see living ones only.

A layer norm over a pruned width takes its statistics over what is left. To check the pruned program against the
original, the original gathers the living positions for exactly these operators, and puts zeros at the others.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...analysis import Analysis
from ...graph import Node
from ...places import Places, dropping
from ...plan import Plan
from ...shapes import Alive, attributes_of, eps_key, grown_eps, living
from ...slicing import slim_array
from .read import stored
from .tracing import dtype_named, first_name, set_constant
from .widen import EXACT

_ZERO_POINTS = {
    "DequantizeLinear": {0: 2},
    "QLinearConv": {3: 5, 0: 2},
    "QLinearMatMul": {3: 5, 0: 2},
    "ConvInteger": {1: 3, 0: 2},
    "MatMulInteger": {1: 3, 0: 2},
}
"""Inputs that hold quantised numbers, and the inputs that hold what stands for zero there."""

_SCALES = {
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
}
"""Inputs that hold scales and zero points. They stay: of a channel of zeros they do not matter."""


def masked(model: ir.Model, plan: Plan, analysis: Analysis | None = None) -> ir.Model:
    """A copy of a prepared model with what a plan drops set to zero, its inexact operators on living positions.

    `analysis` is that of the model for the sizes at which it will run; plans that are exact and repair nothing need
    none.
    """
    copy = model.clone()
    zeros = dict(_zeros(copy))
    kept = set(_scales(copy))
    for value, tensor in stored(copy).items():
        name = value.name or ""
        if name in plan.repairs:
            set_constant(value, _repaired(tensor, plan, name))
        elif name in plan.kept and name not in plan.lookups and name not in kept:
            if _is_float(tensor.dtype) or name in zeros:
                set_constant(value, _masked(tensor, plan, name, zeros.get(name)))
    if analysis is not None:
        alive = living(analysis, plan)
        _grow_eps(copy, plan, analysis)
        if not plan.exact:
            _Survivors(copy, analysis, plan, alive).rewrite()
    return copy


def _is_float(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point()


def _masked(tensor: Any, plan: Plan, name: str, zero: "NDArray[Any] | None") -> ir.LazyTensor:
    """A tensor that is masked when it is read."""

    def compute() -> "ir.Tensor[Any]":
        array = tensor.numpy()
        fill = np.zeros((), array.dtype) if zero is None else zero.astype(array.dtype)
        return ir.Tensor(np.where(plan.mask(name), array, fill), dtype=tensor.dtype, name=tensor.name)

    return ir.LazyTensor(compute, tensor.dtype, tensor.shape, name=tensor.name)


def _repaired(tensor: Any, plan: Plan, name: str) -> "ir.Tensor[Any]":
    """The scale of a norm as it is after its repair was rounded: in float64 where it is widened."""
    array = tensor.numpy()
    share, offset = plan.repairs[name]
    rounded = (slim_array(array, plan, name).astype(np.float64) + offset) / share**0.5 - offset
    exact = np.zeros(array.shape)
    exact[plan.kept[name][0]] = rounded
    result = ir.Tensor(exact.astype(array.dtype), dtype=tensor.dtype, name=tensor.name)
    result.meta[EXACT] = exact
    return result


def _zeros(model: ir.Model) -> Iterator[tuple[str, NDArray[Any]]]:
    """For stored quantised numbers, what stands for zero, ready to be broadcast."""
    tensors = {value.name: tensor for value, tensor in stored(model).items()}
    for node in model.graph.all_nodes():
        for place, other in _ZERO_POINTS.get(node.op_type, {}).items():
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is None or value.name not in tensors or _is_float(tensors[value.name].dtype):
                continue
            zero = node.inputs[other] if other < len(node.inputs) else None
            array = tensors[zero.name].numpy() if zero is not None and zero.name in tensors else np.zeros(())
            yield value.name or "", _spread(array, tensors[value.name].shape.numpy(), node)
        if node.op_type == "QLinearConv" and len(node.inputs) > 8 and node.inputs[8] is not None:
            yield node.inputs[8].name or "", np.zeros(())


def _spread(zero: NDArray[Any], shape: tuple[int, ...], node: ir.Node) -> NDArray[Any]:
    if zero.size == 1:
        return zero.reshape(())
    usual = {"DequantizeLinear": 1, "QLinearMatMul": -1, "MatMulInteger": -1}.get(node.op_type, 0)
    axis, block = _int(node, "axis", usual) % len(shape), _int(node, "block_size", 0)
    if block:
        return zero.repeat(block, axis).take(range(shape[axis]), axis)
    return zero.reshape([-1 if place == axis else 1 for place in range(len(shape))])


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _scales(model: ir.Model) -> Iterator[str]:
    for node in model.graph.all_nodes():
        for place in _SCALES.get(node.op_type, ()):
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is not None:
                yield value.name or ""


def _grow_eps(copy: ir.Model, plan: Plan, analysis: Analysis) -> None:
    """The eps of repaired norms, rounded as the slim model has it."""
    nodes = {first_name(node): node for node in copy.graph}
    tensors = stored(copy)
    for canonical in analysis.graph.nodes:
        grown = grown_eps(canonical, plan)
        if grown is None:
            continue
        node, share = nodes[first_name(canonical.call)], plan.repairs[canonical.attrs["grows"]][0]
        if eps_key(canonical) == "eps":
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", float(np.float32(grown)) / share)
            continue
        for place, value in enumerate(node.inputs):
            tensor = tensors.get(value) if value is not None else None
            if tensor is None or tensor.size != 1:
                continue
            array = tensor.numpy()
            exact = np.full(array.shape, np.asarray(grown).astype(array.dtype), np.float64) / share
            name = f"{canonical.name}/eps"
            fresh = ir.Tensor(exact.astype(array.dtype), dtype=tensor.dtype, name=name)
            fresh.meta[EXACT] = exact
            own = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=fresh)
            copy.graph.register_initializer(own)
            node.replace_input_with(place, own)


class _Survivors:
    """Rewrites the inexact operators of a model, so that they see living positions only."""

    def __init__(self, model: ir.Model, analysis: Analysis, plan: Plan, alive: Alive) -> None:
        self.model, self.analysis, self.plan, self.alive = model, analysis, plan, alive
        self.values = {value.name: value for value in analysis.layouts}
        self.serial = 0

    def rewrite(self) -> None:
        """Rewrite them all."""
        nodes = {first_name(node): node for node in self.model.graph}
        done = set()
        for labels, reason in self.analysis.equations.inexact:
            if reason.node is None or self.alive[labels].all():
                continue
            name = first_name(reason.node.call)
            if name not in done:
                done.add(name)
                self._rewrite(nodes[name], reason.node)

    def _rewrite(self, node: ir.Node, canonical: Node) -> None:
        for position, value in enumerate(node.inputs):
            if value is not None:
                for places in self._places(value.name):
                    value = _taken(places, self, node, value)
                node.replace_input_with(position, value)
        groups = attributes_of(canonical, self.analysis, self.plan, self.alive).get("groups")
        if groups is not None and "num_groups" in node.attributes:
            node.attributes["num_groups"] = ir.AttrInt64("num_groups", int(groups))
        for old in node.outputs:
            found = self._places(old.name)
            if not found:
                continue
            name, uses, value, last = old.name or "", list(old.uses()), old, node
            outputs = self.model.graph.outputs
            places_out = [place for place, one in enumerate(outputs) if one is old]
            old.name = self.fresh(name)
            for places in reversed(found):
                value, last = _put(places, self, last, value, self.values[name].dtype)
            for use in uses:
                use.node.replace_input_with(use.idx, value)
            for place in places_out:
                outputs[place] = value
            value.name, value.type = name, old.type

    def fresh(self, name: "str | None") -> str:
        """A name that nothing else has."""
        self.serial += 1
        return f"{name}/living.{self.serial}"

    def constant(self, numbers: NDArray[Any]) -> ir.Value:
        """A new stored tensor."""
        name = self.fresh("positions")
        tensor = ir.tensor(np.ascontiguousarray(numbers), name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self.model.graph.register_initializer(value)
        return value

    def node(self, op: str, inputs: list[ir.Value], **attrs: Any) -> ir.Node:
        """A new node, which is not in the graph yet."""
        node = ir.node(op, inputs, attrs)
        node.name = node.outputs[0].name = self.fresh(inputs[0].name)
        return node

    def _places(self, name: "str | None") -> list[Places]:
        value = self.values.get(name or "")
        return [] if value is None else list(dropping(self.analysis.layouts[value], value.shape, self.alive))


def _taken(places: Places, work: _Survivors, node: ir.Node, value: ir.Value) -> ir.Value:
    """What lives of a value, computed before a node."""
    made = [work.node("Gather", [value, work.constant(places.rows)], axis=places.axes[0])]
    if places.columns is not None:
        made.append(work.node("GatherElements", [made[0].outputs[0], work.constant(places.inner)], axis=places.axes[1]))
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_before(node, made)
    return made[-1].outputs[0]


def _put(places: Places, work: _Survivors, node: ir.Node, value: ir.Value, dtype: str) -> tuple[ir.Value, ir.Node]:
    """Living positions in their places among zeros, computed after a node; and the last node of that."""
    made = [work.node("Gather", [value, work.constant(places.outer_rows)], axis=places.axes[0])]
    if places.columns is not None:
        index = work.constant(places.outer)
        made.append(work.node("GatherElements", [made[0].outputs[0], index], axis=places.axes[1]))
    mask = work.constant(places.mask.astype(dtype_named(dtype).numpy()))
    made.append(work.node("Mul", [made[-1].outputs[0], mask]))
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_after(node, made)
    return made[-1].outputs[0], made[-1]
