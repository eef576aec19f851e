"""The one loop all our Relax passes share: walk the bindings of a function and build it anew."""

from collections import Counter

import tvm
from tvm import relax


class Rewriter:
    """Rebuild the main function binding by binding; a subclass says what becomes of each binding.

    `visit(var, value)` gets the old variable and its old value, and returns what stands for the variable from
    now on. `replaced` maps old variables to it. Functions with control flow are left as they are.
    """

    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        # The builder holds everything but the function itself, which it will add again.
        others = {name: other for name, other in module.functions_items() if not other.same_as(function)}
        self.builder = relax.BlockBuilder(tvm.IRModule(others, attrs=module.attrs))
        self.function = function
        self.replaced: dict[relax.Var, object] = {}
        self.uses = count_uses(function)

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        """What stands for `var`; the default copies the binding."""
        return self.builder.emit(self.copy(value), var.name)

    def expression(self, expr: relax.Expr) -> relax.Expr:
        """The new expression for an old one that may be used as an argument."""
        if isinstance(expr, relax.Var):
            return self.replaced.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.expression(item) for item in expr.fields])
        return expr

    def copy(self, value: relax.Expr) -> relax.Expr:
        """`value` over the new variables."""
        if isinstance(value, relax.Call):
            arguments = [self.expression(argument) for argument in value.args]
            return relax.Call(value.op, arguments, value.attrs, value.ty_args)
        if isinstance(value, relax.TupleGetItem):
            source = self.expression(value.tuple_value)
            return source.fields[value.index] if isinstance(source, relax.Tuple) else source[value.index]
        return self.expression(value)

    def output(self, expr: relax.Expr) -> relax.Expr:
        """The new expression for what the function returns."""
        return self.expression(expr)

    def run(self, name: tvm.ir.GlobalVar) -> tvm.IRModule:
        """Build the function anew and return the module that holds it."""
        body = self.function.body
        with self.builder.function(name.name_hint, self.function.params, attrs=dict(self.function.attrs or {})):
            with self.builder.dataflow():
                for block in body.blocks:
                    for binding in block.bindings:
                        self.replaced[binding.var] = self.visit(binding.var, binding.value)
                output = self.builder.emit_output(self.output(body.body))
            self.builder.emit_func_output(output)
        return self.builder.get()


def count_uses(function: relax.Function) -> Counter:
    """How often each variable is read; the result of the function counts as one use."""
    uses: Counter = Counter()

    def read(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            uses[expr] += 1
        elif isinstance(expr, relax.Tuple):
            for item in expr.fields:
                read(item)

    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call):
                for argument in value.args:
                    read(argument)
            elif isinstance(value, relax.TupleGetItem):
                read(value.tuple_value)
            else:
                read(value)
    read(function.body.body)
    return uses


def is_straight(function: relax.Function) -> bool:
    """True when a function is a plain list of dataflow bindings, without branches or side effects."""
    return all(
        isinstance(block, relax.DataflowBlock)
        and isinstance(binding, relax.VarBinding)
        and not isinstance(binding.value, (relax.If, relax.Function))
        for block in function.body.blocks
        for binding in block.bindings
    )


def rewrite(module: tvm.IRModule, rewriter: type[Rewriter]) -> tvm.IRModule:
    """Apply a rewriter to every straight Relax function of a module."""
    for name, function in module.functions_items():
        if isinstance(function, relax.Function) and is_straight(function):
            module = rewriter(module, function).run(name)
    return module


def op_name(value: relax.Expr) -> str:
    """`relax.nn.relu` for a call of a Relax operator, the empty string for anything else."""
    return value.op.name if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) else ""


def shape_of(expr: relax.Expr) -> tuple[int, ...] | None:
    """The static shape of a tensor expression, or None."""
    kind = expr.ty
    if not isinstance(kind, relax.TensorType) or kind.shape is None:
        return None
    try:
        return tuple(int(extent) for extent in kind.shape)
    except TypeError:
        return None


def dtype_of(expr: relax.Expr) -> str:
    """The element type of a tensor expression, the empty string for anything else."""
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else ""
