"""Collects what runs artifacts on a machine without PyTorch and without the compiler, into one folder.

lib/        libtvm_runtime.so, libtvm_ffi.so
python/     the loader: graphprune.load, for a Python with numpy and apache-tvm-ffi
include/    graphprune.h, and the headers of tvm_ffi that building the sources needs
src/        the C interface, with a CMakeLists.txt in the folder above
"""

import os
import shutil
from importlib.metadata import version
from pathlib import Path

import tvm_ffi.libinfo

import graphprune

from ..errors import OptionError
from ..files import atomic_folder
from .runtime import runtime_library

# What `graphprune.load` imports of this package.
_LOADER = (
    "__init__.py", "errors.py", "files.py", "backends/__init__.py", "backends/artifact.py", "backends/batches.py",
    "backends/bits.py", "backends/container.py", "backends/host.py", "backends/manifest.py", "backends/precision.py",
    "backends/processors.py",
    "backends/runtime.py", "backends/targets.py", "backends/weights.py",
)  # fmt: skip

_README = """# Runs artifacts of GraphPrune {version}

Python: `pip install numpy apache-tvm-ffi=={ffi}`, then

    PYTHONPATH=python python -c "import graphprune; print(graphprune.load('model.gp', threads=1))"

C and C++: add this folder to a CMake project, and link to `graphprune`; `include/graphprune.h` is the interface.

    add_subdirectory(path/to/this/folder graphprune)
    target_link_libraries(my_program graphprune)

`lib` must be found when the program starts (CMake writes its place into programs that it builds).
The libraries are those of Apache TVM; `licenses` holds its licence and notice.
"""


def cpp_folder() -> Path:
    """The folder with the sources of the C interface: `graphprune.h`, `*.cc`, `CMakeLists.txt`."""
    return Path(__file__).parent / "cpp"


def collect(out: "str | os.PathLike[str]") -> dict[str, int]:
    """Make the folder `out`; returns the bytes of its parts by name.

    Raises `OptionError` where there is something already, `TargetError` where a library is missing.
    """
    if os.path.lexists(out):
        raise OptionError(f"{out} exists: choose another folder, or remove it")
    with atomic_folder(out) as folder:
        _libraries(folder / "lib")
        _loader(folder / "python" / "graphprune")
        _sources(folder)
        (folder / "README.md").write_text(_README.format(version=graphprune.__version__, ffi=version("apache-tvm-ffi")))
    return {str(path.relative_to(out)): _size(path) for path in sorted(_parts(Path(out)))}


def _libraries(lib: Path) -> None:
    runtime, ffi = runtime_library(), Path(tvm_ffi.libinfo.find_libtvm_ffi())
    lib.mkdir()
    for path in (runtime, ffi):
        shutil.copy(path, lib / path.name)
    licences = lib.parent / "licenses"
    licences.mkdir()
    for path in (runtime.parents[1] / name for name in ("LICENSE", "NOTICE")):
        if path.exists():
            shutil.copy(path, licences / path.name)


def _loader(package: Path) -> None:
    homes = {"": Path(graphprune.__file__).parent, "backends": Path(__file__).parent}
    for name in _LOADER:
        folder, _, file = name.rpartition("/")
        (package / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(homes[folder] / file, package / name)


def _sources(folder: Path) -> None:
    include, src = folder / "include", folder / "src"
    headers = Path(tvm_ffi.libinfo.find_include_path()), Path(tvm_ffi.libinfo.find_dlpack_include_path())
    for root in dict.fromkeys(headers):
        for name in ("tvm", "dlpack"):
            if (root / name).is_dir():
                shutil.copytree(root / name, include / name, dirs_exist_ok=True)
    src.mkdir()
    for path in sorted(cpp_folder().iterdir()):
        place = {"graphprune.h": include, "CMakeLists.txt": folder}.get(path.name, src)
        shutil.copy(path, place / path.name)


def _parts(folder: Path) -> list[Path]:
    return [*folder.glob("lib/*"), folder / "python", folder / "include", folder / "src"]


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
