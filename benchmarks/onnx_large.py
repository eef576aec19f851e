"""Prune an ONNX model of 3 GB, stage by stage, and see how much memory it takes: writes docs/benchmarks/onnx_large.md.

python benchmarks/onnx_large.py --gigabytes 3 --folder /tmp
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from common import machine, page, show

WIDTH = 4096
LAYER = WIDTH * WIDTH * 4

TEXT = """Printed by `python benchmarks/onnx_large.py --gigabytes {gigabytes:g}`. {machine}.

A perceptron of {layers} layers, {width} wide, in float32: {size:.2f} GB of weights in one file beside the model, 64
MiB each, made and read one at a time. Half of its parameters go (l2, global). Every stage runs in a process of its
own; *peak* is the most memory that the process held (`VmHWM`); {base:.0f} MiB of it are Python and its libraries. The
slim model is held against the original with the dropped channels set to zero, layer by layer in float64 numpy: the
largest difference is {error:.1e} of the largest number."""


def make(folder: Path, layers: int) -> None:
    """Write the model layer by layer; one weight is in memory at a time."""
    nodes, stored, last = [], [], "x"
    with open(folder / "m.onnx.data", "wb") as file:
        for layer in range(layers):
            rng = np.random.default_rng(layer)
            array = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32)
            array *= rng.uniform(0.2, 1.8, WIDTH).astype(np.float32) / WIDTH**0.5
            weight = TensorProto(name=f"w{layer}", data_type=1, dims=array.shape, data_location="EXTERNAL")
            for key, value in (("location", file_name(file)), ("offset", file.tell()), ("length", array.nbytes)):
                weight.external_data.add(key=key, value=str(value))
            file.write(array.data)
            stored.append(weight)
            nodes.append(helper.make_node("MatMul", [last, weight.name], [f"h{layer}"], f"linear{layer}"))
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"], f"relu{layer}"))
            last = f"r{layer}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "perceptron", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())


def file_name(file: Any) -> str:
    """The name of an open file, without its folder."""
    return Path(file.name).name


def nothing(folder: Path) -> None:
    """Import what all stages need."""
    import graphprune
    from graphprune.frontends.onnx import files

    assert graphprune and files


def read(folder: Path) -> None:
    """Read the model; no weight is loaded."""
    from graphprune.frontends.onnx import files

    files.read(folder / "m.onnx")


def copy(folder: Path) -> None:
    """Read and save, unpruned."""
    from graphprune.frontends.onnx import files

    files.save(files.read(folder / "m.onnx"), folder / "copy.onnx")
    for path in folder.glob("copy.onnx*"):
        path.unlink()


def plan(folder: Path) -> None:
    """Analyse and plan."""
    import graphprune

    graphprune.analyze(folder / "m.onnx").plan(sparsity=0.5, criterion="l2").save(folder / "plan.json")


def apply(folder: Path) -> None:
    """Read, apply the plan, save."""
    import graphprune

    slim = graphprune.Plan.load(folder / "plan.json").apply(folder / "m.onnx")
    graphprune.save(slim, folder / "slim.onnx")


STAGES = {
    "import": nothing,
    "read": read,
    "read, save": copy,
    "analyse, plan": plan,
    "read, apply, save": apply,
}


def peak() -> float:
    """The most MiB that this process held; `ru_maxrss` would count those of the process that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def measured(stage: str, folder: Path) -> tuple[float, float]:
    """Seconds and MiB of a stage."""
    done = subprocess.run(
        [sys.executable, __file__, "--stage", stage, "--folder", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["peak"]


def compare(folder: Path) -> float:
    """The largest difference between the slim model and the masked original, relative to the largest number."""
    import onnx_ir as ir

    import graphprune

    kept = graphprune.Plan.load(folder / "plan.json").kept
    dense, slim = (ir.load(folder / name).graph.initializers for name in ("m.onnx", "slim.onnx"))
    one = other = np.random.default_rng(0).standard_normal((2, WIDTH))
    for name in dense:
        full, small = dense[name].const_value, slim[name].const_value
        mask = np.zeros(full.shape[1])
        mask[kept.get(name, {}).get(1, np.arange(WIDTH))] = 1
        one = np.maximum(one @ full.numpy() * mask, 0)
        other = np.maximum(other @ small.numpy(), 0)
        full.release()
        small.release()
    assert np.abs(one).max() > 0, "nothing arrives at the output"
    return float(np.abs(one - other).max() / np.abs(one).max())


def main() -> None:
    """Make the model, run every stage, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--stage", choices=STAGES)
    arguments = parser.parse_args()
    if arguments.stage:
        start = time.perf_counter()
        STAGES[arguments.stage](arguments.folder)
        print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak()}))
        return
    layers = round(arguments.gigabytes * 1e9 / LAYER)
    if shutil.disk_usage(arguments.folder).free < 3 * layers * LAYER:
        raise SystemExit(f"{arguments.folder} has no room for {3 * layers * LAYER / 1e9:.0f} GB")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make(folder, layers)
        found = {stage: measured(stage, folder) for stage in STAGES}
        before, after = ((folder / f"{name}.onnx.data").stat().st_size / 1e9 for name in ("m", "slim"))
        error = compare(folder)
        onnx.checker.check_model(folder / "slim.onnx", full_check=True)
    rows = [(stage, f"{seconds:.1f} s", f"{peak:,.0f} MiB") for stage, (seconds, peak) in found.items()]
    rows.append(("weights before, after", f"{before:.2f} GB", f"{after:.2f} GB"))
    text = TEXT.format(
        gigabytes=arguments.gigabytes,
        machine=machine(1, "onnx", "onnx-ir"),
        layers=layers,
        width=WIDTH,
        size=before,
        base=found["import"][1],
        error=error,
    )
    columns = ("stage", "time", "peak")
    show("An ONNX model of 3 GB", columns, rows)
    page("onnx_large", "A large ONNX model", text, (columns, rows))


if __name__ == "__main__":
    main()
