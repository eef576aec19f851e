"""What a plan leaves of the stored tensors of an ONNX model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...plan import Plan
from .read import stored
from .tracing import set_constant

LAZY = 1 << 20
"""Tensors of more bytes that lie outside of the model's file are sliced when they are read, one at a time."""


def slice_array(array: NDArray[Any], axes: Mapping[int, NDArray[np.int64]]) -> NDArray[Any]:
    """The kept indices of every axis; 2-D indices are taken row by row from blocks of axis 0."""
    for axis, index in sorted(axes.items(), key=lambda item: item[1].ndim):
        if index.ndim == 1:
            array = np.take(array, index, axis)
            continue
        rows = len(index)
        blocks = array.reshape(rows, -1, *array.shape[1:])
        view = index.reshape(rows, *[1] * axis, -1, *[1] * (array.ndim - axis - 1))
        chosen = np.take_along_axis(blocks, view, axis + 1)
        array = chosen.reshape(-1, *chosen.shape[2:])
    return np.ascontiguousarray(array)


def slim_array(array: NDArray[Any], plan: Plan, name: str) -> NDArray[Any]:
    """What is left of one tensor; the scale of a repaired norm is brought in line."""
    fresh = slice_array(array, plan.kept.get(name, {}))
    if name in plan.repairs:
        share, offset = plan.repairs[name]
        fresh = ((fresh.astype(np.float64) + offset) * share**0.5 - offset).astype(array.dtype)
    return fresh


def slim_shape(shape: tuple[int, ...], plan: Plan, name: str) -> tuple[int, ...]:
    """The shape of what is left of a tensor."""
    result = list(shape)
    for axis, index in plan.kept.get(name, {}).items():
        result[axis] = index.size if index.ndim == 1 or axis == 0 else index.shape[1]
    return tuple(result)


def slice_stored(model: ir.Model, plan: Plan) -> None:
    """Slice every stored tensor of a model in place; copies that come out alike are shared again."""
    for value, tensor in stored(model).items():
        name = value.name or ""
        if name in plan.kept or name in plan.repairs:
            set_constant(value, _slim_tensor(tensor, plan, name))
    for value in list(model.graph.initializers.values()):
        base, _, number = (value.name or "").rpartition("/")
        first = model.graph.initializers.get(base) if number.isdigit() else None
        if first is not None and value.meta.get("copy") and _same(plan, base, value.name or ""):
            value.replace_all_uses_with(first)
            del model.graph.initializers[value.name or ""]


def _same(plan: Plan, one: str, other: str) -> bool:
    left, right = plan.kept.get(one, {}), plan.kept.get(other, {})
    alike = left.keys() == right.keys() and all(np.array_equal(left[axis], right[axis]) for axis in left)
    return alike and plan.repairs.get(one) == plan.repairs.get(other)


def _slim_tensor(tensor: Any, plan: Plan, name: str) -> Any:
    shape = ir.Shape(slim_shape(tuple(int(size) for size in tensor.shape), plan, name))

    def compute() -> "ir.Tensor[Any]":
        array = slim_array(tensor.numpy(), plan, name)
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name, doc_string=tensor.doc_string)

    if isinstance(tensor, (ir.ExternalTensor, ir.LazyTensor)) and tensor.nbytes > LAZY:
        return ir.LazyTensor(compute, dtype=tensor.dtype, shape=shape, name=tensor.name)
    return compute()
