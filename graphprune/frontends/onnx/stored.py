"""Weights that lie in files beside an ONNX model: found safely, read one tensor at a time.

Nothing outside of the model's folder is opened, whatever the model says. Nothing stays open or mapped: a tensor is
read when it is asked for, and its memory is freed with the array. A file that changed in between is refused, so that
nobody reads new bytes at old offsets.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import FileFormatError

ORIGIN = "graphprune.origin"
"""Key of a graph's `meta`: the Origin of a model."""

_MOVE_IN = "put the file itself (no link) into the folder of the model"


@dataclass(frozen=True)
class DataFile:
    """A file with weights, as it was when the model was read; `identity` is device, inode, size and time of change."""

    path: Path
    identity: tuple[int, int, int, int]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.identity[2]

    def read(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Bytes of the file; an error where it is no longer the file that it was."""
        buffer = np.empty(length, dtype=np.uint8)
        try:
            with open(self.path, "rb", buffering=0) as file:
                same = _identity(os.fstat(file.fileno())) == self.identity
                file.seek(offset)
                done = 0
                while same and done < length:
                    count = file.readinto(buffer.data[done:])
                    same, done = bool(count), done + (count or 0)
        except OSError as error:
            raise FileFormatError(f"weights in {self.path} cannot be read: {error.strerror or error}") from error
        if not same:
            raise FileFormatError(f"{self.path} has changed since the model was read: read the model again")
        return buffer


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass
class Folder:
    """The folder of a model: the one place that its weights may lie in. `files` are those found so far, by location."""

    path: Path
    files: dict[str, DataFile] = field(default_factory=dict)

    def find(self, location: str, owner: str) -> DataFile:
        """The file at a location that a model names; `owner` is the tensor, for errors."""
        if location not in self.files:
            self.files[location] = self._look_up(location, f"tensor {owner!r} has its data at {location!r}")
        return self.files[location]

    def _look_up(self, location: str, what: str) -> DataFile:
        parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
        if not location or "\0" in location:
            raise FileFormatError(f"{what}, which is no name of a file: save the model again")
        if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor or ".." in parts:
            raise FileFormatError(f"{what}, outside of the folder of the model: {_MOVE_IN}, and save it with that name")
        try:
            target = (self.path / location).resolve(strict=True)
            if not target.is_relative_to(self.path.resolve()):
                raise FileFormatError(f"{what}, a link to {target}, outside of the folder of the model: {_MOVE_IN}")
            status = target.stat()
        except FileNotFoundError:
            raise FileFormatError(f"{what}, but {self.path} has no such file: {_MOVE_IN}") from None
        except (OSError, RuntimeError, ValueError) as error:  # loops of links, names that are too long
            raise FileFormatError(f"{what}, which cannot be opened: {error}") from error
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError(f"{what}, which is a folder or a device, not a file with weights: {_MOVE_IN}")
        return DataFile(target, _identity(status))


def stored_tensor(tensor: ir.ExternalTensor, folder: Folder) -> ir.LazyTensor:
    """The tensor, read from its file whenever it is asked for; its place in the file is checked now."""
    name, shape, dtype = tensor.name or "", ir.Shape(tensor.shape), tensor.dtype
    file = folder.find(os.fspath(tensor.location), name)
    offset, length, needed = tensor.offset or 0, tensor.length, tensor.nbytes
    if dtype == ir.DataType.STRING:
        raise FileFormatError(f"tensor {name!r} holds strings, which cannot lie in {file.path.name}")
    if length is not None and length != needed:
        raise FileFormatError(
            f"tensor {name!r} of shape {list(shape)} needs {needed} bytes, but {length} are named in {file.path.name}"
        )
    if offset + needed > file.size:
        raise FileFormatError(
            f"tensor {name!r} lies at bytes {offset} to {offset + needed} of {file.path.name}, which has only "
            f"{file.size}: the file is cut off or belongs to another model"
        )

    def load() -> ir.TensorProtocol:
        array = file.read(offset, needed)
        if dtype.bitwidth < 8:
            return ir.PackedTensor(array, dtype, shape=shape, name=name)
        return ir.Tensor(array.view(dtype.numpy().newbyteorder("<")).reshape(shape.numpy()), dtype=dtype, name=name)

    return ir.LazyTensor(
        load, dtype, shape, name=name, doc_string=tensor.doc_string, metadata_props=dict(tensor.metadata_props)
    )


@dataclass(frozen=True)
class Origin:
    """Where a model was read from: its own file (None for models in memory), and the files that hold its weights."""

    path: Path | None
    files: frozenset[Path]
