"""Keeps rows of features flat: reshapes and transposes move to where they matter, or vanish.

A transformer reshapes between every two operators, and each reshape would end a kernel. Here a value may be a view
of another one (`views.py`). Elementwise operators, norms of the last axis and products with weights do not care
how their rows are arranged: they work on the base, and the view is passed on. Whoever does care gets the view as a
tensor, made once. So bias, activation and residual reach the product that they belong to.

```python
module = flatten_rows(module)
```
"""

from collections.abc import Callable
from math import prod

import numpy as np
import tvm
from tvm import relax

from .folding import constant_of
from .rewriting import Rewriter, op_name, rewrite, shape_of
from .views import MOVES, Shape, Strided, definitions_of, permuted, reshaped, whole

_UNARY = (
    "abs", "acos", "asin", "astype", "atan", "ceil", "clip", "cos", "cosh", "erf", "exp", "floor", "log", "negative",
    "acosh", "asinh", "atanh",
    "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "nn.gelu", "nn.gelu_tanh",
    "nn.leakyrelu", "nn.relu", "nn.relu6", "nn.silu", "nn.softplus",
)  # fmt: skip
_SEVERAL = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "equal", "not_equal", "less", "less_equal",
    "greater", "greater_equal", "where",
)  # fmt: skip
_RESHAPES = ("relax.reshape", "relax.flatten", "relax.expand_dims", "relax.squeeze")


class _FlattenRows(Rewriter):
    """`replaced` may hold a `Strided` besides expressions."""

    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        self.definitions = definitions_of(function)
        self.made: dict[Strided, relax.Expr] = {}
        # Results of products: where operands of one elementwise operator lie differently, these stay as they are.
        self.products: set[relax.Expr] = set()

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        handler = _HANDLERS.get(op_name(value))
        if handler is not None and shape_of(var) is not None and 0 not in shape_of(var):
            found = handler(self, value)
            if found is not None:
                return found.base if found.shape == shape_of(found.base) and found.is_reshape else found
        return super().visit(var, value)

    def expression(self, expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return super().expression(expr)
        value = self.replaced.get(expr, expr) if isinstance(expr, relax.Var) else expr
        return self.tensor(value) if isinstance(value, Strided) else value

    def view(self, expr: relax.Expr) -> Strided:
        """What an old expression became, as a view."""
        value = self.replaced.get(expr, expr) if isinstance(expr, relax.Var) else expr
        return value if isinstance(value, Strided) else whole(value)

    def tensor(self, view: Strided) -> relax.Expr:
        """A view as a tensor of its own."""
        if view not in self.made:
            expr = view.base
            if not view.is_reshape:
                sorted_shape = tuple(view.shape[axis] for axis in view.order)
                expr = self.reshape(expr, sorted_shape)
                expr = self.builder.emit(relax.op.permute_dims(expr, [int(a) for a in np.argsort(view.order)]))
            self.made[view] = self.reshape(expr, view.shape)
        return self.made[view]

    def reshape(self, expr: relax.Expr, shape: Shape) -> relax.Expr:
        """An expression in another shape."""
        if shape_of(expr) == tuple(shape):
            return expr
        constant = constant_of(expr)
        if constant is not None:
            return relax.const(constant.reshape(shape))
        return self.builder.emit(relax.op.reshape(expr, shape))

    def rows(self, view: Strided) -> relax.Expr | None:
        """The base as `(rows, features)`, if the last axis of the view lies contiguous in it."""
        if view.strides[-1] != 1 and view.shape[-1] != 1:
            return None
        last = view.shape[-1]
        return self.reshape(view.base, (prod(view.shape) // last, last))


def _permute(rewriter: _FlattenRows, call: relax.Call) -> Strided | None:
    return MOVES[op_name(call)](call, rewriter.view(call.args[0]))


def _reshape(rewriter: _FlattenRows, call: relax.Call) -> Strided | None:
    """A reshape, of a value before other reshapes where that is possible: axes are often merged to be split again."""
    sources = [call.args[0]]
    while op_name(rewriter.definitions.get(sources[-1])) in _RESHAPES:
        sources.append(rewriter.definitions[sources[-1]].args[0])
    for source in reversed(sources):
        moved = reshaped(rewriter.view(source), shape_of(call))
        if moved is not None:
            return moved
    # Made a tensor, a transposed value can take any shape.
    return reshaped(whole(rewriter.expression(call.args[0])), shape_of(call))


def _same_broadcast(rewriter: _FlattenRows, call: relax.Call) -> Strided | None:
    """A broadcast that repeats nothing."""
    view = rewriter.view(call.args[0])
    return view if view.shape == shape_of(call) else None


def _unary(rewriter: _FlattenRows, call: relax.Call) -> Strided | None:
    view = rewriter.view(call.args[0])
    result = rewriter.builder.emit(relax.Call(call.op, [view.base, *call.args[1:]], call.attrs, call.ty_args))
    return view.like(_inherit(rewriter, result, view.base))


def _quantise(rewriter: _FlattenRows, call: relax.Call) -> Strided | None:
    """From floats to bytes or back, with one scale for all."""
    return _unary(rewriter, call) if all(shape_of(argument) == () for argument in call.args[1:]) else None


def _inherit(rewriter: _FlattenRows, result: relax.Expr, source: relax.Expr) -> relax.Expr:
    """What is computed from a product element by element will be part of the product's kernel."""
    if source in rewriter.products:
        rewriter.products.add(result)
    return result


def _elementwise(rewriter: _FlattenRows, call: relax.Call) -> Strided | None:
    shape = shape_of(call)
    views = [rewriter.view(argument) for argument in call.args]
    full = [view for view in views if view.shape == shape and constant_of(view.base) is None]
    if not full:
        return None
    lead = next((view for view in full if view.base in rewriter.products), full[0])
    operands = [_operand(rewriter, view, lead) for view in views]
    if any(operand is None for operand in operands):
        return None
    result = rewriter.builder.emit(relax.Call(call.op, operands, call.attrs, call.ty_args))
    if shape_of(result) != shape_of(lead.base):
        return None
    return lead.like(_inherit(rewriter, result, lead.base))


def _operand(rewriter: _FlattenRows, view: Strided, lead: Strided) -> relax.Expr | None:
    """An operand arranged like the base of `lead`, or of a shape that broadcasts over that base."""
    base = shape_of(lead.base)
    constant = constant_of(view.base)
    if view.shape == lead.shape and constant is None:
        arranged = permuted(view, lead.order)
        flat = reshaped(arranged, base)
        return rewriter.tensor(flat) if flat else rewriter.reshape(rewriter.tensor(arranged), base)
    if prod(view.shape) == 1:
        return rewriter.reshape(rewriter.tensor(view), ()) if view.shape else view.base
    if constant is not None:
        return relax.const(_arranged(constant.reshape(view.shape), lead)) if view.is_reshape else None
    per_feature = prod(view.shape) == view.shape[-1] == lead.shape[-1] == base[-1] and lead.strides[-1] == 1
    return rewriter.reshape(rewriter.tensor(view), (base[-1],)) if per_feature else None


def _arranged(constant: np.ndarray, lead: Strided) -> np.ndarray:
    """A constant that broadcasts over the view, as one that broadcasts over the base; axes stay one where it can."""
    full = np.broadcast_to(constant, lead.shape).transpose(lead.order).reshape(shape_of(lead.base))
    for axis in range(full.ndim):
        first = full.take([0], axis)
        if full.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, full.shape), full, equal_nan=True):
            full = first
    while full.ndim > 1 and full.shape[0] == 1:
        full = full[0]
    return np.ascontiguousarray(full)


def _norm(rewriter: _FlattenRows, call: relax.Call) -> Strided | None:
    """A softmax or a norm over the last axis treats every row alike."""
    view = rewriter.view(call.args[0])
    attrs, rank = call.attrs, len(view.shape)
    axes = [int(attrs.axis)] if op_name(call) == "relax.nn.softmax" else [int(axis) for axis in attrs.axes]
    rows = rewriter.rows(view) if [axis % rank for axis in axes] == [rank - 1] else None
    if rows is None:
        return None
    others = [rewriter.expression(argument) for argument in call.args[1:]]
    if op_name(call) == "relax.nn.softmax":
        return view.like(rewriter.builder.emit(relax.op.nn.softmax(rows, axis=-1)))
    if op_name(call) == "relax.nn.rms_norm":
        return view.like(rewriter.builder.emit(relax.op.nn.rms_norm(rows, *others, axes=[-1], epsilon=attrs.epsilon)))
    options = {"epsilon": attrs.epsilon, "center": attrs.center, "scale": attrs.scale}
    return view.like(rewriter.builder.emit(relax.op.nn.layer_norm(rows, *others, axes=[-1], **options)))


def _product(rewriter: _FlattenRows, call: relax.Call) -> Strided | None:
    """A product with one matrix for all rows."""
    weight = shape_of(call.args[1])
    view = rewriter.view(call.args[0])
    if weight is None or len(weight) != 2 or len(view.shape) < 2:
        return None
    rows = rewriter.rows(view)
    if rows is None:
        rows, view = rewriter.rows(whole(rewriter.tensor(view))), whole(rewriter.tensor(view))
    right = rewriter.expression(call.args[1])
    result = rewriter.builder.emit(relax.Call(call.op, [rows, right], call.attrs, call.ty_args))
    rewriter.products.add(result)
    lead, inner = view.strides[:-1], view.shape[-1]
    strides = tuple(stride // inner * weight[1] for stride in lead)
    return Strided(result, (*view.shape[:-1], weight[1]), (*strides, 1))


_HANDLERS: dict[str, Callable[[_FlattenRows, relax.Call], Strided | None]] = {
    **{name: _reshape for name in _RESHAPES},
    "relax.permute_dims": _permute,
    "relax.broadcast_to": _same_broadcast,
    **{f"relax.{name}": _unary for name in _UNARY},
    **{f"relax.{name}": _elementwise for name in _SEVERAL},
    "relax.quantize": _quantise,
    "relax.dequantize": _quantise,
    "relax.nn.softmax": _norm,
    "relax.nn.layer_norm": _norm,
    "relax.nn.rms_norm": _norm,
    "relax.matmul": _product,
}


@tvm.transform.module_pass(opt_level=0, name="graphprune.FlattenRows")
def flatten_rows(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Let elementwise operators, norms and products work on flat rows of features."""
    return rewrite(module, _FlattenRows)
