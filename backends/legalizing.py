"""How `LegalizeOps` turns operators into kernels where we know better than TVM, and operators of our own.

Functions of float32 are those of `fastmath.py` and `elementary.py`; other element types keep TVM's.
"""

import math
from collections.abc import Callable

import tvm
from tvm import relax, te, tirx

from . import elementary, fastmath
from .extremes import extreme
from .rewriting import dtype_of, shape_of

Legalizer = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]
Function = Callable[[tirx.Expr], tirx.Expr]

# Operators that Relax lacks: spelled out in those that it has, they would lose digits.
OWN: dict[str, Function] = {
    f"graphprune.{function.__name__}": function
    for function in (elementary.exp2, elementary.expm1, elementary.log1p, elementary.log2, elementary.log10)
}  # fmt: skip

FUNCTIONS: dict[str, Function] = {
    **OWN,
    "relax.exp": fastmath.exp,
    "relax.sigmoid": fastmath.sigmoid,
    "relax.tanh": fastmath.tanh,
    "relax.erf": fastmath.erf,
    "relax.nn.silu": fastmath.silu,
    "relax.nn.gelu": fastmath.gelu,
    "relax.nn.gelu_tanh": fastmath.gelu_tanh,
    "relax.log": elementary.log,
    "relax.sin": elementary.sin,
    "relax.cos": elementary.cos,
    "relax.tan": elementary.tan,
    "relax.asin": elementary.asin,
    "relax.acos": elementary.acos,
    "relax.atan": elementary.atan,
    "relax.sinh": elementary.sinh,
    "relax.cosh": elementary.cosh,
    "relax.asinh": elementary.asinh,
    "relax.acosh": elementary.acosh,
    "relax.atanh": elementary.atanh,
}


def own(name: str, data: relax.Expr) -> relax.Call:
    """A call of one of our own operators: `own("log1p", x)`."""
    _register()
    return relax.Call(tvm.ir.Op.get(f"graphprune.{name}"), [data])


def _register() -> None:
    """Make our operators known to Relax, once."""
    known = {str(name) for name in tvm.ir.Op.list_op_names()}
    for name in OWN:
        if name not in known:
            tvm.ir.op._ffi_api.RegisterOp(name, "an elementwise function of float32")
            tvm.ir.register_op_attr(name, "FInferType", lambda call, builder: call.args[0].ty)
            tvm.ir.register_op_attr(name, "FPurity", True)


def _unary(name: str) -> Legalizer:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if dtype_of(call.args[0]) != "float32":
            return _default(name, builder, call)
        return _elementwise(builder, call.args[0], FUNCTIONS[name], name.rpartition(".")[2])

    return legalize


def _default(name: str, builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return tvm.ir.Op.get(name).get_attr("FLegalize")(builder, call)


def _elementwise(builder: relax.BlockBuilder, data: relax.Expr, function: Function, name: str) -> relax.Expr:
    def compute(tensor: te.Tensor) -> te.Tensor:
        return te.compute(tensor.shape, lambda *index: _named([tensor(*index)], function), name="compute")

    return builder.call_te(compute, data, primfunc_name_hint=name)


def _named(values: list[tirx.Expr], body: Callable[..., tirx.Expr]) -> tirx.Expr:
    """`body(*values)` with every value computed once."""
    names = [tirx.Var(f"x{i}", "float32") for i in range(len(values))]
    result = body(*names)
    for name, value in zip(names, values, strict=True):
        result = tirx.Let(name, value, result)
    return result


def _broadcast(builder: relax.BlockBuilder, call: relax.Call, function: Callable, name: str) -> relax.Expr:
    """A kernel of a function of two tensors whose shapes broadcast."""
    shape = shape_of(call)

    def place(tensor: te.Tensor, index: tuple[tirx.Expr, ...]) -> tirx.Expr:
        own = index[len(index) - len(tensor.shape) :]
        return tensor(*(0 if int(size) == 1 else i for i, size in zip(own, tensor.shape, strict=True)))

    def compute(left: te.Tensor, right: te.Tensor) -> te.Tensor:
        return te.compute(
            shape, lambda *index: _named([place(left, index), place(right, index)], function), name="compute"
        )

    return builder.call_te(compute, *call.args, primfunc_name_hint=name)


def _binary(name: str, function: Callable) -> Legalizer:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if any(dtype_of(argument) != "float32" for argument in call.args):
            return _default(name, builder, call)
        return _broadcast(builder, call, function, name.rpartition(".")[2])

    return legalize


def _product_of(x: tirx.Expr, count: int) -> tirx.Expr:
    """x multiplied by itself, by squaring."""
    if count == 1:
        return x
    half = _product_of(x, count // 2)
    return half * half * x if count % 2 else half * half


def _power_function(exponent: float) -> Function | None:
    """x to the power of a small whole number, without a logarithm."""
    if math.isfinite(exponent) and exponent == int(exponent) and 1 <= abs(exponent) <= 8:
        count = int(exponent)
        one = tirx.const(1.0, "float32")
        return lambda x: _product_of(x, count) if count > 0 else one / _product_of(x, -count)
    return None


def _power(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Products where the exponent is a small constant."""
    exponent = call.args[1]
    constant = exponent.value.numpy() if isinstance(exponent, tvm.ir.GenericConst) else None
    function = _power_function(float(constant.item())) if constant is not None and constant.size == 1 else None
    if function is None or dtype_of(call) != "float32" or len(exponent.ty.shape) > len(call.args[0].ty.shape):
        return _binary("relax.power", elementary.power)(builder, call)
    return _elementwise(builder, call.args[0], function, "power")


def _softplus(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """ln(1 + exp(beta x)) / beta, and x itself beyond a threshold."""
    if dtype_of(call) != "float32":
        return _default("relax.nn.softplus", builder, call)
    beta, threshold = (tirx.const(float(number), "float32") for number in (call.attrs.beta, call.attrs.threshold))

    def function(x: tirx.Expr) -> tirx.Expr:
        return tirx.Select(x * beta > threshold, x, _named([x * beta], elementary.softplus) / beta)

    return _elementwise(builder, call.args[0], function, "softplus")


def _quantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Rounded half to even, and clipped, as ONNX says."""
    kind = str(call.attrs.out_dtype)
    if dtype_of(call.args[0]) != "float32" or kind not in ("int8", "uint8", "int16", "uint16"):
        return _default("relax.quantize", builder, call)
    axis = int(call.attrs.axis)
    numbers = [_one_number(argument) for argument in call.args[1:]]

    def compute(values: te.Tensor, *others: te.Tensor) -> te.Tensor:
        low, high = (tirx.Cast("float32", bound(kind)) for bound in (te.min_value, te.max_value))

        def value(*index: tirx.Expr) -> tirx.Expr:
            rest = iter(others)
            scale, zero = (
                _parameter(next(rest), index, axis) if n is None else tirx.const(n, "float32") for n in numbers
            )
            # A scale of one leaves sums as they are.
            scaled = values(*index) if numbers[0] == 1 else values(*index) / scale
            lifted = tirx.round(scaled) + tirx.Cast("float32", zero)
            return tirx.Cast(kind, tirx.Cast("int32", tirx.max(tirx.min(lifted, high), low)))

        return te.compute(values.shape, value, name="quantize")

    others = [argument for argument, number in zip(call.args[1:], numbers, strict=True) if number is None]
    return builder.call_te(compute, call.args[0], *others, primfunc_name_hint="quantize")


def _one_number(argument: relax.Expr) -> float | None:
    """The number that an argument is, if it is constant."""
    value = argument.value.numpy() if isinstance(argument, tvm.ir.GenericConst) else None
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def _parameter(parameter: te.Tensor, index: tuple[tirx.Expr, ...], axis: int) -> tirx.Expr:
    """The element of a tensor that has one number, or one per channel along an axis."""
    size = [int(extent) for extent in parameter.shape]
    return parameter(*([index[axis]] if math.prod(size) > 1 else [0] * len(size)))


# How TVM's fusion sees a kernel: it may compute the elements of its operand on the fly.
_REDUCES = {"op_pattern": 3}


def _extreme(name: str) -> Legalizer:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        shape = shape_of(call.args[0])
        if dtype_of(call.args[0]) != "float32" or shape is None:
            return _default(f"relax.{name}", builder, call)
        rank, keepdims = len(shape), bool(call.attrs.keepdims)
        axes = [*range(rank)] if call.attrs.axis is None else sorted({int(axis) % rank for axis in call.attrs.axis})
        return builder.call_te(
            lambda data: extreme(data, name, axes, keepdims),
            call.args[0],
            primfunc_name_hint=name,
            primfunc_attrs=_REDUCES,
        )

    return legalize


def _take(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Negative places count from the end; others outside of the tensor, which TVM would read, count as its ends."""
    shape, lead = shape_of(call.args[0]), call.attrs.axis
    if str(call.attrs.mode) != "fast" or lead is None or not shape or shape_of(call.args[1]) is None:
        return _default("relax.take", builder, call)
    axis, size = int(lead) % len(shape), shape[int(lead)]

    def compute(data: te.Tensor, places: te.Tensor) -> te.Tensor:
        count = len(places.shape)

        def value(*index: tirx.Expr) -> tirx.Expr:
            place = places(*index[axis : axis + count])
            place = tirx.Select(place < 0, place + size, place)
            return data(*index[:axis], tirx.max(tirx.min(place, size - 1), 0), *index[axis + count :])

        return te.compute((*data.shape[:axis], *places.shape, *data.shape[axis + 1 :]), value, name="take")

    return builder.call_te(compute, *call.args, primfunc_name_hint="take")


LEGALIZE: dict[str, Legalizer] = {
    **{name: _unary(name) for name in FUNCTIONS},
    "relax.power": _power,
    "relax.quantize": _quantize,
    "relax.atan2": _binary("relax.atan2", elementary.atan2),
    "relax.nn.softplus": _softplus,
    "relax.max": _extreme("max"),
    "relax.min": _extreme("min"),
    "relax.take": _take,
}
