"""Finds attention among products and softmaxes, and makes it one kernel.

The pattern is a product of the softmax of scaled, biased scores with values, however it was reshaped on the way.
Masks are biases: `where(mask, scores, -1e38)` adds as much as it replaces.

```python
module = lower_attention(target)(module)
```
"""

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import tvm
from tvm import relax

from . import attention
from .folding import constant_of
from .rewriting import Rewriter, dtype_of, op_name, rewrite, shape_of
from .targets import Target
from .views import MOVES, Shape, Strided, definitions_of, permuted, places, reshaped, trace, whole

# Elements keep their order through these.
_RESHAPES = ("relax.reshape", "relax.flatten", "relax.expand_dims", "relax.squeeze")
# From here on, a number added to a score is all that is left of the score.
_ABSORBS = -1e30


@dataclass(frozen=True)
class _Scores:
    """Where scores come from: a product, a factor, and biases with the shapes that they broadcast to."""

    product: relax.Call
    scale: float = 1.0
    biases: tuple[tuple[relax.Expr, float, Shape], ...] = ()


class _LowerAttention(Rewriter):
    target: Target

    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        self.definitions = definitions_of(function)

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        found = self.attention(value) if op_name(value) == "relax.matmul" and dtype_of(var) == "float32" else None
        return super().visit(var, value) if found is None else found

    def definition(self, expr: relax.Expr) -> relax.Expr | None:
        """What a variable is bound to, if nobody else reads it."""
        return self.definitions.get(expr) if isinstance(expr, relax.Var) and self.uses[expr] == 1 else None

    def behind(self, expr: relax.Expr) -> tuple[relax.Expr, relax.Expr | None]:
        """The value behind reshapes, and what it is bound to."""
        value = self.definition(expr)
        while self.keeps_order(value):
            expr = value.args[0]
            value = self.definition(expr)
        return expr, value

    def keeps_order(self, value: relax.Expr | None) -> bool:
        """Whether a call leaves all elements where they are."""
        if value is None or shape_of(value) is None:
            return False
        same = op_name(value) == "relax.broadcast_to" and shape_of(value) == shape_of(value.args[0])
        return same or op_name(value) in _RESHAPES

    def number(self, expr: relax.Expr) -> float | None:
        """The value of a constant with one element."""
        constant = constant_of(expr)
        return float(constant.item()) if constant is not None and constant.size == 1 else None

    def multiplied(self, value: relax.Expr | None) -> tuple[relax.Expr, float] | None:
        """An operand and the constant number that multiplies it, for a call that does just this."""
        name = op_name(value) if value is not None else ""
        if name not in ("relax.multiply", "relax.divide") or dtype_of(value) != "float32":
            return None
        data, number = value.args[0], self.number(value.args[1])
        if number is None and name == "relax.multiply":
            data, number = value.args[1], self.number(value.args[0])
        if not number or shape_of(data) != shape_of(value):
            return None
        return data, number if name == "relax.multiply" else 1 / number

    def attention(self, call: relax.Call) -> relax.Expr | None:
        """The kernel for a product of probabilities with values, or None."""
        softmax, value = self.behind(call.args[0])
        shape, out = shape_of(softmax), shape_of(call)
        if op_name(value) != "relax.nn.softmax" or shape is None or out is None or not 2 <= len(shape) or 0 in shape:
            return None
        if int(value.attrs.axis) % len(shape) != len(shape) - 1 or dtype_of(softmax) != "float32":
            return None
        scores = self.scores(value.args[0], 1.0)
        if scores is None:
            return None
        lead = (prod(shape[:-3]), shape[-3]) if len(shape) > 2 else (1, 1)
        size = (*lead, *shape[-2:])
        operands = self.operands(scores, call.args[1], size, out[-1])
        biases = [self.bias(*bias, size) for bias in scores.biases]
        if operands is None or any(bias is None for bias in biases):
            return None
        return self.emit(operands, scores.scale, [bias for bias in biases if bias is not False], size, out)

    def scores(self, expr: relax.Expr, factor: float) -> _Scores | None:
        """Scores as a product of queries and keys, followed backwards; `factor` is what will multiply them."""
        expr, value = self.behind(expr)
        name = op_name(value)
        if name == "relax.matmul":
            return _Scores(value, factor)
        multiplied = self.multiplied(value)
        if multiplied is not None:
            return self.scores(multiplied[0], factor * multiplied[1])
        if name == "relax.add":
            for main, bias in (value.args, tuple(value.args)[::-1]):
                found = self.scores(main, factor) if shape_of(main) == shape_of(value) else None
                if found is not None:
                    return replace(found, biases=(*found.biases, (bias, factor, shape_of(value))))
        if name == "relax.where":
            mask, main, other = value.args
            number = self.number(other)
            if number is None or not number * factor <= _ABSORBS or shape_of(main) != shape_of(value):
                return None
            found = self.scores(main, factor)
            bias = self.masked(mask, number)
            return found and replace(found, biases=(*found.biases, (bias, factor, shape_of(value))))
        return None

    def masked(self, mask: relax.Expr, number: float) -> relax.Expr:
        """Zero where the mask is set, `number` elsewhere."""
        constant = constant_of(mask)
        if constant is not None:
            return relax.const(np.where(constant, np.float32(0), np.float32(number)))
        expr = self.expression(mask)
        return self.builder.emit(relax.op.where(expr, relax.const(0.0, "float32"), relax.const(number, "float32")))

    def operands(self, scores: _Scores, values: relax.Expr, size: Shape, width: int) -> tuple | None:
        """Queries, keys and values as views `(batch, heads, rows, features)`, and the factor taken out of them."""
        left, right = scores.product.args
        if shape_of(left) is None or shape_of(right) is None or shape_of(values) is None:
            return None
        batch, heads, queries, keys = size
        features = shape_of(left)[-1]
        shapes = ((batch, heads, queries, features), (batch, heads, features, keys), (batch, heads, keys, width))
        if shape_of(left)[-2] != queries or shape_of(right)[-1] != keys or shape_of(values)[-2] != keys:
            return None
        found, scale = [], 1.0
        for expr, shape in zip((left, right, values), shapes, strict=True):
            if prod(shape_of(expr)) != prod(shape) or dtype_of(expr) != "float32":
                return None
            inner = expr
            while self.keeps_order(self.definitions.get(inner)):
                inner = self.definitions[inner].args[0]
            # What multiplies the values does not multiply the scores.
            view, factor = self.scaled(inner) if len(found) < 2 else (trace(inner, self.definitions), 1.0)
            view = reshaped(view, shape)
            if view is None or places(view) is None:
                view, factor = reshaped(whole(expr), shape), 1.0
            found.append(view)
            scale *= factor
        query, key, value = found
        if any(places(view) is None for view in found):
            return None
        return query, permuted(key, (0, 1, 3, 2)), value, scale

    def scaled(self, expr: relax.Expr) -> tuple[Strided, float]:
        """An expression as a view of something, and the number that multiplies it."""
        value = self.definitions.get(expr) if isinstance(expr, relax.Var) else None
        multiplied = self.multiplied(value)
        if multiplied is not None:
            view, factor = self.scaled(multiplied[0])
            return view, factor * multiplied[1]
        name = op_name(value) if value is not None else ""
        if name in MOVES and shape_of(value) is not None:
            view, factor = self.scaled(value.args[0])
            moved = MOVES[name](value, view)
            return (moved, factor) if moved is not None else (whole(expr), 1.0)
        return trace(expr, self.definitions), 1.0

    def bias(self, bias: relax.Expr, factor: float, full: Shape, size: Shape) -> relax.Expr | bool | None:
        """A bias with four axes, each full or of extent one; False where it is zero, None where it does not fit."""
        shape = shape_of(bias)
        if shape is None or dtype_of(bias) != "float32" or len(shape) > len(full):
            return None
        shape = (1,) * (len(full) - len(shape)) + shape
        fitted = _fit(shape, full, size)
        if fitted is None:
            return None
        constant = constant_of(bias)
        if constant is not None:
            if not constant.any():
                return False
            return relax.const(np.ascontiguousarray(constant.reshape(fitted) * np.float32(factor)))
        expr = self.builder.emit(relax.op.reshape(self.expression(bias), fitted))
        return expr if factor == 1 else self.builder.emit(relax.op.multiply(expr, relax.const(factor, "float32")))

    def emit(self, operands: tuple, scale: float, biases: list, size: Shape, out: Shape) -> relax.Expr:
        """The kernel, and its result in the order of the product it replaces."""
        *views, factor = operands
        numbers = attention.Attention(
            *size,
            features=views[0].shape[-1],
            values=views[2].shape[-1],
            scale=scale * factor,
            places=tuple(places(view) for view in views),
            lanes=self.target.vector_width,
            registers=self.target.accumulators,
            core=self.target.core,
        )
        biases = [self.widened(bias, numbers.columns) for bias in _summed(biases)]
        arguments = [self.expression(view.base) for view in views]
        result = self.builder.emit_te(
            lambda q, k, v, *extra: attention.compute(numbers, q, k, v, extra),
            *arguments,
            *biases,
            primfunc_name_hint="attention",
            primfunc_attrs={"op_pattern": 8},
        )
        turned = self.builder.emit(relax.op.permute_dims(result, [0, 2, 1, 3]))
        return self.builder.emit(relax.op.reshape(turned, out))

    def widened(self, bias: relax.Expr, columns: int) -> relax.Expr:
        """A bias for all lanes; those beyond the last key can then never hold the highest score."""
        keys = shape_of(bias)[-1]
        if keys in (1, columns):
            return bias
        width = [0] * 7 + [columns - keys]
        constant = constant_of(bias)
        if constant is not None:
            return relax.const(np.pad(constant, np.reshape(width, (4, 2)), constant_values=-np.inf))
        return self.builder.emit(relax.op.nn.pad(bias, width, "constant", -np.inf))


def _summed(biases: list[relax.Expr]) -> list[relax.Expr]:
    """Constant biases as one, where that takes no more memory than the largest of them."""
    constants = [constant_of(bias) for bias in biases]
    known = [constant for constant in constants if constant is not None]
    if len(known) < 2 or np.broadcast_shapes(*(c.shape for c in known)) not in [c.shape for c in known]:
        return biases
    return [relax.const(sum(known)), *(b for b, c in zip(biases, constants, strict=True) if c is None)]


def _fit(shape: Shape, full: Shape, size: Shape) -> Shape | None:
    """A shape that broadcasts over `full` as one that broadcasts over `size`, which has the same elements."""
    if full[-2:] != size[-2:]:
        return None
    lead, whole_lead = shape[:-2], full[:-2]
    if prod(lead) == 1:
        return (1, 1, *shape[-2:])
    wide = [axis for axis, extent in enumerate(whole_lead) if extent > 1]
    if tuple(whole_lead[axis] for axis in wide) == tuple(extent for extent in size[:2] if extent > 1):
        rest = iter(lead[axis] for axis in wide)
        return (*(next(rest) if extent > 1 else 1 for extent in size[:2]), *shape[-2:])
    return (*size[:2], *shape[-2:]) if lead == whole_lead else None


def lower_attention(target: Target) -> tvm.transform.Pass:
    """The pass that makes attention one kernel."""
    lowering = type("TargetLowering", (_LowerAttention,), {"target": target})

    @tvm.transform.module_pass(opt_level=0, name="graphprune.LowerAttention")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        return rewrite(module, lowering)

    return run
