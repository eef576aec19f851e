"""Named members in one file or in one folder, read and written without trust in what is there.

The file is a zip archive that any tool reads, of one single shape: members are stored, begin at multiples of 64 bytes
(so that weights can be used where they lie in a mapped file), and carry no dates. The reader knows what every byte
outside of the members must be, so an archive of another shape is refused: no duplicates, no links, no names with
folders, nothing compressed, nothing between the members.

```python
write_file("model.gp", {"manifest.json": b"{}", "library.so": code})
with opened("model.gp") as store:
    store.check()
    text = store.read("manifest.json")
```
"""

import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import FileFormatError, OptionError
from ..files import atomic_folder, atomic_path

Buffer = bytes | memoryview

ALIGNMENT = 64
ADVICE = "copy it again or compile the model again"

_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
# What every member has in common: the version of the format, no flags, not compressed, midnight of 1 January 1980.
_COMMON = (10, 0, 0, 0, 33)
_MADE_BY, _MODE = 3 << 8 | 20, (stat.S_IFREG | 0o644) << 16
# The field that Android's zipalign fills up headers with: its identifier, its length, the alignment, zeros.
_PADDING, _PADDING_ID = struct.Struct("<HHH"), 0xD935
# Sizes and places of a plain zip archive have 32 bits, and a directory of ours is short.
_LARGEST, _LONGEST_DIRECTORY = 2**32 - 1, 1 << 16


class _Entry(NamedTuple):
    """A member as the directory at the end of the archive describes it."""

    name: str
    size: int
    crc: int
    place: int


def write_file(path: "str | os.PathLike[str]", members: Mapping[str, Buffer]) -> None:
    """Write members to one file, whole or not at all. Raises `OptionError` for a path or a size that cannot be."""
    if Path(path).is_dir():
        raise OptionError(f"{path} is a folder: choose the name of a file, or save(path, folder=True)")
    if file_size({name: len(data) for name, data in members.items()}) > _LARGEST:
        raise OptionError("an artifact of more than 4 GB does not fit into one file: save(path, folder=True)")
    headers, tail = _frame([(name, len(data), zlib.crc32(data)) for name, data in members.items()])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for header, data in zip(headers, members.values(), strict=True):
            file.write(header)
            file.write(data)
        file.write(tail)
        _to_disk(file)


def write_folder(path: "str | os.PathLike[str]", members: Mapping[str, Buffer], known: Sequence[str]) -> None:
    """Write members to a folder, whole or not at all.

    It takes the place of a folder whose files all have `known` names; raises `OptionError` where something else is.
    """
    final = Path(path)
    if final.exists():
        others = sorted(set(os.listdir(final)) - set(known)) if final.is_dir() else [final.name]
        if others:
            raise OptionError(
                f"{path} holds other files ({', '.join(others[:3])}): choose another folder, or remove it"
            )
    with atomic_folder(final) as temporary:
        for name, data in members.items():
            with open(temporary / name, "wb") as file:
                file.write(data)
                _to_disk(file)


def file_size(sizes: Mapping[str, int]) -> int:
    """The bytes of a file with members of these sizes."""
    place, directory = 0, _END.size
    for name, size in sizes.items():
        place += _LOCAL.size + len(name)
        place += len(_padding(place)) + size
        directory += _CENTRAL.size + len(name)
    return place + directory


def is_cut(data: Buffer) -> bool:
    """Whether a file has become shorter than its mapping: reading what is gone would end the process."""
    mapping = getattr(data, "obj", None)
    return isinstance(mapping, mmap.mmap) and mapping.size() < len(mapping)


@contextmanager
def opened(path: "str | os.PathLike[str]") -> "Iterator[File | Folder]":
    """The members of a file or folder. Raises `FileNotFoundError`, `FileFormatError`, or other `OSError`s."""
    store = Folder(Path(path)) if Path(path).is_dir() else File(Path(path))
    try:
        yield store
    finally:
        store.close()


class File:
    """An archive that is open. `sizes` holds the sizes of its members by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for somebody to write
            raise FileFormatError(f"{path} is not an artifact: it is not a plain file")
        self._file = open(path, "rb")
        try:
            self._length = os.fstat(self._file.fileno()).st_size
            self._entries, self._tail = self._directory()
        except BaseException:
            self._file.close()
            raise
        self.sizes = {entry.name: entry.size for entry in self._entries}

    def close(self) -> None:
        """Close the file; what was read or mapped stays."""
        self._file.close()

    def read(self, name: str) -> bytes:
        """The content of a member."""
        entry = self._entry(name)
        return self._bytes(self._start(entry), entry.size)

    def map(self, name: str) -> memoryview:
        """A member in a private mapping, which may be written to: its pages are shared with all who read the file."""
        entry = self._entry(name)
        start = self._start(entry)
        mapping = mmap.mmap(self._file.fileno(), self._length, access=mmap.ACCESS_COPY)
        return memoryview(mapping)[start : start + entry.size]

    def check(self) -> None:
        """Raise `FileFormatError` unless every byte outside of the members is what `write_file` writes."""
        if self._length > _LARGEST or sum(self.sizes.values()) > self._length:
            raise self._damaged("its members do not fit")
        headers, tail = _frame([entry[:3] for entry in self._entries])
        place = 0
        for entry, header in zip(self._entries, headers, strict=True):
            if entry.place != place or self._bytes(place, len(header)) != header:
                raise self._damaged(f"the header of {entry.name} is not as it was written")
            place += len(header) + entry.size
        if tail != self._tail or place + len(tail) != self._length:
            raise self._damaged("its directory is not as it was written")

    def _directory(self) -> tuple[list[_Entry], bytes]:
        """What the end of the archive lists, and the bytes that list it; nothing is compared yet."""
        last = self._bytes(max(self._length - _END.size, 0), min(self._length, _END.size))
        if len(last) < _END.size or not last.startswith(_END_MARK):
            raise self._damaged("it does not end like one")
        *_, size, place, comment = _END.unpack(last)
        if comment or size > _LONGEST_DIRECTORY or place + size + _END.size != self._length:
            raise self._damaged("its directory does not fit")
        text, entries, at = self._bytes(place, size), [], 0
        while at < size:
            if size - at < _CENTRAL.size or text[at : at + 4] != _CENTRAL_MARK:
                raise self._damaged("its directory is broken")
            fields = _CENTRAL.unpack_from(text, at)
            name = text[at + _CENTRAL.size :][: fields[10]].decode("ascii", "backslashreplace")
            entries.append(_Entry(name, fields[9], fields[7], fields[-1]))
            at += _CENTRAL.size + sum(fields[10:13])
        return entries, text + last

    def _entry(self, name: str) -> _Entry:
        found = [entry for entry in self._entries if entry.name == name]
        if len(found) != 1:
            raise self._damaged(f"it has {len(found) or 'no'} members called {name}")
        return found[0]

    def _start(self, entry: _Entry) -> int:
        """Where the content of a member begins."""
        header = self._bytes(entry.place, _LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(_LOCAL_MARK):
            raise self._damaged(f"{entry.name} is not where it should be")
        start = entry.place + _LOCAL.size + int(sum(_LOCAL.unpack(header)[-2:]))
        if start + entry.size > self._length:
            raise self._damaged(f"{entry.name} is cut off")
        return start

    def _bytes(self, place: int, count: int) -> bytes:
        self._file.seek(place)
        return self._file.read(count)

    def _damaged(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.path} is not a complete artifact: {what}; {ADVICE}")


class Folder:
    """A folder that is open. `sizes` holds the sizes of its files by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Everything is reached through this handle: the folder may be replaced by another one meanwhile.
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sizes = {name: self._size(name) for name in sorted(os.listdir(self._handle))}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the folder; what was read or mapped stays."""
        os.close(self._handle)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self._open(name) as file:
            return file.read()

    def map(self, name: str) -> memoryview:
        """A file in a private mapping, which may be written to: its pages are shared with all who read it."""
        with self._open(name) as file:
            if not self.sizes[name]:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))

    def check(self) -> None:
        """Nothing lies between the files of a folder."""

    def _size(self, name: str) -> int:
        try:
            found = os.stat(name, dir_fd=self._handle, follow_symlinks=False)
        except OSError as error:
            raise self._unreadable(name, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise FileFormatError(f"{self.path} is not an artifact: {name!r} in it is not a plain file")
        return found.st_size

    def _open(self, name: str) -> IO[bytes]:
        try:
            return open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._handle), "rb")
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> FileFormatError:
        what = f"{name} cannot be read ({error.strerror})"
        return FileFormatError(f"{self.path} is not a complete artifact: {what}; {ADVICE}")


def _frame(members: Sequence[tuple[str, int, int]]) -> tuple[list[bytes], bytes]:
    """What stands before each member, and what stands behind the last, for (name, size, CRC) of each."""
    headers, directory, place = [], b"", 0
    for name, size, crc in members:
        text = name.encode("ascii", "backslashreplace")
        extra = _padding(place + _LOCAL.size + len(text))
        fields = (*_COMMON, crc, size, size, len(text))
        header = _LOCAL.pack(_LOCAL_MARK, *fields, len(extra)) + text + extra
        directory += _CENTRAL.pack(_CENTRAL_MARK, _MADE_BY, *fields, 0, 0, 0, 0, _MODE, place) + text
        headers.append(header)
        place += len(header) + size
    count = len(members)
    return headers, directory + _END.pack(_END_MARK, 0, 0, count, count, len(directory), place, 0)


def _padding(end: int) -> bytes:
    """What brings the end of a header to a multiple of the alignment."""
    missing = -end % ALIGNMENT
    if not missing:
        return b""
    if missing < _PADDING.size:
        missing += ALIGNMENT
    return _PADDING.pack(_PADDING_ID, missing - 4, ALIGNMENT) + bytes(missing - _PADDING.size)


def _to_disk(file: IO[bytes]) -> None:
    """A file that is renamed before its content is on the disk may be empty after a power failure."""
    file.flush()
    os.fsync(file.fileno())
