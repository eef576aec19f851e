"""What it takes to run an artifact: bytes on the disk, time to the first result, memory, calls at the same time.

    python benchmarks/loader.py [--models mobilenet_v2 resnet50] [--repeats 15]

Makes a virtual environment with pip (numpy and apache-tvm-ffi, from the package registry), collects the runtime folder,
and builds the C++ example with cmake.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Sequence
from importlib.metadata import distribution, version
from pathlib import Path

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


def sizes(runtime: Path, program: Path) -> list[list[str]]:
    """The table of sizes."""
    built = program.parent / "graphprune" / "libgraphprune.so"
    parts = [
        ("`libtvm_runtime.so`", size_of(runtime / "lib" / "libtvm_runtime.so")),
        ("`libtvm_ffi.so`", size_of(runtime / "lib" / "libtvm_ffi.so")),
        ("C and C++: `libgraphprune.so`", size_of(built)),
        ("C and C++: the example program", size_of(program)),
        ("Python: the loader", size_of(runtime / "python")),
        ("Python: apache-tvm-ffi", installed("apache-tvm-ffi")),
        ("Python: numpy", installed("numpy")),
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


def starts(
    paths: dict[str, Path], x: Path, python: Path, program: Path, variables: dict[str, str], repeats: int
) -> list:
    """The rows of start-up times: all programs take turns."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(1 + repeats):
        for name, path in paths.items():
            whole, printed = started([python, "-c", CALL, path, x], variables)
            seconds.setdefault((name, "load"), []).append(float(printed))
            seconds.setdefault((name, "python"), []).append(whole)
            seconds.setdefault((name, "c++"), []).append(started([program, path, x, 1], variables)[0])
    rows = []
    for name, path in paths.items():
        medians = [report.duration(statistics.median(seconds[name, kind][1:])) for kind in ("load", "python", "c++")]
        rows.append([name, report.size(size_of(path)), *medians])
    return rows


def resident(pids: Sequence[int]) -> list[int]:
    """The bytes of each process, pages that several of them share divided among them."""
    found = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:")))
    return found


def memory(path: Path, x: Path, python: Path, variables: dict[str, str]) -> list[str]:
    """Memory of processes that have loaded and called the artifact."""
    figures = []
    for count in (1, PROCESSES):
        command = [str(word) for word in (python, "-c", CALL, path, x, "stay")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": variables, "cwd": "/"}
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


def main() -> None:
    """Measure everything, print the tables and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    tables: dict[str, list[list[str]]] = {"starts": [], "memory": [], "serving": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runtime = folder / "runtime"
        collect(runtime)
        python, program = environment(folder / "venv"), example(folder / "build", runtime)
        variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(runtime / "python")}
        x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
        x.tofile(folder / "x.bin")
        for model in options.models:
            net, paths = randomise(torchvision_model(model)), {}
            for weights in KINDS:
                console.print(f"compiling {model}, {weights}")
                paths[f"{model}, {weights}"] = path = folder / f"{model}-{weights}.gp"
                artifact = graphprune.compile(net, example_inputs=torch.from_numpy(x), threads=1, weights=weights)
                artifact.save(path)
                del artifact
            tables["starts"] += starts(paths, folder / "x.bin", python, program, variables, options.repeats)
            tables["memory"] += [
                [name, *memory(path, folder / "x.bin", python, variables)] for name, path in paths.items()
            ]
            one, two = (graphprune.load(path, threads=threads) for threads in (1, 2))
            rates = [calls_per_second(one, x, callers) for callers in CALLERS] + [calls_per_second(two, x, 1)]
            tables["serving"].append([model, *(f"{rate:.1f}" for rate in rates)])
        parts = sizes(runtime, program)
        total = size_of(folder / "venv") + size_of(runtime / "lib") + size_of(runtime / "python")
    parts.insert(7, ["Python: the whole environment, pip included", report.size(total)])
    show("Sizes", SIZES, parts)
    for title, columns in (("starts", STARTS), ("memory", MEMORY), ("serving", SERVING)):
        show(title, columns, tables[title])
    print(json.dumps(tables), file=sys.stderr)
    more = [
        f"## {title}\n\n{text.strip()}\n\n{report.markdown(columns, tables[key]).strip()}"
        for title, key, columns, text in (
            ("Start", "starts", STARTS, START),
            ("Memory", "memory", MEMORY, SHARED),
            ("Calls at the same time", "serving", SERVING, AT_ONCE),
        )
    ]
    page(
        "loader",
        "What it takes to run an artifact",
        TEXT.format(machine(None, "apache-tvm")),
        (SIZES, parts),
        more=more,
    )


TEXT = """
Printed by `python benchmarks/loader.py`. {}.
"""
START = """
Medians of whole processes that start, load an artifact (whose checksums are verified), and call it once; the files
are in the page cache. *Python: load* is `graphprune.load` alone, without the start of Python and the import of numpy.
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

if __name__ == "__main__":
    main()
