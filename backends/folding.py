"""Constants are computed at compile time; batch norm and other affine steps disappear into the weights.

Both are Relax passes that also work alone:

```python
module = fold_constants(module)
module = fold_affine(module)
```
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from .evaluating import EVALUATE
from .rewriting import Rewriter, op_name, rewrite, shape_of

Array = np.ndarray


def constant_of(expr: object) -> Array | None:
    """The numpy value of a constant expression, or None."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


class _FoldConstants(Rewriter):
    """Evaluate operators whose tensor arguments are all constant; turn batch norm into multiply and add."""

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        value = self.copy(value)
        if isinstance(value, (relax.Var, relax.Tuple, tvm.ir.GenericConst)):
            return value
        name = op_name(value)
        if name == "relax.nn.batch_norm" and not value.attrs.training:
            return self.batch_norm(value)
        if name == "relax.where" and shape_of(value.args[2]) == shape_of(var):
            mask = constant_of(value.args[0])
            if mask is not None and not mask.any():
                return value.args[2]
        if name in EVALUATE and shape_of(var) is not None:
            result = self.evaluate(value)
            if result is not None:
                return result
        if name == "relax.divide":
            value = _as_product(value)
        return self.builder.emit(value, var.name)

    def evaluate(self, call: relax.Call) -> relax.Expr | None:
        """The value of a call whose tensor arguments are all constant."""
        tensors = [argument for argument in call.args if isinstance(argument.ty, relax.TensorType)]
        if not all(isinstance(argument, tvm.ir.GenericConst) for argument in tensors):
            return None
        call = self.builder.normalize(call)
        try:
            with np.errstate(all="ignore"):
                result = EVALUATE[op_name(call)](call, *(argument.value.numpy() for argument in tensors))
        except (IndexError, ValueError):
            # Not as numpy would have it: the operator keeps its meaning and is left to run.
            return None
        dtype = str(call.ty.dtype)
        return relax.const(np.ascontiguousarray(result, dtype).reshape(shape_of(call)), dtype)

    def batch_norm(self, call: relax.Call) -> relax.Expr:
        """Inference-time batch norm is one multiplication and one addition per channel."""
        data, *parameters = call.args
        values = [constant_of(p) for p in parameters]
        if any(v is None for v in values):
            return self.builder.emit(call)
        gamma, beta, mean, variance = values
        attrs = call.attrs
        scale = (gamma if attrs.scale else 1.0) / np.sqrt(variance + float(attrs.epsilon))
        shift = (beta if attrs.center else 0.0) - mean * scale
        shape = [1] * len(data.ty.shape)
        shape[int(attrs.axis)] = -1
        scaled = self.builder.emit(relax.op.multiply(data, _constant(scale, shape, gamma.dtype)))
        shifted = self.builder.emit(relax.op.add(scaled, _constant(shift, shape, gamma.dtype)))
        return relax.Tuple([shifted, parameters[2], parameters[3]])


def _as_product(call: relax.Call) -> relax.Call:
    """A division by float constants as a product, which vectors do faster, if all reciprocals are ordinary numbers."""
    divisor = constant_of(call.args[1])
    if divisor is None or divisor.dtype != np.float32 or divisor.size == 0:
        return call
    with np.errstate(divide="ignore", over="ignore"):
        reciprocal = (1 / divisor.astype(np.float64)).astype(np.float32)
    ordinary = np.isfinite(reciprocal) & (np.abs(reciprocal) >= np.finfo(np.float32).tiny)
    return relax.op.multiply(call.args[0], relax.const(reciprocal.reshape(divisor.shape))) if ordinary.all() else call


def _constant(value: Array, shape: list[int], dtype: Any) -> relax.Expr:
    return relax.const(np.ascontiguousarray(value.reshape(shape).astype(dtype)))


@dataclass(frozen=True)
class _Linear:
    """A convolution or matmul with constant weights, and what is multiplied and added per output channel."""

    call: relax.Call
    weight: Array
    scale: Array
    bias: Array
    weight_axis: int
    output_axis: int


_WEIGHT_AXES = {
    "relax.nn.conv1d": (0, 1),
    "relax.nn.conv2d": (0, 1),
    "relax.nn.conv3d": (0, 1),
    "relax.matmul": (1, -1),
}


class _FoldAffine(Rewriter):
    """Fold per-channel multiplications and additions that follow a convolution or matmul into its constants."""

    # Whether factors go into the weights, or stay one multiplication behind them.
    into_weights = True

    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        self.linear: dict[relax.Var, _Linear] = {}

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        found = self.start(value) or self.extend(value)
        if found is None:
            return super().visit(var, value)
        self.linear[var] = found
        return self.emit(found, var)

    def start(self, value: relax.Expr) -> _Linear | None:
        """A convolution or matmul with constant float weights."""
        name = op_name(value)
        if name not in _WEIGHT_AXES:
            return None
        weight = constant_of(self.expression(value.args[1]))
        weight_axis, output_axis = _WEIGHT_AXES[name]
        if weight is None or weight.dtype not in (np.float32, np.float64) or weight.ndim <= weight_axis:
            return None
        if name == "relax.matmul" and weight.ndim != 2:
            return None
        count = weight.shape[weight_axis]
        ones, zeros = np.ones(count, weight.dtype), np.zeros(count, weight.dtype)
        return _Linear(value, weight, ones, zeros, weight_axis, output_axis)

    def extend(self, value: relax.Expr) -> _Linear | None:
        """An addition or multiplication by a per-channel constant, of something linear that nobody else reads."""
        name = op_name(value)
        if name not in ("relax.add", "relax.subtract", "relax.multiply", "relax.divide"):
            return None
        left, right = value.args
        if right in self.linear and name in ("relax.add", "relax.multiply"):
            left, right = right, left
        linear = self.linear.get(left)
        if linear is None or self.uses[left] != 1:
            return None
        constant = self.per_channel(right, linear, shape_of(value))
        if constant is None:
            return None
        if name == "relax.add":
            return replace(linear, bias=linear.bias + constant)
        if name == "relax.subtract":
            return replace(linear, bias=linear.bias - constant)
        scale = constant if name == "relax.multiply" else 1 / constant
        if not self.into_weights:
            return replace(linear, scale=linear.scale * scale, bias=linear.bias * scale)
        shape = [1] * linear.weight.ndim
        shape[linear.weight_axis] = -1
        return replace(linear, weight=linear.weight * scale.reshape(shape), bias=linear.bias * scale)

    def per_channel(self, expr: relax.Expr, linear: _Linear, shape: tuple[int, ...] | None) -> Array | None:
        """The constant as one number per output channel, or None where it varies along another axis."""
        value = constant_of(self.expression(expr))
        if value is None or shape is None or value.dtype != linear.weight.dtype or value.ndim > len(shape):
            return None
        value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
        channels = len(linear.bias)
        axis = linear.output_axis % len(shape)
        if value.size not in (1, value.shape[axis]) or value.size not in (1, channels):
            return None
        return np.broadcast_to(value.reshape(-1), (channels,))

    def emit(self, linear: _Linear, var: relax.Var) -> relax.Expr:
        call = linear.call
        weight = relax.const(np.ascontiguousarray(linear.weight))
        arguments = [self.expression(call.args[0]), weight]
        result = self.builder.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args), var.name)
        shape = [1] * len(result.ty.shape)
        shape[linear.output_axis] = -1
        if (linear.scale != 1).any():
            factor = _constant(linear.scale, shape, linear.scale.dtype)
            result = self.builder.emit(relax.op.multiply(result, factor))
        if not linear.bias.any():
            return result
        return self.builder.emit(relax.op.add(result, _constant(linear.bias, shape, linear.bias.dtype)))


@tvm.transform.module_pass(opt_level=0, name="graphprune.FoldConstants")
def fold_constants(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Evaluate what depends on constants alone."""
    return rewrite(module, _FoldConstants)


@tvm.transform.module_pass(opt_level=0, name="graphprune.FoldAffine")
def fold_affine(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Fold batch norm, scales and shifts into the weights and the bias of what precedes them."""
    return rewrite(module, _FoldAffine)


class _FoldShifts(_FoldAffine):
    into_weights = False


@tvm.transform.module_pass(opt_level=0, name="graphprune.FoldShifts")
def fold_shifts(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """The same without a change of the weights: scales become one multiplication per channel behind them."""
    return rewrite(module, _FoldShifts)
