"""A Relax function as a list of named steps, and names for its constants, which have none of their own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import ir, relax

from ...errors import UnsupportedModelError

Place = tuple[int, ...]
"""Where an operand stands: the number of the argument, and the position in it where that is a tuple."""

BIND = "bind its weights first: relax.transform.BindParams(function_name, params)(module)"

NUMBERS = ("int16", "int32", "int64", "uint16", "uint32", "uint64")
"""Types of whole numbers that hold positions and sizes; smaller ones hold quantised weights."""


class Step(NamedTuple):
    """One binding: its name, which is unique, its variable and what it is bound to; or what the function returns.

    `cast` is the type that is asserted where the binding does that.
    """

    name: str
    var: Any
    value: Any
    cast: Any = None


@dataclass(frozen=True, eq=False)
class Program:
    """A function of a module, in A-normal form. `leaves` names the stored tensor at every place where one is read.

    Constants have no names in Relax. They are called after the first step that reads them and the argument that they
    are: `lv3.weight`. A matrix that several steps read is one tensor; a vector is one per step, because exporters
    merge equal vectors of unrelated layers.
    """

    module: tvm.IRModule
    entry: Any
    function: relax.Function
    steps: tuple[Step, ...]
    leaves: Mapping[tuple[str, Place], str]
    constants: Mapping[str, Any]

    @classmethod
    def of(cls, module: tvm.IRModule) -> "Program":
        """Open a module. Raises `UnsupportedModelError` for what cannot be pruned as a whole."""
        entry = _entry(module)
        module = relax.transform.Normalize()(module)
        function = module[entry]
        _check_weights(function, entry.name_hint)
        steps = tuple(_steps(function, entry.name_hint))
        leaves: dict[tuple[str, Place], str] = {}
        constants: dict[str, Any] = {}
        shared: dict[int, str] = {}
        for step in steps:
            for place, label, constant in _constants(step):
                name = f"{step.name}.{label}" if label else step.name
                if not _is_vector(constant):
                    name = shared.setdefault(hash(constant), name)
                leaves[step.name, place] = name
                constants.setdefault(name, constant)
        return cls(module, entry, function, steps, leaves, constants)

    @cached_property
    def inputs(self) -> dict[str, relax.Var]:
        """The parameters of the function by name."""
        return {var.name: var for var in self.function.params}

    def weights(self, name: str) -> NDArray[Any]:
        """A stored tensor as numbers."""
        return numbers_of(self.constants[name])


def numbers_of(constant: Any) -> NDArray[Any]:
    """The numbers of a constant."""
    return np.asarray(constant.value.numpy())


def holds_channels(constant: Any) -> bool:
    """Whether a constant may be sliced: neither one number nor a list of positions."""
    return prod(constant.value.shape) > 1 and str(constant.ty.dtype) not in NUMBERS


def is_constant(expr: Any) -> bool:
    """Whether an expression is a stored tensor."""
    return isinstance(expr, ir.GenericConst) and isinstance(expr.ty, relax.TensorType)


def _is_vector(constant: Any) -> bool:
    return bool(max(constant.value.shape, default=1) == prod(constant.value.shape))


def _entry(module: tvm.IRModule) -> Any:
    """The function to prune: main, or the only one that can be called from outside."""
    functions = {var.name_hint: var for var, item in module.functions_items() if isinstance(item, relax.Function)}
    public = [name for name, var in functions.items() if "global_symbol" in (module[var].attrs or {})]
    if "main" in functions:
        return functions["main"]
    if len(public) != 1:
        found = ", ".join(sorted(public or functions)) or "none"
        raise UnsupportedModelError(
            f"the module has no Relax function called main, and not just one other that is public (found: {found}): "
            "call the one to prune main"
        )
    return functions[public[0]]


def _check_weights(function: relax.Function, name: str) -> None:
    """Refuse functions that take their weights as parameters: there are no numbers to choose by, nor to slice."""
    count = (function.attrs or {}).get("num_input")
    if count is not None and int(count) < len(function.params):
        raise UnsupportedModelError(
            f"function {name} takes {len(function.params) - int(count)} weights as parameters, the first of them "
            f"{function.params[int(count)].name}: {BIND}"
        )


def _steps(function: relax.Function, name: str) -> Iterator[Step]:
    used: set[str] = {var.name for var in function.params}
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, (relax.If, relax.Function)):
                kind = "a condition" if isinstance(value, relax.If) else "a function of its own"
                raise UnsupportedModelError(
                    f"{binding.var.name} in function {name} is {kind}, which cannot be followed: "
                    "prune the module before control flow is put in"
                )
            cast = binding.ty if isinstance(binding, relax.MatchCast) else None
            yield Step(_unused(binding.var.name, used), binding.var, value, cast)
    yield Step(_unused("output", used), None, function.body.body)


def _unused(name: str, used: set[str]) -> str:
    label, number = name, 0
    while label in used:
        number += 1
        label = f"{name}_{number}"
    used.add(label)
    return label


def _constants(step: Step) -> Iterator[tuple[Place, str, Any]]:
    """Every stored tensor that a step reads, with its place and what to call it."""
    if is_constant(step.value):
        if holds_channels(step.value):
            yield (), "", step.value
        return
    value = step.value
    call = isinstance(value, relax.Call)
    for number, item in enumerate(value.args if call else value.fields if isinstance(value, relax.Tuple) else ()):
        label = argument_name(value, number) if call else str(number)
        parts = list(enumerate(item.fields)) if isinstance(item, relax.Tuple) else []
        for position, part in parts:
            if is_constant(part) and holds_channels(part):
                yield (number, position), f"{label}.{position}", part
        if is_constant(item) and holds_channels(item):
            yield (number,), label, item


def argument_name(call: relax.Call, number: int) -> str:
    """What an operator calls one of its arguments."""
    known = call.op.arguments if isinstance(call.op, ir.Op) else None
    return str(known[number].name) if known is not None and number < len(known) else str(number)
