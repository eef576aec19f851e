"""Operators that ONNX Runtime fuses (domain com.microsoft), written out again."""

import math
from typing import Any

import onnx_ir as ir

from . import wide_quantised, wide_windows
from .builder import Builder, CannotExpand


def tanh_gelu(b: Builder, x: ir.Value) -> ir.Value:
    """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    cubed = b("Mul", b("Mul", b("Mul", x, x), x), b.const(0.044715))
    inner = b("Tanh", b("Mul", b("Add", x, cubed), b.const(math.sqrt(2 / math.pi))))
    return b("Mul", b("Mul", x, b.const(0.5)), b("Add", inner, b.const(1.0)))


def erf_gelu(b: Builder, x: ir.Value) -> ir.Value:
    """x/2 * (1 + erf(x / sqrt(2)))."""
    inner = b("Erf", b("Mul", x, b.const(math.sqrt(0.5))))
    return b("Mul", b("Mul", x, b.const(0.5)), b("Add", inner, b.const(1.0)))


def _biased(b: Builder) -> ir.Value:
    return b.input(0) if b.inputs[1] is None else b("Add", b.input(0), b.inputs[1])


def gelu(b: Builder) -> ir.Value:
    """Gelu and BiasGelu."""
    return erf_gelu(b, _biased(b))


def fast_gelu(b: Builder) -> ir.Value:
    """FastGelu: the approximation by tanh."""
    return tanh_gelu(b, _biased(b))


def quick_gelu(b: Builder) -> ir.Value:
    """x * sigmoid(alpha x)."""
    x = b.input(0)
    return b("Mul", x, b("Sigmoid", b("Mul", x, b.const(b.attr("alpha", 1.702)))))


def _activated(b: Builder, value: ir.Value, name: str | None, numbers: list[float]) -> ir.Value:
    """An activation that was fused into another operator."""
    if not name:
        return value
    if name == "Clip":
        return b.clip(value, *numbers)
    if name not in ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid"):
        raise CannotExpand(f"the activation {name}")
    given: dict[str, Any] = dict(zip(("alpha", "beta"), numbers, strict=False))
    return b(name, value, **given)


def fused_conv(b: Builder) -> ir.Value:
    """A convolution, a sum with another value, and an activation."""
    result = wide_windows.convolution(b)
    if b.inputs[3] is not None:
        result = b("Add", result, b.inputs[3])
    return _activated(b, result, b.attr("activation"), list(b.attr("activation_params") or ()))


def fused_gemm(b: Builder) -> ir.Value:
    """Gemm and an activation."""
    kept = {key: b.attr(key) for key in ("alpha", "beta", "transA", "transB")}
    result = b("Gemm", *b.node.inputs, **kept)
    numbers = [b.attr(key) for key in ("activation_alpha", "activation_beta") if b.attr(key) is not None]
    return _activated(b, result, b.attr("activation"), numbers)


def transposed_matmul(b: Builder) -> ir.Value:
    """TransposeMatMul is an old name of FusedMatMul."""
    attributes = {key: attribute.value for key, attribute in b.node.attributes.items()}
    return b("FusedMatMul", *b.node.inputs, domain="com.microsoft", **attributes)


def skip_layer_norm(b: Builder) -> list[ir.Value]:
    """A sum of two or three values, and its layer norm; the sum is the fourth output."""
    if b.node.op_type == "SkipLayerNormalization":
        skipped, scale, shift, bias = b.input(1), b.input(2), b.inputs[3], b.inputs[4]
    else:
        skipped, scale, shift, bias = b.input(1), b.input(2), None, b.inputs[3]
    total = b("Add", b.input(0), skipped)
    total = total if bias is None else b("Add", total, bias)
    apart = total
    if b.node.op_type == "SkipLayerNormalization":
        apart = b("Sub", total, b.reduce("ReduceMean", total, [-1]))
    squares = b.reduce("ReduceMean", b("Mul", apart, apart), [-1])
    eps = b.const(b.attr("epsilon", 1e-12 if shift is not None or bias is not None else 1e-5))
    normed = b("Mul", b("Div", apart, b("Sqrt", b("Add", squares, eps))), scale)
    if any(value.uses() for value in b.node.outputs[1:3]):
        raise CannotExpand("statistics are wanted")
    return [normed if shift is None else b("Add", normed, shift), squares, squares, b("Identity", total)]


def _heads(b: Builder, value: ir.Value, heads: int) -> ir.Value:
    """[batch, length, width] as [batch, heads, length, width per head]."""
    return b("Transpose", b.reshape(value, [0, 0, heads, -1]), perm=[0, 2, 1, 3])


def _attended(b: Builder, q: ir.Value, k: ir.Value, v: ir.Value, bias: "ir.Value | None", width: int) -> ir.Value:
    """The usual attention of heads, joined again."""
    scale = b.attr("scale", 0.0) or 1 / math.sqrt(width)
    scores = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), b.const(scale))
    weights = b("Softmax", scores if bias is None else b("Add", scores, bias), axis=3)
    return b.reshape(b("Transpose", b("MatMul", weights, v), perm=[0, 2, 1, 3]), [0, 0, -1])


def _plain_only(b: Builder, positions: tuple[int, ...], *flags: str) -> None:
    if any(b.inputs[place] is not None for place in positions) or any(b.attr(flag, 0) for flag in flags):
        raise CannotExpand("masks, caches or rotations")
    if len([value for value in b.node.outputs if value.uses()]) > 1:
        raise CannotExpand("keys and values are wanted")


def attention(b: Builder) -> ir.Value:
    """Attention: one projection to queries, keys and values, then attention; without masks and caches."""
    _plain_only(b, (3, 4, 6), "unidirectional", "do_rotary")
    x, weight, bias, heads = b.input(0), b.input(1), b.inputs[2], b.attr("num_heads")
    width = b.shape(weight)[1]
    sizes = list(b.attr("qkv_hidden_sizes") or [width // 3] * 3)
    packed = b("MatMul", x, weight)
    packed = packed if bias is None else b("Add", packed, bias)
    starts = [0, sizes[0], sizes[0] + sizes[1]]
    parts = [
        b("Gather", packed, b.ints(range(start, start + size)), axis=2)
        for start, size in zip(starts, sizes, strict=True)
    ]
    q, k, v = (_heads(b, part, heads) for part in parts)
    return _attended(b, q, k, v, b.inputs[5], sizes[0] // heads)


def multi_head_attention(b: Builder) -> ir.Value:
    """MultiHeadAttention of separate queries, keys and values; without masks and caches."""
    _plain_only(b, (4, 6, 7), "unidirectional")
    query, key, value, bias, heads = b.input(0), b.input(1), b.input(2), b.inputs[3], b.attr("num_heads")
    if any(len(b.shape(part)) != 3 for part in (query, key, value)):
        raise CannotExpand("packed keys and values")
    widths = [b.shape(part)[2] for part in (query, key, value)]
    parts: list[Any] = [query, key, value]
    if bias is not None:
        starts = [0, widths[0], widths[0] + widths[1]]
        parts = [
            b("Add", part, b("Gather", bias, b.ints(range(start, start + width)), axis=0))
            for part, start, width in zip(parts, starts, widths, strict=True)
        ]
    q, k, v = (_heads(b, part, heads) for part in parts)
    return _attended(b, q, k, v, b.inputs[5], widths[0] // heads)


FUSED: dict[str, Any] = {
    "Attention": attention,
    "BiasGelu": gelu,
    "DequantizeLinear": wide_quantised.dequantize,
    "FastGelu": fast_gelu,
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "Gelu": gelu,
    "MultiHeadAttention": multi_head_attention,
    "QuantizeLinear": wide_quantised.quantize,
    "SkipLayerNormalization": skip_layer_norm,
    "SkipSimplifiedLayerNormalization": skip_layer_norm,
    "QuickGelu": quick_gelu,
    "TransposeMatMul": transposed_matmul,
}
