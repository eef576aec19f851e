"""Half precision on GPUs: products take half numbers and add in float32; what goes through memory is half, what stays
in registers is float32.

Every value that several kernels read, or a product, is rounded to half when it is stored. Elementwise operators between
products compute in float32, because they become part of the kernels around them. Softmax and norms compute in
float32, too. Inputs and outputs keep their element types.

```python
module = to_half("float16")(module)
```
"""

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax, te, topi

from ..errors import CompileError
from .folding import constant_of
from .rewriting import Rewriter, dtype_of, op_name, rewrite, shape_of

_PRODUCTS = frozenset(
    f"relax.{name}"
    for name in (
        "matmul",
        *(f"nn.conv{n}d" for n in (1, 2, 3)),
        *(f"nn.conv{n}d_transpose" for n in (1, 2, 3)),
    )
)
# Operators that move numbers, or pick some of them: half in, half out.
_MOVES = frozenset(
    f"relax.{name}"
    for name in (
        "reshape", "permute_dims", "expand_dims", "squeeze", "flatten", "broadcast_to", "concat", "split", "stack",
        "strided_slice", "take", "flip", "tile", "repeat", "nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d", "nn.relu",
    )
)  # fmt: skip
_ELEMENTWISE = frozenset(
    f"relax.{name}"
    for name in (
        "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "negative", "abs", "exp", "log", "sqrt",
        "rsqrt", "tanh", "sigmoid", "erf", "clip", "where", "square", "nn.relu", "nn.gelu", "nn.gelu_tanh", "nn.silu",
        "nn.leakyrelu", "nn.prelu", "nn.softplus",
    )
)  # fmt: skip


def to_half(dtype: str) -> tvm.transform.Pass:
    """A pass that computes products in `dtype`: `float16` or `bfloat16`."""

    @tvm.transform.module_pass(opt_level=0, name="graphprune.ToHalf")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        return rewrite(module, type("Halving", (_Halving,), {"dtype": dtype}))

    return run


class _Halving(Rewriter):
    """Keeps two versions of a value: float32 under `replaced`, half under `halves`."""

    dtype: str

    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        self.halves: dict[relax.Var, relax.Expr] = {}
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        self.readers: dict[relax.Var, list[relax.Expr]] = {}
        for binding in bindings:
            for argument in getattr(binding.value, "args", ()):
                for item in argument.fields if isinstance(argument, relax.Tuple) else (argument,):
                    if isinstance(item, relax.Var):
                        self.readers.setdefault(item, []).append(binding.value)

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        name = op_name(value)
        if name in _PRODUCTS and all(dtype_of(argument) == "float32" for argument in value.args):
            return self.store(var, self.builder.emit(self.product(value)))
        if name in _ROWS and dtype_of(value.args[0]) == "float32":
            return self.row(var, value, _ROWS[name])
        if name in _MOVES and self.moves_half(value):
            return self.moved(var, value)
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.halves:
            self.halves[var] = self.builder.emit(self.halves[value.tuple_value][value.index])
            return None
        return self.store(var, super().visit(var, value))

    def expression(self, expr: relax.Expr) -> relax.Expr:
        """The float32 version; a stored half is widened by each reader for itself, inside its own kernel."""
        if isinstance(expr, relax.Var) and expr in self.halves and self.replaced.get(expr) is None:
            return self.builder.emit(relax.op.astype(self.halves[expr], "float32"))
        return super().expression(expr)

    def store(self, var: relax.Var, result: relax.Expr) -> relax.Expr | None:
        """The float32 result itself, or None where it is kept as half from now on."""
        if dtype_of(var) != "float32" or shape_of(var) is None or not self.is_stored(var):
            return result
        self.halves[var] = self.builder.emit(relax.op.astype(result, self.dtype))
        return None

    def is_stored(self, var: relax.Var) -> bool:
        """Whether a value goes through memory to somebody who may read it as half."""
        readers = self.readers.get(var, [])
        if len(readers) != self.uses[var]:  # an output of the model stays exact
            return False
        return len(readers) > 1 or any(op_name(reader) in _PRODUCTS | _MOVES for reader in readers)

    def half(self, expr: relax.Expr) -> relax.Expr:
        """The half version of a value."""
        value = constant_of(expr)
        if value is not None:
            return half_constant(value, self.dtype)
        if expr not in self.halves:
            self.halves[expr] = self.builder.emit(relax.op.astype(self.expression(expr), self.dtype))
        return self.halves[expr]

    def product(self, call: relax.Call) -> relax.Call:
        """The same product of half numbers, added up in float32."""
        kind = type(call.attrs).__tvm_ffi_type_info__
        fields = {field.name: getattr(call.attrs, field.name) for field in kind.fields}
        attrs = tvm.ir.make_node(kind.type_key, **{**fields, "out_dtype": "float32"})
        return relax.Call(call.op, [self.half(argument) for argument in call.args], attrs, call.ty_args)

    def moves_half(self, call: relax.Call) -> bool:
        """Whether every number that an operator moves is there as half."""
        items = [item for a in call.args for item in (a.fields if isinstance(a, relax.Tuple) else (a,))]
        numbers = [item for item in items if dtype_of(item) == "float32"]
        return (
            bool(numbers)
            and all(item in self.halves for item in numbers if isinstance(item, relax.Var))
            and all(isinstance(item, relax.Var) for item in numbers)
        )

    def moved(self, var: relax.Var, call: relax.Call) -> None:
        def narrow(expr: relax.Expr) -> relax.Expr:
            if isinstance(expr, relax.Tuple):
                return relax.Tuple([narrow(item) for item in expr.fields])
            return self.halves[expr] if dtype_of(expr) == "float32" else self.expression(expr)

        self.halves[var] = self.builder.emit(
            relax.Call(call.op, [narrow(argument) for argument in call.args], call.attrs, call.ty_args)
        )

    def row(self, var: relax.Var, call: relax.Call, compute: Callable[..., te.Tensor]) -> relax.Expr | None:
        """Softmax or a norm: half or float32 in, float32 inside, half out where it is stored."""
        source = call.args[0]
        data = self.halves[source] if source in self.halves else self.expression(source)
        out = self.dtype if self.is_stored(var) else "float32"
        rest = [self.expression(argument) for argument in call.args[1:]]

        def kernel(data: te.Tensor, *rest: te.Tensor) -> te.Tensor:
            result = compute(call.attrs, topi.cast(data, "float32"), *rest)
            return topi.cast(result, out)

        result = self.builder.emit_te(kernel, data, *rest, primfunc_name_hint=op_name(call).rpartition(".")[2])
        if out == "float32":
            return result
        self.halves[var] = result
        return None


def _softmax(attrs: relax.op.op_attrs, data: te.Tensor) -> te.Tensor:
    return topi.nn.softmax(data, axis=int(attrs.axis))


def _log_softmax(attrs: relax.op.op_attrs, data: te.Tensor) -> te.Tensor:
    return topi.nn.log_softmax(data, axis=int(attrs.axis))


def _layer_norm(attrs: relax.op.op_attrs, data: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
    return topi.nn.layer_norm(data, gamma, beta, axis=[int(axis) for axis in attrs.axes], epsilon=float(attrs.epsilon))


def _rms_norm(attrs: relax.op.op_attrs, data: te.Tensor, weight: te.Tensor) -> te.Tensor:
    return topi.nn.rms_norm(data, weight, axis=[int(axis) for axis in attrs.axes], epsilon=float(attrs.epsilon))


_ROWS: dict[str, Callable[..., te.Tensor]] = {
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _log_softmax,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.rms_norm": _rms_norm,
}


def half_constant(value: np.ndarray, dtype: str) -> relax.Expr:
    """A constant rounded to half; raises `CompileError` where a finite number would become infinite."""
    import ml_dtypes

    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(value.astype(kind))
    if not np.isfinite(rounded.astype(np.float32)[np.isfinite(value)]).all():
        raise CompileError(
            f"a weight of shape {list(value.shape)} holds numbers beyond the range of {dtype} (up to "
            f"{float(np.abs(value[np.isfinite(value)]).max()):g}): compile with precision='bf16' or 'fp32'"
        )
    return relax.const(tvm.runtime.tensor(rounded), dtype)
