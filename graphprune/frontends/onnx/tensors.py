"""Are the tensors and types that an ONNX model holds sound? Their sizes are sane, and data has that many numbers."""

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnx import TensorProto

from ...errors import FileFormatError, UnsupportedModelError

_MOST = 2**40
"""Numbers in one tensor: more than any machine holds, and products of such sizes still fit into 64 bits."""

_DTYPES = set(TensorProto.DataType.values())

_FIELDS: dict[str, dict[int, int]] = {
    "float_data": {TensorProto.FLOAT: 1, TensorProto.COMPLEX64: 2},
    "double_data": {TensorProto.DOUBLE: 1, TensorProto.COMPLEX128: 2},
    "int64_data": {TensorProto.INT64: 1},
    "uint64_data": {TensorProto.UINT64: 1, TensorProto.UINT32: 1},
    "string_data": {TensorProto.STRING: 1},
}
"""Field of a TensorProto -> element types that may lie in it, and entries per number. int32_data has all others."""


def possible(sizes: Sequence[int]) -> bool:
    """Whether a tensor can have these sizes."""
    return all(size >= 0 for size in sizes) and math.prod(size for size in sizes if size) <= _MOST


def check_tensor(tensor: TensorProto, what: str) -> None:
    """The sizes of a stored tensor are sane, and its data has that many numbers."""
    if tensor.data_type not in _DTYPES or tensor.data_type == TensorProto.UNDEFINED:
        raise UnsupportedModelError(f"{what} is of unknown element type {tensor.data_type}: upgrade the onnx package")
    dtype = ir.DataType(tensor.data_type)
    if tensor.HasField("segment"):
        raise UnsupportedModelError(f"{what} is cut into segments, which is not handled: store it in one piece")
    if not possible(tensor.dims):
        raise FileFormatError(f"{what} has sizes {list(tensor.dims)}, which no tensor can have: export the model again")
    count = math.prod(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        _check_place(tensor, what)
        return
    if tensor.HasField("raw_data"):
        if dtype == ir.DataType.STRING:
            raise FileFormatError(f"{what} holds strings as raw bytes, which has no meaning: export the model again")
        found, needed, unit = len(tensor.raw_data), math.ceil(count * dtype.bitwidth / 8), "bytes"
    else:
        name, factor = _field_of(tensor)
        found, unit = len(getattr(tensor, name)), "numbers"
        needed = (
            math.ceil(count * dtype.bitwidth / 8)
            if name == "int32_data" and dtype.bitwidth in (2, 4)
            else count * factor
        )
    if found != needed:
        raise FileFormatError(
            f"{what} of sizes {list(tensor.dims)} and type {dtype.name} needs {needed} {unit}, but has {found}: "
            "the file is damaged, export the model again"
        )


def _field_of(tensor: TensorProto) -> tuple[str, int]:
    for name, kinds in _FIELDS.items():
        if tensor.data_type in kinds:
            return name, kinds[tensor.data_type]
    return "int32_data", 1


def _check_place(tensor: TensorProto, what: str) -> None:
    """Where a file is said to hold the data; the file itself is looked at later."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    if not place.get("location"):
        raise FileFormatError(f"{what} has its data in a file that is not named: save the model again")
    for key in ("offset", "length"):
        if key in place and not (place[key].isascii() and place[key].isdigit() and len(place[key]) < 20):
            raise FileFormatError(
                f"{what} has its data at {key} {place[key]!r}, which is no number: save the model again"
            )


def check_type(proto: Any, what: str) -> None:
    """The element type and sizes that are written of a value are sane."""
    kind = proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        inner = getattr(proto, kind)
        if inner.elem_type.WhichOneof("value") is None:
            raise FileFormatError(f"{what} is a {kind.removesuffix('_type')} of nothing: export the model again")
        check_type(inner.elem_type, what)
    elif kind in ("map_type", "opaque_type"):
        raise UnsupportedModelError(
            f"{what} is a {kind.removesuffix('_type')}, which is not handled: export the model without it (ZipMap)"
        )
    elif kind is not None:
        tensor = getattr(proto, kind)
        if tensor.elem_type not in _DTYPES:
            raise UnsupportedModelError(
                f"{what} is of unknown element type {tensor.elem_type}: upgrade the onnx package"
            )
        sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        if not possible([0 if size == -1 else size for size in sizes]):  # some exporters write -1 for an open axis
            raise FileFormatError(f"{what} has sizes {sizes}, which no tensor can have: export the model again")
