"""THE table of expansions: operator -> what it is in operators that ONNX Runtime has in float64.

An expansion is a function of a `Builder`; it returns the value (or the values) of the operator, and raises
`CannotExpand` where an option is not covered. To add one: one function, one line here, one test against a reference.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import wide_fused, wide_quantised, wide_recurrent, wide_windows
from .builder import Builder, CannotExpand

Expansion = Callable[[Builder], Any]

FARTHEST = 6.5
"""Where erf is 1 in float64."""


@cache
def _tail() -> NDArray[np.float64]:
    """The polynomial in u of erfcx(z), with u from -1 to 1 as (z - 2) / (z + 2) goes from its least to its largest."""
    from scipy.special import erfcx

    points = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    t = -1 + (points + 1) / _stretch()
    fit = np.polynomial.chebyshev.chebfit(points, erfcx(2 * (1 + t) / (1 - t)), 20)
    return np.asarray(np.polynomial.chebyshev.cheb2poly(fit), dtype=np.float64)


def _stretch() -> float:
    return 2 / ((FARTHEST - 2) / (FARTHEST + 2) + 1)


def erf(b: Builder) -> ir.Value:
    """sign(x) * (1 - exp(-z^2) * erfcx(z)) with z = |x|; the error is below 1e-15."""
    x = b.input(0)
    z = b.clip(b("Abs", x), None, FARTHEST)
    # u = stretch * ((z - 2) / (z + 2) + 1) - 1
    u = b("Sub", b.const(2 * _stretch() - 1), b("Div", b.const(4 * _stretch()), b("Add", z, b.const(2.0))))
    *others, value = (b.const(number) for number in _tail())
    for number in reversed(others):
        value = b("Add", b("Mul", value, u), number)
    tail = b("Mul", value, b("Exp", b("Neg", b("Mul", z, z))))
    return b("Mul", b("Sign", x), b("Sub", b.const(1.0), tail))


def leaky_relu(b: Builder) -> ir.Value:
    """max(x, 0) + alpha * min(x, 0)."""
    low = b("Mul", b.clip(b.input(0), None, 0.0), b.const(b.attr("alpha", 0.01)))
    return b("Add", b.clip(b.input(0), 0.0, None), low)


def prelu(b: Builder) -> ir.Value:
    """As leaky_relu, with stored slopes."""
    return b("Add", b.clip(b.input(0), 0.0, None), b("Mul", b.clip(b.input(0), None, 0.0), b.input(1)))


def _exponential(b: Builder, alpha: float, gamma: float, inner: float = 1.0) -> ir.Value:
    low = b("Exp", b("Mul", b.clip(b.input(0), None, 0.0), b.const(1 / inner)))
    low = b("Mul", b("Sub", low, b.const(1.0)), b.const(alpha * gamma))
    return b("Add", b("Mul", b.clip(b.input(0), 0.0, None), b.const(gamma)), low)


def elu(b: Builder) -> ir.Value:
    """alpha * (exp(x) - 1) below zero."""
    return _exponential(b, b.attr("alpha", 1.0), 1.0)


def celu(b: Builder) -> ir.Value:
    """alpha * (exp(x / alpha) - 1) below zero."""
    return _exponential(b, b.attr("alpha", 1.0), 1.0, b.attr("alpha", 1.0))


def selu(b: Builder) -> ir.Value:
    """A scaled elu."""
    return _exponential(b, b.attr("alpha", 1.67326319217681884765625), b.attr("gamma", 1.05070102214813232421875))


def thresholded_relu(b: Builder) -> ir.Value:
    """x where it is above alpha."""
    x = b.input(0)
    return b("Where", b("Greater", x, b.const(b.attr("alpha", 1.0))), x, b.const(0.0))


def softplus(b: Builder) -> ir.Value:
    """log(1 + exp(x)), without overflow."""
    x = b.input(0)
    small = b("Log", b("Add", b("Exp", b("Neg", b("Abs", x))), b.const(1.0)))
    return b("Add", b.clip(x, 0.0, None), small)


def softsign(b: Builder) -> ir.Value:
    """x / (1 + |x|)."""
    return b("Div", b.input(0), b("Add", b("Abs", b.input(0)), b.const(1.0)))


def hard_sigmoid(b: Builder) -> ir.Value:
    """A line between 0 and 1."""
    line = b("Add", b("Mul", b.input(0), b.const(b.attr("alpha", 0.2))), b.const(b.attr("beta", 0.5)))
    return b.clip(line, 0.0, 1.0)


def hard_swish(b: Builder) -> ir.Value:
    """x times a line between 0 and 1."""
    line = b("Add", b("Mul", b.input(0), b.const(1 / 6)), b.const(0.5))
    return b("Mul", b.input(0), b.clip(line, 0.0, 1.0))


def gelu(b: Builder) -> ir.Value:
    """x times the normal distribution, or its usual approximation."""
    x = b.input(0)
    if b.attr("approximate", "none") == "tanh":
        return wide_fused.tanh_gelu(b, x)
    return wide_fused.erf_gelu(b, x)


def hyperbolic(b: Builder) -> ir.Value:
    """Sinh and Cosh."""
    x, join = b.input(0), "Sub" if b.node.op_type == "Sinh" else "Add"
    return b("Mul", b(join, b("Exp", x), b("Exp", b("Neg", x))), b.const(0.5))


def tangent(b: Builder) -> ir.Value:
    """Sine over cosine."""
    return b("Div", b("Sin", b.input(0)), b("Cos", b.input(0)))


def average(b: Builder) -> ir.Value:
    """The sum over the number of operands."""
    values = [value for value in b.inputs if value is not None]
    return b("Div", b("Sum", *values), b.const(float(len(values))))


def non_zero(b: Builder) -> ir.Value:
    """Where a value is not zero: its truth is looked at."""
    return b("NonZero", b.cast(b.input(0), ir.DataType.BOOL))


def clip(b: Builder) -> ir.Value:
    """Clip, for opsets in which it is there in float32 only: bounds are attributes there."""
    if b.opset >= 11:
        raise CannotExpand("bounds are inputs")
    return b.clip(b.input(0), b.attr("min"), b.attr("max"))


def instance_norm(b: Builder) -> ir.Value:
    """Every channel of every sample, normalised over its positions."""
    x, (_, channels, *rest) = b.input(0), b.shape(b.inputs[0])
    axes, spread = range(2, 2 + len(rest)), [1, channels, *[1] * len(rest)]
    apart = b("Sub", x, b.reduce("ReduceMean", x, axes))
    spreading = b("Add", b.reduce("ReduceMean", b("Mul", apart, apart), axes), b.const(b.attr("epsilon", 1e-5)))
    scaled = b("Mul", b("Div", apart, b("Sqrt", spreading)), b.reshape(b.input(1), spread))
    return b("Add", scaled, b.reshape(b.input(2), spread))


def local_response_norm(b: Builder) -> ir.Value:
    """x over a power of the squares of the channels around it: a band matrix sums them."""
    x, shape = b.input(0), b.shape(b.inputs[0])
    size, place = b.attr("size"), np.arange(shape[1])
    apart = place[None, :] - place[:, None]
    band = (apart >= -((size - 1) // 2)) & (apart <= size // 2)
    squares = b.reshape(b("Mul", x, x), [shape[0], shape[1], -1])
    total = b.reshape(b("MatMul", b.const(band), squares), shape)
    inside = b("Add", b("Mul", total, b.const(b.attr("alpha", 1e-4) / size)), b.const(b.attr("bias", 1.0)))
    return b("Div", x, b("Pow", inside, b.const(b.attr("beta", 0.75))))


def rms_norm(b: Builder) -> ir.Value:
    """x over the root of the mean of its squares, scaled."""
    x, axis = b.input(0), b.attr("axis", -1)
    rank = len(b.shape(x)) if axis >= 0 else 0
    squares = b.reduce("ReduceMean", b("Mul", x, x), range(axis - rank, 0))
    root = b("Sqrt", b("Add", squares, b.const(b.attr("epsilon", 1e-5))))
    return b("Mul", b("Div", x, root), b.input(1))


def mean_variance_norm(b: Builder) -> ir.Value:
    """x with mean 0 and deviation 1 over some axes."""
    x, axes = b.input(0), b.attr("axes") or [0, 2, 3]
    apart = b("Sub", x, b.reduce("ReduceMean", x, axes))
    spread = b("Sqrt", b.reduce("ReduceMean", b("Mul", apart, apart), axes))
    return b("Div", apart, b("Add", spread, b.const(1e-9)))


_STANDARD: dict[str, Expansion] = {
    "AveragePool": wide_windows.average_pool,
    "Celu": celu,
    "Clip": clip,
    "Conv": wide_windows.convolution,
    "ConvTranspose": wide_windows.transposed_convolution,
    "Cosh": hyperbolic,
    "DequantizeLinear": wide_quantised.dequantize,
    "DynamicQuantizeLinear": wide_quantised.quantize_dynamically,
    "Elu": elu,
    "Erf": erf,
    "GRU": wide_recurrent.gru,
    "Gelu": gelu,
    "GlobalAveragePool": wide_windows.global_pool,
    "GlobalLpPool": wide_windows.global_pool,
    "GlobalMaxPool": wide_windows.global_pool,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "InstanceNormalization": instance_norm,
    "LRN": local_response_norm,
    "LSTM": wide_recurrent.lstm,
    "LeakyRelu": leaky_relu,
    "LpPool": wide_windows.lp_pool,
    "MaxPool": wide_windows.max_pool,
    "Mean": average,
    "MeanVarianceNormalization": mean_variance_norm,
    "NonZero": non_zero,
    "PRelu": prelu,
    "QuantizeLinear": wide_quantised.quantize,
    "RNN": wide_recurrent.rnn,
    "RMSNormalization": rms_norm,
    "Resize": wide_windows.resize,
    "Selu": selu,
    "SimplifiedLayerNormalization": rms_norm,
    "Sinh": hyperbolic,
    "Softplus": softplus,
    "Softsign": softsign,
    "Tan": tangent,
    "ThresholdedRelu": thresholded_relu,
    "Upsample": wide_windows.resize,
}

EXPANSIONS: dict[tuple[str, str], Expansion] = {
    **{("", op): expansion for op, expansion in _STANDARD.items()},
    **{("com.microsoft", op): expansion for op, expansion in wide_fused.FUSED.items()},
}
