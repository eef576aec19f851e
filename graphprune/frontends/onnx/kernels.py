"""What ONNX Runtime can run: its own table of kernels and operator schemas, asked instead of listed by hand."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import onnx_ir as ir
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

REFUSING = {("", "LSTM"), ("", "GRU")}
"""Registered for float64, but their kernels refuse it when they run."""

_NAMES = {"tensor(float)": ir.DataType.FLOAT, "tensor(double)": ir.DataType.DOUBLE}


def type_name(dtype: ir.DataType) -> str:
    """ONNX's name of the type of a tensor, such as "tensor(double)"."""
    return {value: key for key, value in _NAMES.items()}.get(dtype, f"tensor({dtype.name.lower()})")


@cache
def _concrete() -> dict[str, ir.DataType]:
    return {type_name(dtype): dtype for dtype in ir.DataType}


def dtype_named(name: str) -> ir.DataType | None:
    """The dtype of a concrete tensor type; None for a type variable such as "T"."""
    return _concrete().get(name)


@cache
def _schemas() -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in sorted(runtime.get_all_operator_schema(), key=lambda schema: schema.since_version):
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


@cache
def _kernels() -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = {}
    for kernel in runtime.get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            found.setdefault((kernel.domain, kernel.op_name), []).append(
                (tuple(kernel.version_range), {key: frozenset(names) for key, names in kernel.type_constraints.items()})
            )
    return found


class Signature:
    """The types of one operator at one opset: formal inputs and outputs as (name, type or type variable)."""

    def __init__(self, schema: Any) -> None:
        self.domain, self.op, self.since = schema.domain, schema.name, schema.since_version
        self.inputs = [(one.name, one.typeStr) for one in schema.inputs]
        self.outputs = [(one.name, one.typeStr) for one in schema.outputs]
        self.allowed = {one.type_param_str: frozenset(one.allowed_type_strs) for one in schema.type_constraints}

    def kind(self, name: str) -> str:
        """What a type (variable) stands for: "tensor", "seq", "optional", or "any" of several."""
        kinds = {text.partition("(")[0] for text in self.allowed.get(name, (name,))}
        return kinds.pop() if len(kinds) == 1 else "tensor" if "tensor" in kinds else "any"

    @staticmethod
    def formal(formals: list[tuple[str, str]], position: int) -> tuple[str, str]:
        """The formal parameter at a position; the last one repeats."""
        return formals[min(position, len(formals) - 1)] if formals else ("", "")

    def runs(self, types: Mapping[str, ir.DataType]) -> bool:
        """Whether there is a kernel for these types of the type variables; those not given may be anything."""
        if (self.domain, self.op) in REFUSING and ir.DataType.DOUBLE in types.values():
            return False
        if any(type_name(types[name]) not in allowed for name, allowed in self.allowed.items() if name in types):
            return False
        names = {formal: variable for formal, variable in (*self.inputs, *self.outputs)}
        for (first, last), allowed in _kernels().get((self.domain, self.op), []):
            if first <= self.since <= last and all(
                names.get(key, key) not in types or type_name(types[names.get(key, key)]) in options
                for key, options in allowed.items()
            ):
                return True
        return False


@cache
def signature(domain: str, op: str, opset: int) -> Signature | None:
    """The signature of an operator in the newest version that an opset has; None where ONNX Runtime lacks it."""
    fitting = [schema for schema in _schemas().get((domain, op), []) if schema.since_version <= opset]
    return Signature(fitting[-1]) if fitting else None
