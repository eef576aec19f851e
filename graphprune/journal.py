"""A file of JSON lines that only grows: whoever is stopped loses the line that is being written, and no other."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import FileFormatError, SweepError

Line = dict[str, Any]


def read(path: "str | os.PathLike[str]") -> list[Line]:
    """The lines of a journal; a last one that was torn while it was written is passed over.

    Raises `FileFormatError` for a missing file, and for one with a damaged line before the last.
    """
    try:
        return _parsed(Path(path).read_bytes(), path)[0]
    except OSError as error:
        raise FileFormatError(f"{os.fspath(path)} cannot be read: {error}") from error


@contextmanager
def writing(path: "str | os.PathLike[str]") -> "Iterator[tuple[list[Line], Callable[[Line], None]]]":
    """Yield the lines that are there and a function that appends one, which is on the disk when it returns.

    One process at a time may write. A torn last line is taken away first; a file to which nothing was written is not
    left behind. Raises `SweepError` where another process writes, and what `read` raises.

    ```python
    from graphprune.journal import writing

    with writing("results.jsonl") as (lines, append):
        append({"number": len(lines)})
    ```
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        _lock(handle, file)
        text = file.read_bytes()
        lines, whole = _parsed(text, file)
        os.ftruncate(handle, whole)
        if whole and not text[:whole].endswith(b"\n"):
            _write(handle, b"\n")

        def append(line: Line) -> None:
            _write(handle, (json.dumps(line) + "\n").encode())

        yield lines, append
    finally:
        if os.fstat(handle).st_size == 0:
            file.unlink(missing_ok=True)
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SweepError(f"another process writes to {path}: wait for it, or give this one another file") from error


def _write(handle: int, data: bytes) -> None:
    os.write(handle, data)  # one call: a line is never mixed with another
    os.fsync(handle)


def _parsed(text: bytes, path: "str | os.PathLike[str]") -> tuple[list[Line], int]:
    """All lines, and the number of bytes up to where a torn last one begins."""
    lines, place = list[Line](), 0
    for number, raw in enumerate(text.splitlines(keepends=True), start=1):
        try:
            line = json.loads(raw)
            if not isinstance(line, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            if place + len(raw) == len(text) and not raw.endswith(b"\n"):
                break
            raise FileFormatError(
                f"{os.fspath(path)}, line {number}: {error}. It is no file of results, or it is damaged: take that "
                "line away, or give another file"
            ) from error
        lines.append(line)
        place += len(raw)
    return lines, place
