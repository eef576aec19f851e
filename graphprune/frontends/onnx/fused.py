"""Output sizes of operators outside of the standard (com.microsoft), which standard shape inference does not know."""

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from ...graph import Shape

MICROSOFT = "com.microsoft"
Sizes = Callable[[ir.Node, Sequence[Shape | None]], list[Shape]]


def number_of(node: ir.Node, name: str, default: Any = 0) -> Any:
    """An attribute as plain Python."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.value


def _first(given: Sequence[Shape | None], place: int = 0) -> Shape:
    shape = given[place] if place < len(given) else None
    if shape is None:
        raise ValueError(f"the sizes of input {place} are not known")
    return shape


def _same(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    return [_first(given)] * len(node.outputs)


def _skip(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    """Normalised, mean, inverse deviation, sum before normalisation."""
    few = (*_first(given)[:-1], 1)
    return [_first(given), few, few, _first(given)]


def _embed(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    whole = (*_first(given), _first(given, 2)[-1])
    return [whole, _first(given)[:1], whole]


def _attention(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    """Mixed values, and keys and values that the next call takes."""
    batch, length, _ = _first(given)
    sizes = number_of(node, "qkv_hidden_sizes", None)
    width = int(sizes[2]) if sizes else _first(given, 1)[1] // 3
    heads = int(number_of(node, "num_heads"))
    return [(batch, length, width), (2, batch, heads, length, width // max(heads, 1))]


def _multi_head(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    batch, length, _ = _first(given)
    heads = int(number_of(node, "num_heads"))
    shared = int(number_of(node, "kv_num_heads", heads))
    total, width = _first(given, 2)[1:]
    past = (batch, shared, total, width // max(shared, 1))
    return [(batch, length, width // max(shared, 1) * heads), past, past]


def _conv(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    """The sizes of a convolution, from the standard's own inference."""
    import onnx

    plain = [value for value in node.inputs[:3] if value is not None]
    names = [f"i{place}" for place in range(len(plain))]
    attributes = {k: v.value for k, v in node.attributes.items() if k not in ("activation", "activation_params")}
    proto = onnx.helper.make_node("Conv", names, ["o"], **attributes)
    kinds = {name: onnx.helper.make_tensor_type_proto(1, shape) for name, shape in zip(names, given, strict=False)}
    found = onnx.shape_inference.infer_node_outputs(onnx.defs.get_schema("Conv", 11), proto, kinds)
    return [tuple(dim.dim_value for dim in found["o"].tensor_type.shape.dim)]


def _product(node: ir.Node, given: Sequence[Shape | None], places: tuple[int, int] = (0, 1)) -> list[Shape]:
    left, right = list(_first(given, places[0])), list(_first(given, places[1]))
    if number_of(node, "transA"):
        left[-1], left[-2] = left[-2], left[-1]
    if number_of(node, "transB"):
        right[-1], right[-2] = right[-2], right[-1]
    if left[-1] != right[-2]:
        raise ValueError(f"a product of {tuple(left)} and {tuple(right)}")
    rank = max(len(left), len(right))
    batch = zip(*[[1] * (rank - len(side)) + side[:-2] for side in (left, right)], strict=True)
    return [(*(max(pair) for pair in batch), left[-2], right[-1])]


def _broadcast(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    left, right = list(_first(given)), list(_first(given, 3))
    rank = max(len(left), len(right))
    pairs = zip(*[[1] * (rank - len(side)) + side for side in (left, right)], strict=True)
    return [tuple(second if first == 1 else first for first, second in pairs)]


def _concat(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    parts = [_first(given, place) for place in range(2, len(given), 3)]
    axis = int(number_of(node, "axis")) % len(parts[0])
    return [(*parts[0][:axis], sum(part[axis] for part in parts), *parts[0][axis + 1 :])]


def _global_pool(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    shape = _first(given)
    return [(*shape[:2], *[1] * (len(shape) - 2))]


def _of(*names: str) -> list[tuple[str, str]]:
    return [(MICROSOFT, name) for name in names]


FUSED_SHAPES: dict[tuple[str, str], Sizes] = {
    **dict.fromkeys(_of(*"Gelu BiasGelu FastGelu QuickGelu BiasAdd RotaryEmbedding".split()), _same),
    **dict.fromkeys(_of(*"QuantizeLinear DequantizeLinear QLinearLeakyRelu QLinearSigmoid".split()), _same),
    ("", "SimplifiedLayerNormalization"): _skip,
    ("", "GroupNormalization"): _same,
    **dict.fromkeys(_of("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _skip),
    **dict.fromkeys(_of("EmbedLayerNormalization"), _embed),
    **dict.fromkeys(_of("Attention"), _attention),
    **dict.fromkeys(_of("MultiHeadAttention", "GroupQueryAttention"), _multi_head),
    **dict.fromkeys(_of("FusedConv"), _conv),
    **dict.fromkeys(_of("FusedMatMul", "TransposeMatMul", "FusedGemm"), _product),
    **dict.fromkeys(_of("MatMulIntegerToFloat", "DynamicQuantizeMatMul"), _product),
    **dict.fromkeys(_of("QLinearAdd", "QLinearMul"), _broadcast),
    **dict.fromkeys(_of("QLinearConcat"), _concat),
    **dict.fromkeys(_of("QLinearGlobalAveragePool"), _global_pool),
}
"""Operator -> the sizes of its outputs, from those of its inputs (None where one is left out)."""


RESULT_TYPE = {"QuantizeLinear": 2, "DequantizeLinear": 1, "EmbedLayerNormalization": 2, "MatMulIntegerToFloat": 2}
"""Operator -> the input whose element type its outputs have, where that is not the first."""
