"""Lowers elementwise operators whose operands are blocked: the same operator, on the blocked tensors."""

from collections.abc import Callable
from math import prod

import numpy as np
import tvm
from tvm import relax, topi

from .layout import Blocked, as_image, pack_constant
from .lowering import Lowering, Value
from .rewriting import dtype_of, shape_of

# Finite numbers stay finite: safe on lanes that hold no channel.
_FINITE_UNARY = (
    "abs", "asinh", "atan", "ceil", "clip", "cos", "cosh", "erf", "exp", "floor", "negative", "round", "sigmoid",
    "sign", "sin", "sinh", "square", "tanh", "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.relu6",
    "nn.silu", "nn.softplus",
)  # fmt: skip
_FINITE_BINARY = ("add", "subtract", "multiply", "maximum", "minimum")
# An empty lane could become infinite or NaN, and NaN times a zero weight is NaN.
_OTHER_UNARY = ("log", "rsqrt", "sqrt", "tan", "acos", "acosh", "asin", "atanh")
_FINITE_OWN, _OTHER_OWN = ("exp2", "expm1"), ("log1p", "log2", "log10")
_OTHER_BINARY = ("divide", "power")
# Fused into the convolution that computes the small operand, this would compute it once per pixel.
_NOT_FUSED = {"op_pattern": 2}


def _unary(finite: bool) -> Callable[[Lowering, relax.Call], Value | None]:
    def lower(lowering: Lowering, call: relax.Call) -> Value | None:
        data = lowering.value(call.args[0])
        if not isinstance(data, Blocked) or (data.has_holes and not finite):
            return None
        emitted = lowering.builder.emit(relax.Call(call.op, [data.expr, *call.args[1:]], call.attrs, call.ty_args))
        return lowering.wrap(emitted, data.shape, data.segments)

    return lower


def _quantise(lowering: Lowering, call: relax.Call) -> Value | None:
    """From floats to bytes or back, with one scale for all channels."""
    data = lowering.value(call.args[0])
    if not isinstance(data, Blocked) or any(shape_of(argument) != () for argument in call.args[1:]):
        return None
    emitted = lowering.builder.emit(relax.Call(call.op, [data.expr, *call.args[1:]], call.attrs, call.ty_args))
    return lowering.wrap(emitted, data.shape, data.segments)


def _cast(lowering: Lowering, call: relax.Call) -> Value | None:
    """From sums of integers to floats."""
    if dtype_of(call.args[0]) != "int32" or str(call.attrs.dtype) != "float32":
        return None
    return _unary(finite=True)(lowering, call)


def _binary(finite: bool) -> Callable[[Lowering, relax.Call], Value | None]:
    def lower(lowering: Lowering, call: relax.Call) -> Value | None:
        values = [lowering.value(argument) for argument in call.args]
        blocked = [value for value in values if isinstance(value, Blocked)]
        if not blocked:
            return None
        shape = np.broadcast_shapes(*(shape_of(argument) for argument in call.args))
        like = max(blocked, key=lambda value: value.shape[1])
        if len(shape) != len(like.shape) or shape[1] != like.shape[1] or not _repeatable(call, shape):
            return None
        if like.has_holes and not finite and lowering.constant(call.args[1]) is None:
            return None
        operands = [
            _operand(lowering, argument, value, like) for argument, value in zip(call.args, values, strict=True)
        ]
        if any(operand is None for operand in operands):
            return None
        if _enlarges(call, shape):
            compute = getattr(topi, call.op.name.removeprefix("relax."))
            emitted = lowering.builder.emit_te(compute, *operands, primfunc_name_hint="gate", primfunc_attrs=_NOT_FUSED)
        else:
            emitted = lowering.builder.emit(relax.Call(call.op, operands, call.attrs, call.ty_args))
        return lowering.wrap(emitted, tuple(int(s) for s in shape), like.segments)

    return lower


def _repeatable(call: relax.Call, shape: tuple[int, ...]) -> bool:
    """Whether operands of a volume, whose slices lie above each other, are whole along space or a single number."""
    spaces = [(1,) * (len(shape) - len(shape_of(argument))) + shape_of(argument) for argument in call.args]
    return len(shape) != 5 or all(space[2:] in (shape[2:], (1, 1, 1)) for space in spaces)


def _enlarges(call: relax.Call, shape: tuple[int, ...]) -> bool:
    """Whether some computed operand is repeated over the image, as the gates of squeeze-excite are."""
    small = [argument for argument in call.args if not isinstance(argument, tvm.ir.GenericConst)]
    return any(prod(shape_of(argument)[2:]) < prod(shape[2:]) for argument in small)


def _operand(lowering: Lowering, argument: relax.Expr, value: Value, like: Blocked) -> relax.Expr | None:
    """An operand in the layout of `like`: blocked, or of a shape that broadcasts over blocks and lanes."""
    if dtype_of(argument) not in ("float32", "int32"):
        return None
    if isinstance(value, Blocked) and value.segments == like.segments:
        return value.expr
    shape = shape_of(argument)
    if len(shape) == 0:
        return value
    full = (1,) * (len(like.shape) - len(shape)) + shape
    constant = lowering.constant(argument)
    if constant is not None and full[1] != 1:
        return relax.const(pack_constant(constant.reshape(as_image(full)), like.segments, lowering.lanes, fill=1.0))
    if constant is not None:
        return relax.const(constant.reshape((*as_image(full), 1)))
    plain = lowering.plain(value) if isinstance(value, Blocked) else value
    if full[1] == 1:
        return lowering.builder.emit(relax.op.reshape(plain, (*as_image(full), 1)))
    if full != shape:
        plain = lowering.builder.emit(relax.op.reshape(plain, full))
    return lowering.blocked(plain, like.segments).expr


HANDLERS = {
    **{f"relax.{name}": _unary(finite=True) for name in _FINITE_UNARY},
    **{f"relax.{name}": _unary(finite=False) for name in _OTHER_UNARY},
    **{f"graphprune.{name}": _unary(finite=True) for name in _FINITE_OWN},
    **{f"graphprune.{name}": _unary(finite=False) for name in _OTHER_OWN},
    **{f"relax.{name}": _binary(finite=True) for name in _FINITE_BINARY},
    **{f"relax.{name}": _binary(finite=False) for name in _OTHER_BINARY},
    "relax.astype": _cast,
    "relax.quantize": _quantise,
    "relax.dequantize": _quantise,
}
