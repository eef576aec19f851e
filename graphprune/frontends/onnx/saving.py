"""Write ONNX models to files, whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import Error

from ...errors import FileFormatError
from ...files import atomic_path
from .checks import graphs_of
from .messages import stub, to_proto, weight
from .stored import ORIGIN, Origin

LIMIT = 2_000_000_000
"""Bytes of weights that fit into one protobuf message of 2 GiB, with room for the program."""

BESIDE = 256_000_000
"""Bytes of weights that are put into one message although they lay in files beside the model."""

_SMALL = 1024
"""Tensors of fewer bytes stay in the model's file."""


def save(model: "onnx.ModelProto | ir.Model", path: "str | os.PathLike[str]") -> None:
    """Write a model to a file, whole or not at all.

    Weights go into one file beside it, `<name>.onnx.data`, where they are above 2 GB or lay in such files before; they
    are written one at a time, so that lazy ones need no more memory than the largest of them.

    ```python
    save(read("model.onnx"), "copy.onnx")
    ```
    """
    path = Path(path)
    if path.is_dir():
        raise FileFormatError(f"{path} is a folder: name the file to write, such as {path / 'model.onnx'}")
    if isinstance(model, onnx.ModelProto):
        for tensor in (tensor for graph in graphs_of(model) for tensor in graph.initializer):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise FileFormatError(f"initializer {tensor.name!r} is not loaded: load the model with its weights")
        try:
            data = model.SerializeToString()
        except (Error, ValueError):  # above 2 GB
            model = ir.from_proto(model)
        else:
            _write(data, path)
            return
    origin = model.graph.meta.get(ORIGIN, Origin(None, frozenset()))
    if origin.files or weight(model) > LIMIT:
        _save_apart(model, path, origin)
    else:
        _write(to_proto(model).SerializeToString(), path)


def _write(data: bytes, path: Path) -> None:
    with atomic_path(path) as tmp:
        tmp.write_bytes(data)


def _save_apart(model: ir.Model, path: Path, origin: Origin) -> None:
    """Both files are written under other names, and moved one after the other when both are whole."""
    beside = path.with_name(f"{path.name}.data")
    for target in (path, beside):
        if target.is_dir():
            raise FileFormatError(f"{target} is a folder: choose another name for the model")
        if target.resolve() in origin.files and path.resolve() != origin.path:
            raise FileFormatError(f"{target} holds weights of the model that is being read: choose another name")
    with _put_back(beside), atomic_path(path) as program, atomic_path(beside) as data:
        stubs = _write_tensors(model, data, beside.name)
        program.write_bytes(to_proto(model, stubs).SerializeToString())


@contextmanager
def _put_back(path: Path) -> Iterator[None]:
    """Where the block fails, the file is what it was before: a model must not meet the weights of another."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    existed = path.exists()
    with suppress(OSError):  # file systems without links: nothing to put back
        os.link(path, old)
    try:
        yield
    except BaseException:
        if old.exists():
            os.replace(old, path)
        elif not existed:
            path.unlink(missing_ok=True)
        raise
    finally:
        old.unlink(missing_ok=True)


def _write_tensors(model: ir.Model, file: Path, location: str) -> dict[ir.Value, ir.ExternalTensor]:
    """Write large initializers one by one; what stands in for them in the model's file."""
    stubs = {}
    with open(file, "wb") as out:
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor: Any = value.const_value
                if tensor is None or tensor.nbytes < _SMALL or tensor.dtype == ir.DataType.STRING:
                    continue
                out.seek(-out.tell() % 64, os.SEEK_CUR)  # runtimes map the file and read numbers in place
                offset = out.tell()
                tensor.tofile(out)
                if out.tell() - offset != tensor.nbytes:
                    raise FileFormatError(
                        f"tensor {value.name!r} gave {out.tell() - offset} bytes, not {tensor.nbytes}"
                    )
                stubs[value] = stub(value, location, offset)
    return stubs
