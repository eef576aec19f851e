"""Finds norms that are written out, and makes each of them one operator.

`x * rsqrt(mean(x * x) + epsilon)` over the last axis is a root-mean-square norm, as Llama and its kin have them, with
`power(x, 2)` or a product, with `rsqrt` or a division by `sqrt`.

```python
module = find_norms(module)
```
"""

import numpy as np
import tvm
from tvm import relax

from .folding import constant_of
from .rewriting import Rewriter, dtype_of, op_name, rewrite, shape_of
from .views import definitions_of

# What the mean goes through before data is multiplied or divided by it.
_ROOTS = {"relax.multiply": "relax.rsqrt", "relax.divide": "relax.sqrt"}


class _FindNorms(Rewriter):
    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        self.definitions = definitions_of(function)

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        root = _ROOTS.get(op_name(value))
        if root is not None and dtype_of(var) == "float32":
            for data, factor in (value.args, reversed(value.args)):
                epsilon = self.epsilon(
                    data, factor, "relax.rsqrt" if op_name(value) == "relax.multiply" else "relax.sqrt"
                )
                if epsilon is not None:
                    return self.norm(var, data, epsilon)
                if op_name(value) == "relax.divide":
                    break
        return super().visit(var, value)

    def norm(self, var: relax.Var, data: relax.Expr, epsilon: float) -> relax.Var:
        """The operator; its weight is one, for what follows is fused behind it."""
        ones = relax.const(np.ones(shape_of(data)[-1], np.float32))
        return self.builder.emit(
            relax.op.nn.rms_norm(self.expression(data), ones, axes=[-1], epsilon=epsilon), var.name
        )

    def epsilon(self, data: relax.Expr, factor: relax.Expr, root: str) -> float | None:
        """The small number in `root(mean(data * data) + epsilon)`, if `factor` is that."""
        shape, total = shape_of(data), self.operand(factor, root)
        added = self.definition(total)
        if not shape or op_name(added) != "relax.add":
            return None
        for mean, small in (added.args, reversed(added.args)):
            number = constant_of(small)
            if (
                number is not None
                and number.size == 1
                and self.is_mean_of_squares(self.definition(mean), data, len(shape))
            ):
                return float(number.item())
        return None

    def is_mean_of_squares(self, mean: relax.Expr | None, data: relax.Expr, rank: int) -> bool:
        """Whether a value is the mean of squares of the last axis of `data`, which stays as an axis of one."""
        if op_name(mean) != "relax.mean" or not mean.attrs.keepdims or mean.attrs.axis is None:
            return False
        if [int(axis) % rank for axis in mean.attrs.axis] != [rank - 1]:
            return False
        square = self.definition(mean.args[0])
        if op_name(square) not in ("relax.power", "relax.multiply") or not square.args[0].same_as(data):
            return False
        exponent = constant_of(square.args[1])
        if op_name(square) == "relax.power":
            return exponent is not None and exponent.size == 1 and exponent.item() == 2
        return square.args[1].same_as(data)

    def operand(self, expr: relax.Expr, name: str) -> relax.Expr | None:
        """The argument of an operator of this name."""
        value = self.definition(expr)
        return value.args[0] if op_name(value) == name else None

    def definition(self, expr: relax.Expr | None) -> relax.Expr | None:
        """What a variable is bound to."""
        return self.definitions.get(expr) if isinstance(expr, relax.Var) else None


@tvm.transform.module_pass(opt_level=0, name="graphprune.FindNorms")
def find_norms(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Make norms that are written out one operator each."""
    return rewrite(module, _FindNorms)
