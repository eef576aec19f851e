"""`scaled_dot_product_attention` as the two products and the softmax that `lower_attention.py` looks for.

torch's own decomposition would also search every row of scores for masked ones; here the mask alone is searched,
and a constant mask at compile time.
"""

from math import inf, prod, sqrt

import numpy as np
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.base_fx_graph_translator import BaseFXGraphImporter

from ..errors import CompileError
from .rewriting import dtype_of, shape_of

NAME = "scaled_dot_product_attention.default"
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def convert(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
    """The result of one call."""
    given = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    if given.get("dropout_p"):
        raise CompileError(f"{node.name}: scaled_dot_product_attention with dropout is random; set dropout_p to 0")
    builder = importer.block_builder
    query, key, value = (importer.env[given[name]] for name in _ARGUMENTS[:3])
    if given.get("enable_gqa"):
        heads = shape_of(query)[-3]
        key, value = _repeated(builder, key, heads), _repeated(builder, value, heads)
    lead = np.broadcast_shapes(*(shape_of(operand)[:-2] for operand in (query, key, value)))
    query, key, value = (_expanded(builder, operand, lead) for operand in (query, key, value))
    queries, keys = shape_of(query)[-2], shape_of(key)[-2]
    scale = given.get("scale") or 1 / sqrt(shape_of(query)[-1])
    mask = importer.env[given["attn_mask"]] if given.get("attn_mask") is not None else None
    if given.get("is_causal"):
        mask = relax.const(np.tril(np.ones((queries, keys), bool)))
    axes = [*range(len(lead)), len(lead) + 1, len(lead)]
    scores = builder.emit(relax.op.matmul(query, builder.emit(relax.op.permute_dims(key, axes))))
    scores = builder.emit(relax.op.multiply(scores, relax.const(scale, "float32")))
    if mask is None:
        return builder.emit(relax.op.matmul(builder.emit(relax.op.nn.softmax(scores, axis=-1)), value))
    bias, dead = _bias(builder, mask)
    scores = builder.emit(relax.op.add(scores, bias))
    result = builder.emit(relax.op.matmul(builder.emit(relax.op.nn.softmax(scores, axis=-1)), value))
    # A query that may see no key at all gets zeros, where the softmax alone would say NaN.
    return builder.emit(relax.op.where(dead, relax.const(0.0, "float32"), result))


def _bias(builder: relax.BlockBuilder, mask: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """What is added to the scores, and which rows hold nothing but -infinity."""
    if dtype_of(mask) == "bool":
        zero, masked = relax.const(0.0, "float32"), relax.const(-inf, "float32")
        mask = builder.emit(relax.op.where(mask, zero, masked))
    highest = builder.emit(relax.op.max(mask, axis=[-1], keepdims=True))
    return mask, builder.emit(relax.op.equal(highest, relax.const(-inf, "float32")))


def _repeated(builder: relax.BlockBuilder, operand: relax.Expr, heads: int) -> relax.Expr:
    """Keys or values with every head repeated for the queries that share it."""
    *lead, own, rows, features = shape_of(operand)
    if own == heads:
        return operand
    wide = builder.emit(relax.op.expand_dims(operand, -3))
    wide = builder.emit(relax.op.broadcast_to(wide, (*lead, own, heads // own, rows, features)))
    return builder.emit(relax.op.reshape(wide, (*lead, heads, rows, features)))


def _expanded(builder: relax.BlockBuilder, operand: relax.Expr, lead: tuple[int, ...]) -> relax.Expr:
    """An operand with all batch axes."""
    shape = shape_of(operand)
    if prod(shape[:-2]) == prod(lead):
        return operand if shape[:-2] == tuple(lead) else builder.emit(relax.op.reshape(operand, (*lead, *shape[-2:])))
    return builder.emit(relax.op.broadcast_to(operand, (*lead, *shape[-2:])))
