"""Lowers matrix products: constant weights are packed now, other operands inside the kernel."""

from math import prod

import numpy as np
from tvm import relax

from . import matmul
from .lower_sparse import emit_product, ways_of_product, with_sparse
from .lowering import Lowering, Value
from .rewriting import dtype_of, shape_of
from .sparse import Sparse


def lower(lowering: Lowering, call: relax.Call) -> Value | None:
    """A float32 product of two operands of two or more axes, batches alike."""
    left, right = (shape_of(argument) for argument in call.args)
    out = shape_of(call)
    floats = all(dtype_of(argument) == "float32" for argument in call.args)
    if not floats or left is None or right is None or len(left) < 2 or len(right) < 2 or 0 in (*left, *right):
        return None
    weight = lowering.constant(call.args[1])
    data = lowering.expression(call.args[0])
    if weight is not None and weight.ndim == 2:
        return product(lowering, data, weight, out)
    if left[:-2] != right[:-2]:
        return None
    shape = _numbers(lowering, prod(left[:-2]), left[-2], left[-1], right[-1])
    other = lowering.expression(call.args[1])
    return lowering.kernel("matmul", lambda a, b: matmul.compute(shape, a, b, out, False), data, other)


def product(lowering: Lowering, data: relax.Expr, weight: np.ndarray, out: tuple) -> relax.Expr:
    """A product of a tensor with a constant matrix, `(inner, columns)`, as a tensor of the shape `out`."""
    inner, columns = weight.shape
    numbers = _numbers(lowering, 1, prod(out[:-1]), inner, columns, lowering.storage(weight))
    ways = ways_of_product(lowering, weight, numbers.rows)
    shape = lowering.choose(with_sparse(lowering, numbers.candidates(), ways.found))
    if isinstance(shape, Sparse):
        return emit_product(lowering, ways, shape, data, columns, out)
    packed = lowering.store(matmul.pack_weights(weight, shape), shape.weights)
    return linear(lowering, shape, data, packed, out)


def linear(lowering: Lowering, shape: matmul.MatMul, data: relax.Expr, packed: relax.Expr, out: tuple) -> relax.Expr:
    """A product with packed weights, as a tensor of the shape `out`."""
    if sum(extent > 1 for extent in out[:-1]) > 1 and shape.rows % shape.tile[0]:
        # Tiles that straddle rows of several axes must fit exactly; else the rows are made one axis first.
        flat = lowering.builder.emit(relax.op.reshape(data, (shape.rows, shape.inner)))
        product = linear(lowering, shape, flat, packed, (shape.rows, shape.columns))
        return lowering.builder.emit(relax.op.reshape(product, out))
    return lowering.kernel("linear", lambda a, b: matmul.compute(shape, a, b, out, True), data, packed)


def _numbers(
    lowering: Lowering, batch: int, rows: int, inner: int, columns: int, weights: str = "float32"
) -> matmul.MatMul:
    target = lowering.target
    lanes, registers = target.vector_width, target.accumulators
    return matmul.MatMul(batch, rows, inner, columns, lanes, registers, weights, core=target.core)


HANDLERS = {"relax.matmul": lower}
