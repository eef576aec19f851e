"""What a function returns belongs to the caller: constants are copied on their way out.

The runtime would return the constant itself, and whoever writes into the result would change the next one.
"""

from collections.abc import Mapping

import tvm
from tvm import relax, topi

from .rewriting import Rewriter, rewrite


class _OwnOutputs(Rewriter):
    def output(self, expr: relax.Expr) -> relax.Expr:
        values = {binding.var: binding.value for block in self.function.body.blocks for binding in block.bindings}
        return self.owned(expr, values)

    def owned(self, expr: relax.Expr, values: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
        """The expression with copies of the constants that it consists of."""
        value = values.get(expr) if isinstance(expr, relax.Var) else None
        if isinstance(value, (relax.Var, relax.Tuple, tvm.ir.GenericConst)):
            return self.owned(value, values)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.owned(item, values) for item in expr.fields])
        if isinstance(expr, tvm.ir.GenericConst) and isinstance(expr.ty, relax.TensorType):
            return self.builder.emit_te(topi.identity, expr, primfunc_name_hint="copy")
        return self.expression(expr)


@tvm.transform.module_pass(opt_level=0, name="graphprune.OwnOutputs")
def own_outputs(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Copy constants that functions return.

    For modules whose constants are folded and whose reshapes are views: either would undo the copies.
    """
    return rewrite(module, _OwnOutputs)
