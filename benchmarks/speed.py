"""Analysis and pruning time against Torch-Pruning, in processor seconds on one thread.

    python benchmarks/speed.py [--repeats 5] [--models resnet50 ...]

Both take turns in the same process, a process per model; medians.
"""

import argparse
import copy
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import graphprune
from common import console, machine, page, show, torchvision_model
from graphprune.timing import alternate

MODELS = ("resnet50", "densenet121", "mobilenet_v3_large", "vit_b_16")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ANALYSIS = ("model", "groups", "analyze", "Torch-Pruning graph", "groups / graph", "analyze / graph")
PRUNING = ("model", "optimize", "Torch-Pruning prune", "ratio", "with verify", "memory / weights")


def torch_pruning_graph(model: Any, example: Any) -> None:
    """Build Torch-Pruning's dependency graph."""
    import torch_pruning

    torch_pruning.DependencyGraph().build_dependency(model, example)


def torch_pruning_prune(model: Any, example: Any) -> None:
    """Prune half of all channels in place, the last classifier kept."""
    import torch
    import torch_pruning

    layers = list(model.modules())
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        global_pruning=True,
        ignored_layers=[layer for layer in layers if isinstance(layer, torch.nn.Linear)][-1:],
        num_heads={layer: layer.num_heads for layer in layers if isinstance(layer, torch.nn.MultiheadAttention)},
    )
    pruner.step()


def measure(name: str, repeats: int) -> dict[str, float]:
    """All figures of one model, in this process."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Torch-Pruning's, about parameters outside layers
    model, example = torchvision_model(name), torch.randn(1, 3, 224, 224)
    groups: list[float] = []

    def analyze(model: Any, example: Any) -> None:
        groups.append(graphprune.analyze(model, example_inputs=example).seconds["labels"])

    def optimize(verify: bool) -> Callable[..., object]:
        return lambda model, example: graphprune.optimize(model, sparsity=0.5, example_inputs=example, verify=verify)

    clock, seconds = time.process_time, {"memory": memory(model, example)}
    calls = {"analyze": analyze, "graph": torch_pruning_graph}
    seconds |= alternate(calls, 3 * repeats, 2, clock, lambda: _clean(model, example))
    seconds["groups"] = median(groups[2:])
    calls = {"optimize": optimize(False), "prune": torch_pruning_prune, "verify": optimize(True)}
    return seconds | alternate(calls, repeats, 1, clock, lambda: _clean(copy.deepcopy(model), example))


def _clean(*arguments: Any) -> tuple[Any, ...]:
    """The arguments, after collecting the garbage that the other tool left: it is not this one's work."""
    gc.collect()
    return arguments


def memory(model: Any, example: Any) -> float:
    """Peak growth of the resident memory during `optimize`, as a multiple of the weights' bytes (Linux)."""
    import torch

    small = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    graphprune.optimize(small, example_inputs=torch.randn(1, 3, 8, 8))  # imports are not the model's memory
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    graphprune.optimize(model, sparsity=0.5, example_inputs=example, verify=False)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return (_resident("VmHWM") - before) / weights


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field + ":"))
    return 1024 * int(line.split()[1])


def rows(figures: dict[str, dict[str, float]]) -> tuple[list[list[str]], list[list[str]]]:
    """The lines of the two tables."""
    analysis, pruning = [], []
    for name, f in figures.items():
        times = [f"{1000 * f[key]:.0f} ms" for key in ("groups", "analyze", "graph")]
        analysis.append([name, *times, f"{f['groups'] / f['graph']:.2f}", f"{f['analyze'] / f['graph']:.2f}"])
        times = [f"{1000 * f[key]:.0f} ms" for key in ("optimize", "prune")]
        ratio = f"{f['optimize'] / f['prune']:.2f}"
        pruning.append([name, *times, ratio, f"{1000 * f['verify']:.0f} ms", f"{f['memory']:.2f}"])
    return analysis, pruning


def main() -> None:
    """Measure every model in a process of its own; print and write the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--models", nargs="+", default=MODELS)
    options.add_argument("--one", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.repeats)))
        return
    figures = {}
    for name in given.models:
        command = [sys.executable, __file__, "--one", name, "--repeats", str(given.repeats)]
        with console.status(f"measuring {name} ..."):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
        if done.returncode:
            sys.exit(f"{name} failed, see above")
        figures[name] = json.loads(done.stdout.splitlines()[-1])
    analysis, pruning = rows(figures)
    show("Analysis", ANALYSIS, analysis)
    show("Pruning half", PRUNING, pruning)
    page(
        "speed",
        "Speed against Torch-Pruning",
        TEXT.format(machine(1, "torch-pruning")),
        (ANALYSIS, analysis),
        (PRUNING, pruning),
    )


TEXT = """
Printed by `python benchmarks/speed.py`. {}.

Processor seconds on one thread, medians, both tools taking turns in one process per model; one 224x224 image.

- *groups*: our label propagation and solving, on the traced graph; *analyze*: the same with tracing.
- *Torch-Pruning graph*: `DependencyGraph().build_dependency(model, example)`.
- *optimize*: `graphprune.optimize(model, sparsity=0.5, verify=False)`, which leaves the model given as it was;
  *with verify*: as it is by default.
- *Torch-Pruning prune*: `BasePruner` with `pruning_ratio=0.5` (half of the channels) and global L2 magnitude,
  constructor and `step()`, which works in place.
- *memory*: peak growth of resident memory during `optimize`, the slim model included, over the size of the weights.
"""


if __name__ == "__main__":
    main()
