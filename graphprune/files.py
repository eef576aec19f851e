"""Files and folders appear whole or not at all."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: "str | os.PathLike[str]") -> Iterator[Path]:
    """Yield a temporary path in the same folder; move it to `path` when the block succeeds.

    On any error (Ctrl-C included) the temporary file is removed and `path` is left as it was.

    ```python
    with atomic_path("plan.json") as tmp:
        tmp.write_text("{}")
    ```
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.", suffix=".tmp")
    os.close(handle)
    tmp = Path(name)
    try:
        yield tmp
        tmp.chmod(0o666 & ~_umask())
        os.replace(tmp, final)
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: "str | os.PathLike[str]") -> Iterator[Path]:
    """Yield a temporary folder beside `path`; put it in the place of `path` when the block succeeds.

    What `path` held before, a file or a folder with all that is in it, is gone then. On any error (Ctrl-C included) the
    temporary folder is removed and `path` is left as it was.

    ```python
    with atomic_folder("model") as tmp:
        (tmp / "manifest.json").write_text("{}")
    ```
    """
    final = Path(os.path.realpath(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".tmp"))
    try:
        yield tmp
        tmp.chmod(0o777 & ~_umask())
        if final.exists():
            _exchange(tmp, final)
        else:
            os.rename(tmp, final)
    finally:
        if tmp.is_dir():
            shutil.rmtree(tmp)
        else:
            tmp.unlink(missing_ok=True)


@contextmanager
def atomic_files(folder: "str | os.PathLike[str]", *stale: str, last: str) -> Iterator[Path]:
    """Yield a temporary folder; put its files into `folder` when the block succeeds, in the place of those there.

    Files of `folder` that match a pattern of `stale` go, others stay. On any error (Ctrl-C included) `folder` is left
    as it was. `last` names the file without which the others are not read: it goes first and comes last.

    ```python
    with atomic_files("model", "*.safetensors", last="config.json") as tmp:
        (tmp / "config.json").write_text("{}")
    ```
    """
    final = Path(folder)
    existed = final.is_dir()
    final.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(dir=final, prefix=".", suffix=".tmp"))
    aside = Path(tempfile.mkdtemp(dir=final, prefix=".", suffix=".old"))
    moved: list[tuple[Path, Path]] = []
    try:
        yield tmp
        new = sorted(tmp.iterdir(), key=lambda path: (path.name == last, path.name))
        names = {path.name for path in new} | {path.name for pattern in (*stale, last) for path in final.glob(pattern)}
        old = sorted((final / name for name in names), key=lambda path: (path.name != last, path.name))
        steps = [(path, aside / path.name) for path in old if path.exists()]
        for source, place in [*steps, *((path, final / path.name) for path in new)]:
            moved.append((source, place))
            os.replace(source, place)
    except BaseException:
        for source, place in reversed(moved):
            if place.exists():
                os.replace(place, source)
        raise
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
        if not existed and not any(final.iterdir()):
            final.rmdir()


_CURRENT_FOLDER, _EXCHANGE = -100, 2


def _exchange(new: Path, old: Path) -> None:
    """Let two paths change places: in one step where the system can, else there is a moment without the old one."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(new), os.fsencode(old)
    if swap is not None and swap(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _EXCHANGE) == 0:
        return
    aside = new.with_suffix(".old")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    os.rename(aside, new)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
