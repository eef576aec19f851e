"""ONNX models from what a user gives, and back."""

from typing import Any

import onnx
import onnx_ir as ir


def read(origin: Any) -> ir.Model:
    """The model of a path, a ModelProto or an onnx_ir.Model."""
    if isinstance(origin, ir.Model):
        return origin
    if isinstance(origin, onnx.ModelProto):
        return ir.from_proto(origin)
    return ir.load(origin)


def give_back(model: ir.Model, origin: Any) -> Any:
    """The same kind of thing as was given; for a path a ModelProto."""
    return model if isinstance(origin, ir.Model) else ir.to_proto(model)
