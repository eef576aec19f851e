"""What a plan leaves of the stored tensors of an ONNX model."""

from typing import Any

import numpy as np
import onnx_ir as ir

from ...plan import Plan
from ...slicing import slim_array, slim_shape
from .read import stored
from .tracing import set_constant

LAZY = 1 << 20
"""Tensors of more bytes that lie outside of the model's file are sliced when they are read, one at a time."""


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
