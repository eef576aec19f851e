"""Finds the products of quantised models that can be computed in integers.

A quantised model says `dequantize -> convolution -> quantize`, with integer weights that are dequantised, too. Where
both operands of a convolution or product are small integers, the sum of their products is taken in int32 and exact;
bias and zero points are added as integers, one multiplication per channel brings the sum to the scale of the result,
and `quantize` rounds it (half to even) and clips it. Everything else stays float32 between `dequantize` and `quantize`.

```python
module = find_integers(module)
```

Activations are unsigned bytes here: int8 with zero point z is uint8 with zero point z + 128. Maximum pools and reshapes
of quantised values move bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from .evaluating import dequantized
from .folding import constant_of
from .rewriting import Rewriter, dtype_of, op_name, rewrite, shape_of

_SHIFT, _BYTES = 128, ("uint8", "int8")
_MOVES = ("reshape", "flatten", "expand_dims", "squeeze", "permute_dims", "nn.max_pool1d", "nn.max_pool2d")
_STATIC_MOVES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten", "relax.permute_dims")
_LAST = -1


@dataclass(frozen=True)
class Bytes:
    """A value `(data - zero) * scale`, `data` of type uint8."""

    data: relax.Expr
    scale: np.float32
    zero: int


@dataclass(frozen=True)
class Weight:
    """A constant `numbers * scale`; both arrays have the same shape."""

    numbers: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Sums:
    """A value `(sums + shift) * scale`, `sums` of type int32, the others per channel along `axis`; or its ReLU.

    `largest` is how far from zero the sums can get, per channel.
    """

    sums: relax.Expr
    shift: np.ndarray
    scale: np.ndarray
    axis: int
    largest: np.ndarray
    positive: bool = False

    def channels(self, array: np.ndarray) -> relax.Expr:
        """A number per channel as a constant that broadcasts over the sums."""
        shape = [1] * len(shape_of(self.sums))
        shape[self.axis] = -1
        return relax.const(np.ascontiguousarray(array.reshape(shape)))


class _FindIntegers(Rewriter):
    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        self.known: dict[relax.Expr, Bytes | Weight | Sums] = {}
        # What int8 variables of the old function are as uint8.
        self.unsigned: dict[relax.Expr, relax.Expr] = {}
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        self.definitions = {binding.var: binding.value for binding in bindings}

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        handler = _HANDLERS.get(op_name(value))
        found = None if handler is None or shape_of(var) is None else handler(self, var, value)
        return super().visit(var, value) if found is None else found

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """A variable for an intermediate result."""
        return self.builder.emit(expr)

    def as_unsigned(self, expr: relax.Expr) -> tuple[relax.Expr, int]:
        """Bytes of the old function as uint8, and what their zero point grows by."""
        if dtype_of(expr) == "uint8":
            return self.expression(expr), 0
        if expr not in self.unsigned:
            wide = self.emit(relax.op.astype(self.expression(expr), "int16"))
            lifted = self.emit(relax.op.add(wide, relax.const(_SHIFT, "int16")))
            self.unsigned[expr] = self.emit(relax.op.astype(lifted, "uint8"))
        return self.unsigned[expr], _SHIFT

    def keep(self, var: relax.Var, value: Bytes | Weight | Sums) -> relax.Expr:
        """Note what a variable is; returns it as float32, for whoever reads it so."""
        self.known[var] = value
        if isinstance(value, Weight):
            return relax.const(value.numbers.astype(np.float32) * value.scale)
        if isinstance(value, Bytes):
            scale, zero = relax.const(value.scale, "float32"), relax.const(value.zero, "uint8")
            return self.emit(relax.op.dequantize(value.data, scale, zero, _LAST, "float32"))
        return self.scaled(value, value.scale)

    def scaled(self, value: Sums, scale: np.ndarray) -> relax.Expr:
        """Sums with their shift, times a number per channel, as float32."""
        total = value.sums
        if value.shift.any():
            total = self.emit(relax.op.add(total, value.channels(value.shift.astype(np.int32))))
        result = self.emit(relax.op.astype(total, "float32"))
        result = self.emit(relax.op.multiply(result, value.channels(scale.astype(np.float32))))
        return self.emit(relax.op.nn.relu(result)) if value.positive else result


def _scalars(rewriter: _FindIntegers, call: relax.Call) -> tuple[np.float32, int] | None:
    """Scale and zero point where they are one constant number each, and the scale is positive; else None."""
    values = [constant_of(rewriter.expression(argument)) for argument in call.args[1:]]
    if any(value is None or value.size != 1 for value in values):
        return None
    scale, zero = (value.reshape(()) for value in values)
    return (np.float32(scale), int(zero)) if 0 < scale < np.inf else None


def _dequantize(rewriter: _FindIntegers, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    data, scale, zero = (constant_of(rewriter.expression(argument)) for argument in call.args)
    if data is not None and np.issubdtype(data.dtype, np.integer) and scale is not None and zero is not None:
        numbers, scales = dequantized(call, data, scale, zero)
        return rewriter.keep(var, Weight(numbers, scales))
    single = _scalars(rewriter, call)
    if single is None or dtype_of(call.args[0]) not in _BYTES or str(call.attrs.out_dtype) != "float32":
        return None
    unsigned, lifted = rewriter.as_unsigned(call.args[0])
    return rewriter.keep(var, Bytes(unsigned, single[0], single[1] + lifted))


def _quantize(rewriter: _FindIntegers, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    """Integers again: sums at once, other values as they are."""
    single, kind = _scalars(rewriter, call), str(call.attrs.out_dtype)
    if single is None or kind not in _BYTES or dtype_of(call.args[0]) != "float32":
        return None
    target = Bytes(call.args[0], single[0], single[1] + (_SHIFT if kind == "int8" else 0))
    unsigned = _quantized(rewriter, call.args[0], target)
    if kind == "uint8":
        return unsigned
    rewriter.unsigned[var] = unsigned
    wide = rewriter.emit(relax.op.astype(unsigned, "int16"))
    return rewriter.emit(relax.op.astype(rewriter.emit(relax.op.subtract(wide, relax.const(_SHIFT, "int16"))), "int8"))


def _quantized(rewriter: _FindIntegers, expr: relax.Expr, target: Bytes) -> relax.Expr:
    """An old float expression as bytes with the scale and zero point of `target`."""
    known = rewriter.known.get(expr)
    if isinstance(known, Bytes) and known.scale == target.scale and known.zero == target.zero:
        return known.data
    joined = rewriter.definitions.get(expr)
    if op_name(joined) == "relax.concat" and isinstance(joined.args[0], relax.Tuple) and rewriter.uses[expr] == 1:
        # Bytes are joined, not floats.
        parts = [_quantized(rewriter, part, target) for part in joined.args[0].fields]
        return rewriter.emit(relax.op.concat(parts, axis=int(joined.attrs.axis)))
    scale = target.scale
    if isinstance(known, Sums):
        # The scale of the sums over that of the result is one factor, as in ONNX Runtime.
        source, scale = rewriter.scaled(known, known.scale / target.scale), np.float32(1)
    else:
        source = rewriter.expression(expr)
    zero = relax.const(target.zero, "uint8")
    return rewriter.emit(relax.op.quantize(source, relax.const(scale, "float32"), zero, _LAST, "uint8"))


def _move(rewriter: _FindIntegers, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    """What moves bytes or takes the largest of them; of constants, what moves numbers."""
    known = rewriter.known.get(call.args[0])
    if isinstance(known, Weight) and op_name(call) in _STATIC_MOVES:
        axes = getattr(call.attrs, "axes", None) if op_name(call) == "relax.permute_dims" else None
        arrays = []
        for array in (known.numbers, known.scale):
            moved = (
                np.transpose(array, [int(a) for a in axes] if axes else None) if "permute" in op_name(call) else array
            )
            arrays.append(moved.reshape(shape_of(var)))
        return rewriter.keep(var, Weight(*arrays))
    if not isinstance(known, Bytes):
        return None
    arguments = [known.data, *call.args[1:]]
    return rewriter.keep(var, replace(known, data=rewriter.emit(relax.Call(call.op, arguments, call.attrs))))


def _pad(rewriter: _FindIntegers, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    """A border of zeros is one of zero points."""
    known, attrs = rewriter.known.get(call.args[0]), call.attrs
    if not isinstance(known, Bytes) or attrs.pad_mode != "constant" or attrs.pad_value != 0:
        return None
    widths = [int(width) for width in attrs.pad_width]
    padded = rewriter.emit(relax.op.nn.pad(known.data, widths, "constant", float(known.zero)))
    return rewriter.keep(var, replace(known, data=padded))


def _per_channel(weight: Weight, axis: int) -> np.ndarray | None:
    """The scale per channel along an axis, or None where it varies along another one; None for large numbers, too."""
    rows = np.moveaxis(weight.scale, axis, 0).reshape(weight.scale.shape[axis], -1)
    low, high = weight.numbers.min(initial=0), weight.numbers.max(initial=0)
    if low < -_SHIFT or high >= _SHIFT or rows.size == 0 or (rows != rows[:, :1]).any():
        return None
    return np.ascontiguousarray(rows[:, 0], np.float32)


def _convolve(rewriter: _FindIntegers, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    data, weight, attrs = *(rewriter.known.get(argument) for argument in call.args), call.attrs
    if not isinstance(data, Bytes) or not isinstance(weight, Weight):
        return None
    scale = _per_channel(weight, 0)
    if scale is None or attrs.data_layout != "NCHW" or attrs.kernel_layout != "OIHW":
        return None
    top, left, bottom, right = (int(size) for size in attrs.padding)
    source = data.data
    if any((top, left, bottom, right)):
        widths = [0, 0, 0, 0, top, bottom, left, right]
        source = rewriter.emit(relax.op.nn.pad(source, widths, "constant", float(data.zero)))
    numbers = relax.const(np.ascontiguousarray(weight.numbers, np.int8))
    options = {"strides": attrs.strides, "dilation": attrs.dilation, "groups": attrs.groups, "out_dtype": "int32"}
    return _keep_sums(
        rewriter, var, lambda: relax.op.nn.conv2d(source, numbers, **options), data, scale,
        weight.numbers.reshape(len(scale), -1), 1,
    )  # fmt: skip


def _multiply(rewriter: _FindIntegers, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    data, weight = (rewriter.known.get(argument) for argument in call.args)
    if not isinstance(data, Bytes) or not isinstance(weight, Weight) or weight.numbers.ndim != 2:
        return None
    scale = _per_channel(weight, 1)
    if scale is None or len(shape_of(call.args[0])) < 2:
        return None
    numbers = relax.const(np.ascontiguousarray(weight.numbers, np.int8))
    return _keep_sums(
        rewriter, var, lambda: relax.op.matmul(data.data, numbers, "int32"), data, scale, weight.numbers.T,
        len(shape_of(var)) - 1,
    )  # fmt: skip


def _keep_sums(
    rewriter: _FindIntegers, var: relax.Var, product: Callable[[], relax.Expr], data: Bytes, scale: np.ndarray,
    rows: np.ndarray, axis: int,
) -> relax.Expr | None:  # fmt: skip
    """The sums of a product whose weights are `rows`, one per channel; None where int32 might be too small."""
    rows = rows.astype(np.int64)
    largest = 2 * 255 * np.abs(rows).sum(axis=1)
    if largest.max(initial=0) >= 1 << 31:
        return None
    shift = -data.zero * rows.sum(axis=1)
    return rewriter.keep(var, Sums(rewriter.emit(product()), shift, scale * data.scale, axis, largest))


def _add(rewriter: _FindIntegers, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    """A bias that is quantised with the scale of the sums is added to them."""
    left, right = call.args
    if isinstance(rewriter.known.get(right), Sums):
        left, right = right, left
    sums, bias = rewriter.known.get(left), rewriter.known.get(right)
    if not isinstance(sums, Sums) or not isinstance(bias, Weight) or sums.positive:
        return None
    count = len(sums.scale)
    if bias.numbers.size not in (1, count) or shape_of(var) != shape_of(sums.sums):
        return None
    lead = (1,) * (len(shape_of(var)) - bias.numbers.ndim) + bias.numbers.shape
    if bias.numbers.size == count and lead[sums.axis] != count:
        return None
    if not np.allclose(bias.scale.reshape(-1), sums.scale, rtol=1e-5, atol=0):
        return None
    numbers = np.broadcast_to(bias.numbers.reshape(-1), (count,)).astype(np.int64)
    largest = sums.largest + np.abs(numbers)
    if largest.max(initial=0) >= 1 << 31:
        return None
    return rewriter.keep(var, replace(sums, shift=sums.shift + numbers, largest=largest))


def _relu(rewriter: _FindIntegers, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    sums = rewriter.known.get(call.args[0])
    return rewriter.keep(var, replace(sums, positive=True)) if isinstance(sums, Sums) else None


_HANDLERS: dict[str, Callable[[_FindIntegers, relax.Var, relax.Call], relax.Expr | None]] = {
    "relax.dequantize": _dequantize,
    "relax.quantize": _quantize,
    "relax.nn.conv2d": _convolve,
    "relax.nn.pad": _pad,
    "relax.matmul": _multiply,
    "relax.add": _add,
    "relax.nn.relu": _relu,
    **{f"relax.{name}": _move for name in _MOVES},
}


@tvm.transform.module_pass(opt_level=0, name="graphprune.FindIntegers")
def find_integers(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Products of quantised operands become products of integers."""
    return rewrite(module, _FindIntegers)
