"""exp, tanh, sigmoid and erf as polynomials: a call into the C library would break every vector apart.

Accurate to a few units in the last place for float32; infinities and NaN come out as the exact functions have
them. More functions are in `elementary.py`.
"""

import math
from collections.abc import Callable

from tvm import tirx

_LOG2E = 1.4426950408889634
# ln 2 in two parts, so that subtracting a multiple of it loses no digits.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
# Added to a small number, this leaves no bits for a fraction: the sum is rounded to a whole number, in its lowest bits.
_SHIFT, _SHIFT_BITS = 12582912.0, 0x4B400000
_EXP_OVERFLOW, _EXP_UNDERFLOW = 88.72283, -87.33654
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_SIGMOID_UNDERFLOW = -17.0
_TANH_BOUND = 7.90531110763549805
_TANH_ABOVE = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
               1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)  # fmt: skip
_TANH_BELOW = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_ERF_BOUND = 4.0
_ERF_ABOVE = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
              -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
_ERF_BELOW = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
              -1.42647390514189e-02)  # fmt: skip


def _f32(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


def _horner(x: tirx.Expr, coefficients: tuple[float, ...]) -> tirx.Expr:
    result = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + _f32(coefficient)
    return result


def _clamp(x: tirx.Expr, bound: float) -> tirx.Expr:
    return tirx.max(tirx.min(x, _f32(bound)), _f32(-bound))


def _named(x: tirx.Expr, body: Callable[[tirx.Expr], tirx.Expr]) -> tirx.Expr:
    """`body(x)` with `x` computed once."""
    name = tirx.Var("x", "float32")
    return tirx.Let(name, x, body(name))


def exp(x: tirx.Expr) -> tirx.Expr:
    """e to the power of x: 2**n times a polynomial of what is left, a number within half a ln 2 of zero."""
    # The power of two comes from a clamped value, so that it fits an integer; NaN travels through the rest.
    value = _scaled(x, _clamp(x, 88.0))
    value = tirx.Select(x > _f32(_EXP_OVERFLOW), _f32(math.inf), value)
    return tirx.Select(x < _f32(_EXP_UNDERFLOW), _f32(0.0), value)


def exp_below_zero(x: tirx.Expr) -> tirx.Expr:
    """`exp` of numbers that are not positive, as in a softmax: cheaper, and zero a little earlier.

    Sums of much smaller results would be denormal, and those are slow.
    """
    # In this order a NaN is not mistaken for a small number.
    value = _named(tirx.max(_f32(-70.0), x), lambda y: _scaled(y, y))
    return tirx.Select(x < _f32(-70.0), _f32(0.0), value)


def _scaled(x: tirx.Expr, clamped: tirx.Expr) -> tirx.Expr:
    """2**n times a polynomial, where n comes from `clamped`."""

    def scaled(shifted: tirx.Expr) -> tirx.Expr:
        # Read as an integer, because the code generator might cancel an addition and a subtraction of floats.
        bits = tirx.reinterpret("int32", shifted)
        n = (bits - tirx.const(_SHIFT_BITS, "int32")).astype("float32")
        rest = x - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW)
        exponent = (bits + tirx.const(127, "int32")) << tirx.const(23, "int32")
        return _named(rest, lambda r: _horner(r, _EXP) * r * r + r + _f32(1.0)) * tirx.reinterpret("float32", exponent)

    return _named(clamped * _f32(_LOG2E) + _f32(_SHIFT), scaled)


def _rational(x: tirx.Expr, bound: float, above: tuple[float, ...], below: tuple[float, ...]) -> tirx.Expr:
    """An odd function that is flat beyond `bound`: x times a quotient of polynomials in x squared."""

    def quotient(y: tirx.Expr) -> tirx.Expr:
        return _named(y * y, lambda square: y * _horner(square, above) / _horner(square, below))

    return tirx.Select(tirx.isnan(x), x, _named(_clamp(x, bound), quotient))


def tanh(x: tirx.Expr) -> tirx.Expr:
    """The hyperbolic tangent."""
    return _rational(x, _TANH_BOUND, _TANH_ABOVE, _TANH_BELOW)


def sigmoid(x: tirx.Expr) -> tirx.Expr:
    """1 / (1 + exp(-x)), as a hyperbolic tangent: a third cheaper, and as exact beside 1."""
    value = _f32(0.5) + _f32(0.5) * _named(x * _f32(0.5), tanh)
    return tirx.Select(x < _f32(_SIGMOID_UNDERFLOW), _f32(0.0), value)


def erf(x: tirx.Expr) -> tirx.Expr:
    """The error function."""
    return _rational(x, _ERF_BOUND, _ERF_ABOVE, _ERF_BELOW)


def silu(x: tirx.Expr) -> tirx.Expr:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def gelu(x: tirx.Expr) -> tirx.Expr:
    """x times the probability that a normal variable is below x."""
    return x * (_f32(0.5) + _f32(0.5) * _named(x * _f32(math.sqrt(0.5)), erf))


def gelu_tanh(x: tirx.Expr) -> tirx.Expr:
    """The approximation of `gelu` that uses tanh."""
    inner = _f32(math.sqrt(2 / math.pi)) * (x + _f32(0.044715) * x * x * x)
    return x * (_f32(0.5) + _f32(0.5) * _named(inner, tanh))
