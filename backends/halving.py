"""Rounds the weights of a module to half precision, and reads them in kernels.

Weights are those of convolutions and matrix products and the tables that embeddings look up. Everything else stays
float32, and so does all arithmetic.

```python
module = halve_weights(half_of("fp16"))(module)
```
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx

from .folding import constant_of
from .precision import Half, rounded
from .rewriting import Rewriter, op_name, rewrite, shape_of

Named = Callable[[], Iterable[tuple[str, Any]]]

# Which argument is a weight.
_WEIGHTS = {
    **{f"relax.nn.conv{n}d": 1 for n in (1, 2, 3)},
    **{f"relax.nn.conv{n}d_transpose": 1 for n in (1, 2, 3)},
    "relax.matmul": 1,
    "relax.take": 0,
}


def widened(data: te.Tensor, *index: tirx.Expr) -> tirx.Expr:
    """An element of a weight as float32: float16 is converted, uint16 are the bits of a bfloat16."""
    value = data(*index)
    if str(data.dtype) == "uint16":
        return tirx.reinterpret("float32", tirx.Cast("uint32", value) << tirx.const(16, "uint32"))
    return value if str(data.dtype) == "float32" else tirx.Cast("float32", value)


def widen_tensor(data: te.Tensor) -> te.Tensor:
    """A tensor of half precision as float32."""
    return te.compute(data.shape, lambda *index: widened(data, *index), name="widen")


class _HalveWeights(Rewriter):
    half: Half
    named: Named

    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        # Layers that share a weight go on sharing it.
        self.known: dict[Any, relax.Expr] = {}

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        place = _WEIGHTS.get(op_name(value))
        weight = None if place is None else constant_of(self.expression(value.args[place]))
        if weight is None or weight.dtype != np.float32 or weight.ndim < 2:
            return super().visit(var, value)
        if op_name(value) == "relax.matmul" and weight.ndim != 2:
            return super().visit(var, value)
        table = op_name(value) == "relax.take"
        arguments = [self.expression(argument) for argument in value.args]
        arguments[place] = self.halved(value.args[place], weight, table)
        result = self.builder.emit(relax.Call(value.op, arguments, value.attrs, value.ty_args), var.name)
        return self.builder.emit_te(widen_tensor, result, primfunc_name_hint="widen") if table else result

    def halved(self, old: relax.Expr, weight: np.ndarray, stored: bool) -> relax.Expr:
        """The constant with rounded numbers: in half precision, or as float32 for templates to pack."""
        if (old, stored) not in self.known:
            numbers = rounded(weight, self.half, self.named())
            self.known[old, stored] = relax.const(self.half.narrow(numbers) if stored else numbers)
        return self.known[old, stored]


def halve_weights(half: Half, named: Named = tuple) -> tvm.transform.Pass:
    """The pass that rounds weights; `named` lists the tensors of the model by their names, for messages."""
    rewriter = type("HalveWeights", (_HalveWeights,), {"half": half, "named": staticmethod(named)})

    @tvm.transform.module_pass(opt_level=0, name="graphprune.HalveWeights")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        return rewrite(module, rewriter)

    return run


class _Borders(Rewriter):
    """The function with some inputs and outputs in half precision; inside, everything is float32."""

    inputs: tuple[Half | None, ...]
    outputs: tuple[Half | None, ...]

    def run(self, name: tvm.ir.GlobalVar) -> tvm.IRModule:
        body, old = self.function.body, list(self.function.params)
        params = [
            relax.Var(p.name, relax.TensorType(shape_of(p), half.storage)) if half else p
            for p, half in zip(old, self.inputs, strict=True)
        ]
        with self.builder.function(name.name_hint, params, attrs=dict(self.function.attrs or {})):
            with self.builder.dataflow():
                for before, after, half in zip(old, params, self.inputs, strict=True):
                    if half:
                        self.replaced[before] = self.widen(after, half)
                for block in body.blocks:
                    for binding in block.bindings:
                        self.replaced[binding.var] = self.visit(binding.var, binding.value)
                output = self.builder.emit_output(self.narrowed(body.body))
            self.builder.emit_func_output(output)
        return self.builder.get()

    def narrowed(self, result: relax.Expr) -> relax.Expr:
        """The results in their own types."""
        result = self.expression(result)
        if isinstance(result.ty, relax.TupleType):
            parts = (
                list(result.fields)
                if isinstance(result, relax.Tuple)
                else [self.builder.emit(relax.TupleGetItem(result, place)) for place in range(len(result.ty.fields))]
            )
            return relax.Tuple([self.narrow(part, half) for part, half in zip(parts, self.outputs, strict=True)])
        return self.narrow(result, self.outputs[0])

    def widen(self, value: relax.Expr, half: Half) -> relax.Expr:
        """One input as float32."""
        if half.storage == "float16":
            return self.builder.emit(relax.op.astype(value, "float32"))
        return self.builder.emit_te(widen_tensor, value, primfunc_name_hint="widen")

    def narrow(self, value: relax.Expr, half: Half | None) -> relax.Expr:
        """One result in its own type."""
        if half is None:
            return value
        if half.storage == "float16":
            return self.builder.emit(relax.op.astype(value, "float16"))
        return self.builder.emit_te(_upper_halves, value, primfunc_name_hint="narrow")


def _upper_halves(data: te.Tensor) -> te.Tensor:
    """float32 numbers rounded to bfloat16 (ties to even), as their bits."""

    def value(*index: tirx.Expr) -> tirx.Expr:
        number = data(*index)
        bits, one = tirx.reinterpret("uint32", number), tirx.const(1, "uint32")
        half = tirx.const(0x7FFF, "uint32") + ((bits >> tirx.const(16, "uint32")) & one)
        # Rounding must not carry the bits of a NaN into infinity.
        bits = tirx.Select(tirx.isnan(number), bits | tirx.const(0x400000, "uint32"), bits + half)
        return tirx.Cast("uint16", bits >> tirx.const(16, "uint32"))

    return te.compute(data.shape, value, name="narrow")


def half_borders(module: tvm.IRModule, inputs: Iterable[Half | None], outputs: Iterable[Half | None]) -> tvm.IRModule:
    """A float32 module whose inputs and outputs have half precision where a format is given."""
    inputs, outputs = tuple(inputs), tuple(outputs)
    if not any((*inputs, *outputs)):
        return module
    return rewrite(module, type("Borders", (_Borders,), {"inputs": inputs, "outputs": outputs}))
