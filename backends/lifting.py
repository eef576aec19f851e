"""Takes the weights out of a compiled module: large constants of its functions become parameters.

```python
lifting = Lifting()
module = pipeline(target, before_runtime=(lifting.as_pass(),))(module)
lifting.tensors, lifting.functions  # the weights, and which of them each function takes after its inputs
```
"""

import hashlib
from typing import Any

import numpy as np
import tvm
from tvm import relax

from .rewriting import Rewriter, is_straight

# Less than a page is not worth a parameter of its own.
_SMALLEST = 4096
# What both numpy and the runtime know by the same name; other constants stay with the code.
_KINDS = frozenset(
    f"{kind}{bits}" for kind, sizes in (("float", (16, 32, 64)), ("int", (8, 16, 32, 64)), ("uint", (8, 16, 32, 64)))
    for bits in sizes
)  # fmt: skip


class Lifting:
    """The weights of a module, found by the pass that takes them out; equal ones are kept once."""

    def __init__(self) -> None:
        self.tensors: list[np.ndarray] = []
        self.functions: dict[str, list[int]] = {}
        self._known: dict[tuple[Any, ...], int] = {}

    def as_pass(self) -> tvm.transform.Pass:
        """A pass over scheduled kernels: functions take their large constants as parameters, after their inputs."""

        @tvm.transform.module_pass(opt_level=0, name="graphprune.LiftWeights")
        def lift(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
            # Modules are not ordered; the file should be.
            for name in sorted(module.get_global_vars(), key=lambda variable: variable.name_hint):
                function = module[name]
                if isinstance(function, relax.Function) and is_straight(function):
                    module = self._lift(module, name, function)
            return module

        return lift

    def _lift(self, module: tvm.IRModule, name: tvm.ir.GlobalVar, function: relax.Function) -> tvm.IRModule:
        indices: list[int] = []
        for constant in _large_constants(function):
            index = self._index(constant.value.numpy())
            if index not in indices:
                indices.append(index)
        if not indices:
            return module
        self.functions[name.name_hint] = indices
        parameters = {index: _parameter(index, self.tensors[index]) for index in indices}
        everything = [*function.params, *parameters.values()]
        wider = relax.Function(everything, function.body, function.ret_ty, function.is_pure, function.attrs)
        rewriter = _Replacing(tvm.IRModule({**dict(module.functions_items()), name: wider}, attrs=module.attrs), wider)
        rewriter.parameter_of = lambda constant: parameters[self._index(constant.value.numpy())]
        return rewriter.run(name)

    def _index(self, tensor: np.ndarray) -> int:
        """The place of a tensor among all of them."""
        key = (tensor.shape, str(tensor.dtype), hashlib.sha256(np.ascontiguousarray(tensor)).digest())
        if key not in self._known:
            self._known[key] = len(self.tensors)
            self.tensors.append(tensor)
        return self._known[key]


def _parameter(index: int, tensor: np.ndarray) -> relax.Var:
    return relax.Var(f"weight{index}", relax.TensorType(tensor.shape, str(tensor.dtype)))


class _Replacing(Rewriter):
    """Puts parameters into calls where constants were. What a function returns stays a constant."""

    parameter_of: Any

    def copy(self, value: relax.Expr) -> relax.Expr:
        if not isinstance(value, relax.Call):
            return super().copy(value)
        arguments = [self._argument(argument) for argument in value.args]
        return relax.Call(value.op, arguments, value.attrs, value.ty_args)

    def _argument(self, expr: relax.Expr) -> relax.Expr:
        if _is_large(expr):
            return self.parameter_of(expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._argument(item) for item in expr.fields])
        return self.expression(expr)


def _large_constants(function: relax.Function) -> list[tvm.ir.GenericConst]:
    """The large constants among the arguments of all calls, in order."""
    found: list[tvm.ir.GenericConst] = []

    def look(expr: relax.Expr) -> None:
        if _is_large(expr):
            found.append(expr)
        elif isinstance(expr, relax.Tuple):
            for item in expr.fields:
                look(item)

    for block in function.body.blocks:
        for binding in block.bindings:
            for argument in binding.value.args if isinstance(binding.value, relax.Call) else ():
                look(argument)
    return found


def _is_large(expr: relax.Expr) -> bool:
    if not isinstance(expr, tvm.ir.GenericConst) or not isinstance(expr.ty, relax.TensorType):
        return False
    return str(expr.value.dtype) in _KINDS and expr.value.numpy().nbytes >= _SMALLEST
