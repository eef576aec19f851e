"""Build a Relax function anew, step by step, so that TVM infers every type again."""

from typing import Any

import tvm
from tvm import relax

from .program import Place, Program, Step, is_constant


class Rebuilder:
    """Copies a program; a subclass says what becomes of constants, parameters and calls.

    Names of steps stay, so that the stored tensors of the result are called as those of the origin.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        # The builder holds everything but the function itself, which it will add again.
        others = {name: item for name, item in program.module.functions_items() if not name.same_as(program.entry)}
        self.builder = relax.BlockBuilder(tvm.IRModule(others, attrs=program.module.attrs))
        self.replaced: dict[Any, Any] = {}

    def constant(self, step: Step, place: Place, constant: Any) -> Any:
        """What stands for a constant at a place."""
        return constant

    def parameter(self, var: Any) -> Any:
        """What stands for a parameter of the function."""
        return var

    def call(self, step: Step, args: list[Any]) -> Any:
        """The new form of a call whose arguments are those given."""
        return relax.Call(step.value.op, args, step.value.attrs, step.value.ty_args)

    def after(self, step: Step, var: Any) -> Any:
        """What stands for the variable of a step from now on."""
        return var

    def output(self, expr: Any) -> Any:
        """What the function returns."""
        return expr

    def expression(self, step: Step, place: Place, expr: Any) -> Any:
        """The new form of an operand."""
        if isinstance(expr, relax.Var):
            return self.replaced.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            parts = enumerate(expr.fields)
            return relax.Tuple([self.expression(step, (*place, number), item) for number, item in parts])
        if is_constant(expr):
            return self.constant(step, place, expr)
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.expression(step, place, expr.tuple_value), expr.index)
        return expr

    def run(self) -> tvm.IRModule:
        """The module with the new function in it."""
        function, steps = self.program.function, iter(self.program.steps)
        self.replaced = {var: self.parameter(var) for var in function.params}
        params, attrs = [self.replaced[var] for var in function.params], dict(function.attrs or {})
        private = "global_symbol" not in attrs
        with self.builder.function(
            self.program.entry.name_hint, params, attrs=attrs, pure=bool(function.is_pure), private=private
        ):
            for block in function.body.blocks:
                if isinstance(block, relax.DataflowBlock):
                    with self.builder.dataflow():
                        self._block(block, steps)
                else:
                    self._block(block, steps)
            last = next(steps)
            result = self.output(self.expression(last, (), last.value))
            self.builder.emit_func_output(result if isinstance(result, relax.Var) else self.builder.normalize(result))
        return self.builder.get()

    def _block(self, block: Any, steps: Any) -> None:
        for _ in block.bindings:
            step = next(steps)
            self.replaced[step.var] = self.after(step, self.bound(step))

    def bound(self, step: Step) -> Any:
        """The variable that is bound to the new form of a step, under its old name."""
        if isinstance(step.value, relax.Call):
            args = [self.expression(step, (number,), item) for number, item in enumerate(step.value.args)]
            value = self.call(step, args)
        else:
            value = self.expression(step, (), step.value)
        if step.cast is not None:
            return self.builder.match_cast(value, step.cast, step.var.name)
        value = self.builder.normalize(value)
        var = self.kind(step)(step.var.name, value.ty)
        self.builder.emit_normalized(relax.VarBinding(var, value))  # emit would give names anew
        return var

    def kind(self, step: Step) -> Any:
        """The class of a variable: whether it can be read outside of its block."""
        return type(step.var)


def with_attributes(attrs: Any, changed: dict[str, Any]) -> Any:
    """The attributes of a call, some of them changed."""
    if not changed:
        return attrs
    info = type(attrs).__tvm_ffi_type_info__
    return tvm.ir.make_node(
        info.type_key, **{field.name: getattr(attrs, field.name) for field in info.fields} | changed
    )


def constant_like(numbers: Any, constant: Any) -> Any:
    """A constant of other numbers in the element type of another one."""
    return relax.const(numbers, str(constant.ty.dtype))
