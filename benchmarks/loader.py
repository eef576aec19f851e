"""What it takes to run an artifact: bytes on the disk, time to the first result, memory, calls at the same time.

    python benchmarks/loader.py [--models mobilenet_v2 resnet50] [--repeats 15]

Makes a virtual environment with pip (numpy and apache-tvm-ffi, from the package registry), collects the runtime folder,
and builds the C++ example with cmake.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Sequence
from importlib.metadata import distribution, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import graphprune
from common import ROOT, console, machine, page, show, torchvision_model
from graphprune import report
from graphprune.backends.collecting import collect
from helpers import randomise

CALL = """
import sys, time
import numpy as np
import graphprune
start = time.perf_counter()
artifact = graphprune.load(sys.argv[1], threads=1)
loaded = time.perf_counter()
artifact(np.fromfile(sys.argv[2], np.float32).reshape(artifact.inputs[0].shape))
print(loaded - start)
if len(sys.argv) > 3:
    print(flush=True)
    sys.stdin.read()
"""
KINDS = ("embedded", "separate")
PROCESSES = 4
CALLERS = (1, 2, 4)
SIZES = ("part", "size")
STARTS = ("model, weights", "artifact", "Python: load", "Python: start to first result", "C++: start to first result")
MEMORY = ("model, weights", "one process", f"each of {PROCESSES} processes", f"{PROCESSES} processes together")
SERVING = ("model", *(f"{count} caller{'s' * (count > 1)}" for count in CALLERS), "1 caller, 2 threads")


def environment(folder: Path) -> Path:
    """The Python of a new virtual environment that holds what the loader needs."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    packages = [f"{name}=={version(name)}" for name in ("numpy", "apache-tvm-ffi")]
    subprocess.run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages], check=True)
    return python


def example(folder: Path, runtime: Path) -> Path:
    """The C++ example, built."""
    source = ROOT / "examples" / "cpp"
    subprocess.run(["cmake", "-S", source, "-B", folder, f"-DGRAPHPRUNE_RUNTIME={runtime}"], check=True, stdout=2)
    subprocess.run(["cmake", "--build", folder, "--parallel"], check=True, stdout=2)
    return folder / "classify"


def size_of(path: Path) -> int:
    """The bytes of a file or of everything in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def installed(name: str) -> int:
    """The bytes of an installed package."""
    found = distribution(name)
    files = [Path(str(found.locate_file(file))) for file in found.files or ()]
    return sum(file.stat().st_size for file in files if file.is_file())


def sizes(setting: "Setting") -> list[list[str]]:
    """The table of sizes."""
    runtime, program, whole = setting.runtime, setting.program, setting.python.parents[1]
    built = program.parent / "graphprune" / "libgraphprune.so"
    parts = [
        ("`libtvm_runtime.so`", size_of(runtime / "lib" / "libtvm_runtime.so")),
        ("`libtvm_ffi.so`", size_of(runtime / "lib" / "libtvm_ffi.so")),
        ("C and C++: `libgraphprune.so`", size_of(built)),
        ("C and C++: the example program", size_of(program)),
        ("Python: the loader", size_of(runtime / "python")),
        ("Python: apache-tvm-ffi", installed("apache-tvm-ffi")),
        ("Python: numpy", installed("numpy")),
        ("Python: the whole environment, pip included", size_of(runtime / "lib") + size_of(whole)),
        ("not needed: apache-tvm with its compiler", installed("apache-tvm")),
        ("not needed: torch", installed("torch")),
    ]
    return [[name, report.size(size)] for name, size in parts]


def started(command: Sequence[object], variables: dict[str, str]) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([str(word) for word in command], env=variables, cwd="/", capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start, done.stdout


def starts(paths: dict[str, Path], setting: "Setting", repeats: int) -> list[list[str]]:
    """The rows of start-up times: all programs take turns."""
    x, variables = setting.input, setting.variables
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(1 + repeats):
        for name, path in paths.items():
            whole, printed = started([setting.python, "-c", CALL, path, x], variables)
            seconds.setdefault((name, "load"), []).append(float(printed))
            seconds.setdefault((name, "python"), []).append(whole)
            seconds.setdefault((name, "c++"), []).append(started([setting.program, path, x, 1], variables)[0])
    rows = []
    for name, path in paths.items():
        least = [report.duration(min(seconds[name, kind])) for kind in ("load", "python", "c++")]
        rows.append([name, report.size(size_of(path)), *least])
    return rows


def resident(pids: Sequence[int]) -> list[int]:
    """The bytes of each process, pages that several of them share divided among them."""
    found = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:")))
    return found


def memory(path: Path, setting: "Setting") -> list[str]:
    """Memory of processes that have loaded and called the artifact."""
    figures = []
    for count in (1, PROCESSES):
        command = [str(word) for word in (setting.python, "-c", CALL, path, setting.input, "stay")]
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "text": True,
            "env": setting.variables,
            "cwd": "/",
        }
        running = [subprocess.Popen(command, **pipes) for _ in range(count)]
        for process in running:
            process.stdout.readline(), process.stdout.readline()
        figures.append(resident([process.pid for process in running]))
        for process in running:
            process.communicate()
    one, several = figures
    return [report.size(value) for value in (one[0], round(statistics.mean(several)), sum(several))]


def calls_per_second(artifact: Callable[..., object], x: np.ndarray, callers: int, seconds: float = 4.0) -> float:
    """How many calls so many threads get done."""
    done = [0] * callers
    stop = threading.Event()

    def work(index: int) -> None:
        artifact(x)
        barrier.wait()
        while not stop.is_set():
            artifact(x)
            done[index] += 1

    barrier = threading.Barrier(callers + 1)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(callers)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


class Setting(NamedTuple):
    """Where things are while they are measured."""

    folder: Path
    runtime: Path
    python: Path
    program: Path
    x: np.ndarray

    @property
    def input(self) -> Path:
        """The file of the input."""
        return self.folder / "x.bin"

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the programs."""
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.runtime / "python")}


def prepared(folder: Path) -> Setting:
    """The runtime folder, the environment, the example and the input."""
    runtime = folder / "runtime"
    collect(runtime)
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    x.tofile(folder / "x.bin")
    return Setting(folder, runtime, environment(folder / "venv"), example(folder / "build", runtime), x)


def measured(model: str, setting: Setting, repeats: int) -> list[list[list[str]]]:
    """The rows of a model: starts, memory, serving."""
    net, paths = randomise(torchvision_model(model)), {}
    for weights in KINDS:
        console.print(f"compiling {model}, {weights}")
        paths[f"{model}, {weights}"] = path = setting.folder / f"{model}-{weights}.gp"
        examples = torch.from_numpy(setting.x)
        graphprune.compile(net, example_inputs=examples, threads=1, weights=weights).save(path)
    one, two = (graphprune.load(path, threads=threads) for threads in (1, 2))
    rates = [calls_per_second(one, setting.x, callers) for callers in CALLERS] + [calls_per_second(two, setting.x, 1)]
    return [
        starts(paths, setting, repeats),
        [[name, *memory(path, setting)] for name, path in paths.items()],
        [[model, *(f"{rate:.1f}" for rate in rates)]],
    ]


def main() -> None:
    """Measure everything, print the tables and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        setting = prepared(Path(name))
        parts = sizes(setting)
        models = [measured(model, setting, options.repeats) for model in options.models]
    rows = [[row for tables in models for row in tables[index]] for index in range(len(TABLES))]
    show("Sizes", SIZES, parts)
    for (title, columns, _), table in zip(TABLES, rows, strict=True):
        show(title, columns, table)
    more = [
        f"## {title}\n\n{text.strip()}\n\n{report.markdown(columns, table).strip()}"
        for (title, columns, text), table in zip(TABLES, rows, strict=True)
    ]
    text = TEXT.format(machine(None, "apache-tvm"), load)
    page("loader", "What it takes to run an artifact", text, (SIZES, parts), more=more)


TEXT = """
Printed by `python benchmarks/loader.py`. {}. Load average before the measurement, to which other programs add: {:.1f}.
"""
START = """
The least times of many whole processes that start, load an artifact (whose checksums are verified), and call it once;
the files are in the page cache. *Python: load* is `graphprune.load` alone, without the start of Python and the
import of numpy.
"""
SHARED = """
Proportional set sizes (a page that several processes share counts once, divided among them) of Python processes that
have loaded the artifact and called it once. Separate weights are pages of the file: they are shared, and the system
may drop and read them again.
"""
AT_ONCE = """
Calls per second of one artifact with `threads=1` that several Python threads call at the same time, and with
`threads=2` called by one.
"""

TABLES = (
    ("Start", STARTS, START),
    ("Memory", MEMORY, SHARED),
    ("Calls at the same time", SERVING, AT_ONCE),
)


if __name__ == "__main__":
    main()
