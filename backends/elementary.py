"""Logarithms, trigonometric and hyperbolic functions and powers of float32, in steps that vectors can take.

Errors are a few units in the last place; infinities and NaN come out as the exact functions have them. What loses too
many digits in float32 is computed in float64. Angles beyond 2**48 give NaN: their sine would need more digits of pi.
"""

import math
from collections.abc import Callable

from tvm import tirx

from .fastmath import exp

Function = Callable[[tirx.Expr], tirx.Expr]

_LN2 = math.log(2.0)
# ln 2 in two parts, so that adding a multiple of it loses no digits.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_HALF_ROOT, _HALF_ROOT_DOUBLE = 0x3F3504F3, 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
_SMALLEST_NORMAL, _LIFT = 2.0**-126, 2.0**23
# pi / 2 in two parts of float64.
_HALF_PI_HIGH, _HALF_PI_LOW = math.pi / 2, 6.123233995736766e-17
_LARGEST_ANGLE = 2.0**48
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
_TAN_OF_EIGHTH, _TAN_OF_THREE_EIGHTHS = math.sqrt(2) - 1, math.sqrt(2) + 1
# Below this, a few terms of a power series lose less than a difference of large numbers.
_SMALL = 2.0**-6


def _f32(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


def _f64(value: float) -> tirx.Expr:
    return tirx.const(value, "float64")


def _let(value: tirx.Expr, dtype: str, body: Function) -> tirx.Expr:
    """`body(value)` with `value` computed once."""
    name = tirx.Var("y", dtype)
    return tirx.Let(name, value, body(name))


def _polynomial(x: tirx.Expr, coefficients: tuple[float, ...], number: Function = _f32) -> tirx.Expr:
    result = number(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + number(coefficient)
    return result


def _negated_if(negative: tirx.Expr, value: tirx.Expr, dtype: str = "float32") -> tirx.Expr:
    return _let(value, dtype, lambda v: tirx.Select(negative, -v, v))


def _in_double(function: Function) -> Function:
    """A function of float32 that is computed in float64; NaN stays NaN."""

    def rounded(x: tirx.Expr) -> tirx.Expr:
        value = _let(x.astype("float64"), "float64", function).astype("float32")
        return tirx.Select(tirx.isnan(x), x, value)

    return rounded


# Logarithms


def _parts(x: tirx.Expr, body: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> tirx.Expr:
    """`body(e, f)` of x = 2**e * (1 + f), where 1 + f lies between sqrt(1/2) and sqrt(2)."""
    denormal = x < _f32(_SMALLEST_NORMAL)
    lifted = tirx.Select(denormal, x * _f32(_LIFT), x)
    below = tirx.Select(denormal, _f32(math.log2(_LIFT)), _f32(0.0))

    def split(bits: tirx.Expr) -> tirx.Expr:
        def parts(exponent: tirx.Expr) -> tirx.Expr:
            mantissa = tirx.reinterpret("float32", bits - (exponent << tirx.const(23, "int32")))
            return _let(mantissa - _f32(1.0), "float32", lambda f: body(exponent.astype("float32") - below, f))

        return _let((bits - tirx.const(_HALF_ROOT, "int32")) >> tirx.const(23, "int32"), "int32", parts)

    value = _let(tirx.reinterpret("int32", lifted), "int32", split)
    value = tirx.Select(x == _f32(math.inf), x, value)
    value = tirx.Select(x == _f32(0.0), _f32(-math.inf), value)
    # NaN is not above zero, either.
    return tirx.Select(x >= _f32(0.0), value, _f32(math.nan))


def _log_rest(f: tirx.Expr) -> tirx.Expr:
    """ln(1 + f) - f."""
    return _polynomial(f, _LOG) * f * f * f - _f32(0.5) * f * f


def log(x: tirx.Expr) -> tirx.Expr:
    """The natural logarithm."""
    return _parts(x, lambda e, f: e * _f32(_LN2_LOW) + _log_rest(f) + f + e * _f32(_LN2_HIGH))


def log2(x: tirx.Expr) -> tirx.Expr:
    """The logarithm to base 2, exact for powers of two."""
    # 1 / ln 2 less 1, so that the largest part, f itself, is added as it is.
    more = 1 / _LN2 - 1
    return _parts(x, lambda e, f: _let(_log_rest(f), "float32", lambda r: r + r * _f32(more) + f * _f32(more) + f + e))


def log10(x: tirx.Expr) -> tirx.Expr:
    """The logarithm to base 10."""
    return log(x) * _f32(1 / math.log(10))


def log1p(x: tirx.Expr) -> tirx.Expr:
    """ln(1 + x), with all digits of a small x."""

    def corrected(u: tirx.Expr) -> tirx.Expr:
        # What rounding took from 1 + x, as a share of it. There is none at the ends.
        lost = tirx.Select(
            tirx.all(u > _f32(0.0), u < _f32(math.inf)), (x - (u - _f32(1.0))) / u, tirx.Select(x == x, _f32(0.0), x)
        )
        return log(u) + lost

    return tirx.Select(x == _f32(0.0), x, _let(x + _f32(1.0), "float32", corrected))


def softplus(x: tirx.Expr) -> tirx.Expr:
    """ln(1 + exp(x))."""
    below = _let(exp(-tirx.abs(x)), "float32", log1p)
    return tirx.Select(tirx.isnan(x), x, tirx.max(x, _f32(0.0)) + below)


def _log_double(x: tirx.Expr) -> tirx.Expr:
    """The natural logarithm of a positive, finite and normal float64: 2 atanh((m - 1) / (m + 1)) of the mantissa m."""

    def split(bits: tirx.Expr) -> tirx.Expr:
        def parts(exponent: tirx.Expr) -> tirx.Expr:
            mantissa = tirx.reinterpret("float64", bits - (exponent << tirx.const(52, "int64")))
            share = _let(mantissa, "float64", lambda m: (m - _f64(1.0)) / (m + _f64(1.0)))
            return _let(share, "float64", series) + exponent.astype("int32").astype("float64") * _f64(_LN2)

        return _let((bits - tirx.const(_HALF_ROOT_DOUBLE, "int64")) >> tirx.const(52, "int64"), "int64", parts)

    def series(s: tirx.Expr) -> tirx.Expr:
        return _let(s * s, "float64", lambda z: s * _polynomial(z, tuple(2 / k for k in range(13, 0, -2)), _f64))

    return _let(tirx.reinterpret("int64", x), "int64", split)


# Exponentials and what is made of them


def _exp2_double(x: tirx.Expr) -> tirx.Expr:
    """2**x in float64 for |x| < 1000."""

    def scaled(n: tirx.Expr) -> tirx.Expr:
        power = (n.astype("int32").astype("int64") + tirx.const(1023, "int64")) << tirx.const(52, "int64")
        terms = tuple(_LN2**k / math.factorial(k) for k in range(9, -1, -1))
        series = _let(x - n, "float64", lambda r: _polynomial(r, terms, _f64))
        return series * tirx.reinterpret("float64", power)

    return _let(tirx.floor(x + _f64(0.5)), "float64", scaled)


def _clamped(x: tirx.Expr, bound: float) -> tirx.Expr:
    """x, or `bound` beyond which float32 has but zero and infinity; NaN becomes some number."""
    return tirx.max(tirx.min(x, _f64(bound)), _f64(-bound))


def _exp_double(x: tirx.Expr, body: Function) -> tirx.Expr:
    """`body(exp(x))` in float64."""
    power = _let(_clamped(x * _f64(1 / _LN2), 300.0), "float64", _exp2_double)
    return _let(power, "float64", body)


def exp2(x: tirx.Expr) -> tirx.Expr:
    """2 to the power of x."""
    return _in_double(lambda y: _let(_clamped(y, 300.0), "float64", _exp2_double))(x)


def _or_series(odd: tuple[float, ...], far: Function) -> Function:
    """An odd function: a polynomial in x squared, times x, near zero, and `far` elsewhere."""

    def value(x: tirx.Expr) -> tirx.Expr:
        near = _let(x * x, "float64", lambda z: x * _polynomial(z, odd, _f64))
        return tirx.Select(tirx.abs(x) < _f64(_SMALL), near, far(x))

    return value


def expm1(x: tirx.Expr) -> tirx.Expr:
    """exp(x) - 1, with all digits of a small x."""

    def value(y: tirx.Expr) -> tirx.Expr:
        near = y * _polynomial(y, (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0), _f64)
        return tirx.Select(tirx.abs(y) < _f64(_SMALL), near, _exp_double(y, lambda e: e - _f64(1.0)))

    return tirx.Select(x == _f32(0.0), x, _in_double(value)(x))


def sinh(x: tirx.Expr) -> tirx.Expr:
    """The hyperbolic sine."""
    return _in_double(
        _or_series((1 / 120, 1 / 6, 1.0), lambda y: _exp_double(y, lambda e: _f64(0.5) * e - _f64(0.5) / e))
    )(x)


def cosh(x: tirx.Expr) -> tirx.Expr:
    """The hyperbolic cosine."""
    return _in_double(lambda y: _exp_double(y, lambda e: _f64(0.5) * e + _f64(0.5) / e))(x)


def asinh(x: tirx.Expr) -> tirx.Expr:
    """The inverse of the hyperbolic sine."""

    def far(y: tirx.Expr) -> tirx.Expr:
        size = _let(tirx.abs(y), "float64", lambda a: _let(a + tirx.sqrt(a * a + _f64(1.0)), "float64", _log_double))
        return _negated_if(y < _f64(0.0), size, "float64")

    value = _in_double(_or_series((3 / 40, -1 / 6, 1.0), far))(x)
    return tirx.Select(tirx.abs(x) == _f32(math.inf), x, value)


def acosh(x: tirx.Expr) -> tirx.Expr:
    """The inverse of the hyperbolic cosine; NaN below 1."""
    value = _in_double(lambda y: _let(y + tirx.sqrt(y * y - _f64(1.0)), "float64", _log_double))(x)
    return tirx.Select(x == _f32(math.inf), x, tirx.Select(x >= _f32(1.0), value, _f32(math.nan)))


def atanh(x: tirx.Expr) -> tirx.Expr:
    """The inverse of the hyperbolic tangent; NaN outside of -1 to 1."""

    def far(y: tirx.Expr) -> tirx.Expr:
        return _f64(0.5) * _let((_f64(1.0) + y) / (_f64(1.0) - y), "float64", _log_double)

    value = _in_double(_or_series((1 / 5, 1 / 3, 1.0), far))(x)
    inside, edge = tirx.abs(x) < _f32(1.0), tirx.abs(x) == _f32(1.0)
    return tirx.Select(inside, value, tirx.Select(edge, x * _f32(math.inf), _f32(math.nan)))


# Angles


def _reduced(x: tirx.Expr, body: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> tirx.Expr:
    """`body(quarter, rest)` of x = n pi / 2 + rest, where `quarter` is n modulo 4 and |rest| at most pi / 4."""

    def split(n: tirx.Expr) -> tirx.Expr:
        rest = tirx.call_intrin("float64", "tirx.fma", n, _f64(-_HALF_PI_HIGH), x.astype("float64"))
        rest = (rest - n * _f64(_HALF_PI_LOW)).astype("float32")
        quarter = (n - _f64(4.0) * tirx.floor(n * _f64(0.25))).astype("int32")
        return _let(quarter, "int32", lambda q: _let(rest, "float32", lambda r: body(q, r)))

    value = _let(tirx.floor(x.astype("float64") * _f64(2 / math.pi) + _f64(0.5)), "float64", split)
    return tirx.Select(tirx.abs(x) <= _f32(_LARGEST_ANGLE), value, _f32(math.nan))


def _sin_of_rest(r: tirx.Expr) -> tirx.Expr:
    return _let(r * r, "float32", lambda z: _polynomial(z, _SIN) * z * r + r)


def _cos_of_rest(r: tirx.Expr) -> tirx.Expr:
    return _let(r * r, "float32", lambda z: _polynomial(z, _COS) * z * z - _f32(0.5) * z + _f32(1.0))


def _odd(quarter: tirx.Expr) -> tirx.Expr:
    return (quarter & tirx.const(1, "int32")) != tirx.const(0, "int32")


def sin(x: tirx.Expr) -> tirx.Expr:
    """The sine."""

    def value(quarter: tirx.Expr, rest: tirx.Expr) -> tirx.Expr:
        size = tirx.Select(_odd(quarter), _cos_of_rest(rest), _sin_of_rest(rest))
        return _negated_if(quarter >= tirx.const(2, "int32"), size)

    return tirx.Select(x == _f32(0.0), x, _reduced(x, value))


def cos(x: tirx.Expr) -> tirx.Expr:
    """The cosine."""

    def value(quarter: tirx.Expr, rest: tirx.Expr) -> tirx.Expr:
        size = tirx.Select(_odd(quarter), _sin_of_rest(rest), _cos_of_rest(rest))
        negative = ((quarter + tirx.const(1, "int32")) & tirx.const(2, "int32")) != tirx.const(0, "int32")
        return _negated_if(negative, size)

    return _reduced(x, value)


def tan(x: tirx.Expr) -> tirx.Expr:
    """The tangent."""

    def value(quarter: tirx.Expr, rest: tirx.Expr) -> tirx.Expr:
        def quotient(sine: tirx.Expr, cosine: tirx.Expr) -> tirx.Expr:
            return tirx.Select(_odd(quarter), -cosine, sine) / tirx.Select(_odd(quarter), sine, cosine)

        return _let(
            _sin_of_rest(rest), "float32", lambda s: _let(_cos_of_rest(rest), "float32", lambda c: quotient(s, c))
        )

    return tirx.Select(x == _f32(0.0), x, _reduced(x, value))


def atan(x: tirx.Expr) -> tirx.Expr:
    """The inverse of the tangent."""

    def size(a: tirx.Expr) -> tirx.Expr:
        far, middle = a > _f32(_TAN_OF_THREE_EIGHTHS), a > _f32(_TAN_OF_EIGHTH)
        above = tirx.Select(far, _f32(-1.0), tirx.Select(middle, a - _f32(1.0), a))
        below = tirx.Select(far, a, tirx.Select(middle, a + _f32(1.0), _f32(1.0)))
        start = tirx.Select(far, _f32(math.pi / 2), tirx.Select(middle, _f32(math.pi / 4), _f32(0.0)))
        return start + _let(
            above / below, "float32", lambda t: _let(t * t, "float32", lambda z: _polynomial(z, _ATAN) * z * t + t)
        )

    value = _negated_if(x < _f32(0.0), _let(tirx.abs(x), "float32", size))
    return tirx.Select(tirx.any(x == _f32(0.0), tirx.isnan(x)), x, value)


def _negative(x: tirx.Expr) -> tirx.Expr:
    """Whether the sign bit is set: of -0, too."""
    return tirx.reinterpret("int32", x) < tirx.const(0, "int32")


def atan2(y: tirx.Expr, x: tirx.Expr) -> tirx.Expr:
    """The angle of the point (x, y)."""
    height, width = tirx.abs(y), tirx.abs(x)
    # Equal sizes, both zero or infinite ones among them, are the diagonal or an axis; no quotient says which.
    same = tirx.all(height == width, height > _f32(0.0))
    quotient = tirx.Select(same, _f32(1.0), tirx.Select(height == _f32(0.0), _f32(0.0), height / width))
    right = _let(quotient, "float32", atan)
    value = _let(right, "float32", lambda r: tirx.Select(_negative(x), _f32(math.pi) - r, r))
    value = _negated_if(_negative(y), value)
    return tirx.Select(tirx.any(tirx.isnan(x), tirx.isnan(y)), x + y, value)


def _asin_double(x: tirx.Expr, body: Function) -> tirx.Expr:
    """`body(asin(|x|))` for |x| <= 1, by halving: asin(a) = pi / 2 - 2 asin(sqrt((1 - a) / 2)) where a > 1 / 2."""

    def halved(a: tirx.Expr) -> tirx.Expr:
        large = a > _f64(0.5)
        z = tirx.Select(large, (_f64(1.0) - a) * _f64(0.5), a * a)
        terms = tuple(math.comb(2 * k, k) / (4**k * (2 * k + 1)) for k in range(12, -1, -1))

        def value(z: tirx.Expr) -> tirx.Expr:
            root = tirx.Select(large, tirx.sqrt(z), a)
            series = _let(root * _polynomial(z, terms, _f64), "float64", lambda s: tirx.Select(
                large, _f64(math.pi / 2) - _f64(2.0) * s, s))  # fmt: skip
            return _let(series, "float64", body)

        return _let(z, "float64", value)

    return _let(tirx.abs(x), "float64", halved)


def _within_one(x: tirx.Expr, value: tirx.Expr) -> tirx.Expr:
    return tirx.Select(tirx.abs(x) <= _f32(1.0), value, _f32(math.nan))


def asin(x: tirx.Expr) -> tirx.Expr:
    """The inverse of the sine; NaN outside of -1 to 1."""
    value = _in_double(lambda y: _asin_double(y, lambda s: tirx.Select(y < _f64(0.0), -s, s)))(x)
    return tirx.Select(x == _f32(0.0), x, _within_one(x, value))


def acos(x: tirx.Expr) -> tirx.Expr:
    """The inverse of the cosine; NaN outside of -1 to 1."""
    half = _f64(math.pi / 2)
    value = _in_double(lambda y: _asin_double(y, lambda s: tirx.Select(y < _f64(0.0), half + s, half - s)))(x)
    return _within_one(x, value)


# Powers


def power(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr:
    """x to the power of y, with the special values of the C library."""
    size = tirx.abs(x)
    ordinary = tirx.all(size > _f32(0.0), size < _f32(math.inf))
    logarithm = _let(tirx.Select(ordinary, size, _f32(1.0)).astype("float64"), "float64", _log_double)
    exponent = _clamped(logarithm * _f64(1 / _LN2) * y.astype("float64"), 300.0)
    value = _let(exponent, "float64", _exp2_double).astype("float32")
    # Zero and infinity turn into each other, by the sign of y.
    upwards = tirx.Select(size > _f32(1.0), y, -y) > _f32(0.0)
    value = tirx.Select(ordinary, value, tirx.Select(upwards, _f32(math.inf), _f32(0.0)))
    whole = tirx.floor(y) == y
    odd = tirx.all(whole, tirx.floor(y * _f32(0.5)) != y * _f32(0.5))
    value = _negated_if(tirx.all(odd, _negative(x)), value)
    value = tirx.Select(tirx.all(x < _f32(0.0), size < _f32(math.inf), tirx.Not(whole)), _f32(math.nan), value)
    value = tirx.Select(tirx.any(tirx.isnan(x), tirx.isnan(y)), _f32(math.nan), value)
    # 1 to any power, even NaN; -1 to an infinite one; anything to the power of 0.
    one = tirx.any(x == _f32(1.0), y == _f32(0.0), tirx.all(size == _f32(1.0), tirx.abs(y) == _f32(math.inf)))
    return tirx.Select(one, _f32(1.0), value)
