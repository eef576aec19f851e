"""CUDA artifacts on a GPU: packed where there is none, checked and timed where there is one.

    python benchmarks/cuda_check.py --pack build/cuda_check       # here: artifacts, runtime libraries, networks, this
    script python cuda_check.py --run build/cuda_check                   # there: needs Python 3.10 or newer, and
    torch with CUDA

`--pack` leaves one archive, `build/cuda_check.tar.xz`, and the folder it is made from. `--run` takes either, installs
nothing, and prints a table (`--output FILE` writes it as Markdown): the largest error of every artifact against torch
in float64, and the median time of a call beside eager torch, `torch.compile`, TensorRT where `torch_tensorrt` is
installed, and a 2:4 sparse product of torch. All programs take turns, in one process, on the same input.
"""

import argparse
import importlib
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 64 * 2**20
NAMES = ("convolutional", "transformer")
ARCHITECTURES = ("sm_80", "sm_90")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
# The largest error that is still right, relative to the largest output: half numbers have 11 or 8 bits.
TOLERANCES = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
# For which Python the packages are carried that have compiled parts.
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
_ADVICE = "this needs a machine with an NVIDIA GPU, its driver, and torch with CUDA"


def main() -> None:
    """Pack or run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pack", type=Path, metavar="FOLDER")
    what.add_argument("--run", type=Path, metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=NAMES)
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--compile", default="max-autotune", choices=("none", "default", "max-autotune"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.pack:
        pack(options)
    else:
        run(options)


def pack(options: argparse.Namespace) -> None:
    """Compile everything into a folder and make an archive of it."""
    import torch

    import graphprune
    from cuda_models import build

    folder: Path = options.pack
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries = []
    for name in options.models:
        for batch in options.batch:
            dense, example = build(name, batch)
            # Channel counts that suit tensor cores, but in the small networks, which have hardly any channels.
            suits = {"multiple_of": 1} if name.startswith("tiny") else {"target": f"cuda-{_plain(options.arch[0])}"}
            slim = graphprune.optimize(dense, 0.4, example_inputs=example, budget="macs", **suits)
            for variant, model in (("dense", dense), ("slim", slim)):
                stem = f"{name}-{variant}-{batch}"
                torch.save(model, folder / f"{stem}.pt")
                for arch in options.arch:
                    for precision in options.precision:
                        artifact = graphprune.compile(
                            model,
                            target=f"cuda-{_plain(arch)}",
                            example_inputs=example,
                            precision=precision,
                            cuda_graph=True,
                        )
                        artifact.save(folder / f"{stem}-{arch}-{precision}.gp")
                        print(f"{stem} {arch} {precision}", flush=True)
                entries.append({"stem": stem, "name": name, "variant": variant, "batch": batch})
    (folder / "contents.json").write_text(
        json.dumps(
            {"entries": entries, "architectures": list(options.arch), "precisions": list(options.precision)}, indent=1
        )
    )
    _carry(folder)
    archive = folder.with_suffix(".tar.xz")
    with tarfile.open(archive, "w:xz", preset=1) as file:
        file.add(folder, arcname=folder.name)
    size = archive.stat().st_size
    print(f"{archive}: {size / 2**20:.1f} MB")
    if size > LIMIT:
        sys.exit(f"more than {LIMIT / 2**20:.0f} MB: pack fewer --models, --arch, --precision or --batch")


def _plain(arch: str) -> str:
    return arch.replace("_", "")


def _carry(folder: Path) -> None:
    """What runs artifacts, without a compiler: graphprune's own code, the runtime libraries, the script and the
    networks."""
    site = folder / "site"
    for name, source in (
        ("graphprune", ROOT / "graphprune"),
        ("passes", ROOT / "passes"),
        ("backends", ROOT / "backends"),
    ):
        place = site / "graphprune" / ("" if name == "graphprune" else name)
        shutil.copytree(
            source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "passes", "backends")
        )
    libraries = site / "tvm" / "lib"
    libraries.mkdir(parents=True)
    (site / "tvm" / "__init__.py").write_text('"""The runtime libraries of TVM, without its compiler."""\n')
    tvm = Path(next(iter(importlib.util.find_spec("tvm").submodule_search_locations)))
    for name in ("libtvm_runtime.so", "libtvm_runtime_cuda.so"):
        shutil.copy(tvm / "lib" / name, libraries)
    shutil.copy(Path(__file__), folder)
    shutil.copy(Path(__file__).with_name("cuda_models.py"), folder)
    from importlib.metadata import version

    wanted = [f"apache-tvm-ffi=={version('apache-tvm-ffi')}", f"nvidia-cuda-runtime=={version('nvidia-cuda-runtime')}"]
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as wheels:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", wheels]
            platforms = [
                f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "1")
            ]
            done = subprocess.run([*command, f"--python-version={python}", *platforms, *wanted], check=False)
            if done.returncode:
                sys.exit(f"no packages for Python {python}: pip says why above")
            for wheel in Path(wheels).glob("*.whl"):
                shutil.unpack_archive(wheel, folder / f"python{python}", "zip")


def run(options: argparse.Namespace) -> None:
    """Check and time everything that suits this machine's GPU."""
    try:
        import torch
    except ImportError:
        sys.exit(f"torch is not installed: {_ADVICE}")
    if not torch.cuda.is_available():
        sys.exit(f"torch finds no GPU: {_ADVICE}")
    with _opened(options.run) as folder:
        _enter(folder)
        contents = json.loads((folder / "contents.json").read_text())
        arch = _suitable(contents["architectures"], torch.cuda.get_device_capability())
        rows = [
            row
            for entry in contents["entries"]
            for row in _entry(folder, entry, arch, contents["precisions"], options.turns, options.compile)
        ]
        rows += _sparse(options.turns)
    text = _page(rows, torch.cuda.get_device_name(), arch)
    print(text)
    if options.output:
        options.output.write_text(text)
    if any(row["right"] is False for row in rows):
        sys.exit("some artifacts are not as exact as they should be: see the column 'error'")


def _opened(path: Path) -> Any:
    """The folder, or what is in the archive."""
    import contextlib

    @contextlib.contextmanager
    def opened() -> Iterator[Path]:
        if path.is_dir():
            yield path
            return
        with tempfile.TemporaryDirectory() as place:
            with tarfile.open(path) as file:
                file.extractall(place, filter="data")
            yield next(Path(place).iterdir())

    return opened()


def _enter(folder: Path) -> None:
    """Make what is carried importable, before anything of the same name that is installed."""
    own = folder / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not own.is_dir():
        sys.exit(f"packed for Python {', '.join(PYTHONS)}, not for this one")
    sys.path[:0] = [str(folder), str(folder / "site"), str(own)]


def _suitable(architectures: list[str], capability: tuple[int, int]) -> str:
    """The newest packed architecture whose machine code this GPU runs."""
    numbers = sorted((int(name.removeprefix("sm_")) for name in architectures), reverse=True)
    for number in numbers:
        if number // 10 == capability[0] and number % 10 <= capability[1]:
            return f"sm_{number}"
    major, minor = capability
    sys.exit(f"nothing was packed for compute capability {major}.{minor}: pack with --arch sm_{major}{minor}")


def _entry(
    folder: Path, entry: dict[str, Any], arch: str, precisions: list[str], turns: int, mode: str
) -> list[dict[str, Any]]:
    """The rows of one network: every artifact and every peer."""
    import torch

    from cuda_models import build
    from graphprune.backends.artifact import load

    _, example = build(entry["name"], entry["batch"])
    model = torch.load(folder / f"{entry['stem']}.pt", weights_only=False).eval()
    with torch.no_grad():
        exact = model.double()(example.double())
        model = model.float().cuda()
        data = example.cuda()
        calls: dict[tuple[str, str], Callable[[], Any]] = {}
        for precision in precisions:
            calls["graphprune", precision] = _bound(load(folder / f"{entry['stem']}-{arch}-{precision}.gp"), data)
        kinds = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        for precision, dtype in kinds.items():
            own, given, rounded = _copy(model).to(dtype), data.to(dtype), precision == "tf32"
            calls["torch", precision] = _torch(own, given, rounded)
            if mode != "none":
                compiled = torch.compile(_copy(own), mode=mode)
                calls["torch.compile", precision] = _torch(compiled, given, rounded)
            if rounded:
                continue
            tensorrt = _tensorrt(own, given, dtype)
            if tensorrt is not None:
                calls["TensorRT", precision] = _bound(tensorrt, given)
        results, failed = {}, {}
        for key, call in calls.items():
            try:
                results[key] = call().double().cpu()
            except Exception as error:  # a peer that does not run is a line of the table, not the end
                failed[key] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
        times = _times({key: calls[key] for key in results}, turns)
    rows = []
    for key in calls:
        error = None if key in failed else float((results[key] - exact).abs().max() / exact.abs().max())
        right = None if key[0] != "graphprune" else error is not None and error <= TOLERANCES[key[1]]
        rows.append({**entry, **_row(key, error, right, times.get(key), failed.get(key, ""))})
    return rows


def _row(
    key: tuple[str, str], error: float | None, right: bool | None, milliseconds: float | None, failed: str
) -> dict[str, Any]:
    """What is to be told of one program."""
    program, precision = key
    return {
        "program": program,
        "precision": precision,
        "error": error,
        "right": right,
        "milliseconds": milliseconds,
        "failed": failed,
    }


def _bound(program: Callable[[Any], Any], data: Any) -> Callable[[], Any]:
    return lambda: program(data)


def _torch(program: Callable[[Any], Any], data: Any, tf32: bool) -> Callable[[], Any]:
    """A call of torch in which float32 products are rounded to TensorFloat-32, or not."""
    import torch

    def call() -> Any:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        return program(data)

    return call


def _copy(model: Any) -> Any:
    import copy

    return copy.deepcopy(model)


def _tensorrt(model: Any, data: Any, dtype: Any) -> Any:
    """The model in TensorRT, or None where it is not installed."""
    try:
        import torch_tensorrt
    except ImportError:
        return None
    return torch_tensorrt.compile(model, inputs=[data], enabled_precisions={dtype})


def _times(calls: dict[Any, Callable[[], Any]], turns: int) -> dict[Any, float]:
    """Median milliseconds of each program; they take turns."""
    import torch

    found: dict[Any, list[float]] = {key: [] for key in calls}
    for turn in range(-5, turns):
        for key, call in calls.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            if turn >= 0:
                found[key].append(1e3 * (time.perf_counter() - start))
    return {key: statistics.median(values) for key, values in found.items()}


def _sparse(turns: int) -> list[dict[str, Any]]:
    """What a product gains from 2:4 sparsity in torch, as a reference for what hardware offers without removing
    channels."""
    import torch

    if torch.cuda.get_device_capability() < (8, 0):
        return []
    weight = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    weight *= torch.tensor([0, 0, 1, 1], device="cuda", dtype=torch.float16).repeat(4096, 1024)
    data = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    half = torch.randn(2048, 4096, device="cuda", dtype=torch.float16)
    rows = []
    try:
        sparse = torch.sparse.to_sparse_semi_structured(weight)
        calls = {
            "dense product": lambda: weight @ data,
            "2:4 sparse product": lambda: sparse @ data,
            "half of the rows": lambda: half @ data,
        }
        for name, milliseconds in _times(calls, turns).items():
            entry = {"stem": "4096x4096x4096", "name": "product", "variant": name, "batch": 1}
            rows.append({**entry, **_row(("torch", "fp16"), None, None, milliseconds, "")})
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        print(f"2:4 sparsity was not measured: {error}", file=sys.stderr)
    return rows


def _page(rows: list[dict[str, Any]], name: str, arch: str) -> str:
    """The table as Markdown."""
    import torch

    lines = [
        f"# CUDA artifacts on {name}",
        "",
        f"Machine code for {arch}; torch {torch.__version__}, CUDA {torch.version.cuda}; {date.today()}. Written by",
        "benchmarks/cuda_check.py: median times of a call with the input on the GPU, programs in turn; the error is",
        "relative to the largest output, against torch in float64. `slim` is pruned to 60 % of the multiply-adds.",
        "",
        "| network | batch | program | precision | error | time |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        error = "-" if row["error"] is None else f"{row['error']:.1e}"
        error += " **wrong**" if row["right"] is False else ""
        took = row["failed"] or f"{row['milliseconds']:.3f} ms"
        cells = [f"{row['name']}, {row['variant']}", str(row["batch"]), row["program"], row["precision"], error]
        lines.append(f"| {' | '.join(cells)} | {took} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
