"""One model of benchmarks/x86_latency.py on one number of threads, measured in this process."""

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import graphprune
from graphprune.backends import peers
from graphprune.timing import Clock, alternate
from x86_models import build

# What `optimize` is told for each variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "aligned": {"target": "x86"},
    "unaligned": {"multiple_of": 1},
}
IN_A_ROW = 4
TURNS = (5, 40)

Call = Callable[[], Any]
Record = dict[str, Any]


def measure(name: str, threads: int, variants: list[str], wanted: list[str], seconds: float) -> Record:
    """The record of a model: MACs, seconds and errors of every program, seconds to compile.

    `wanted` are the peers beside the artifact; `seconds` is about how long the turns may take together.
    """
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")  # of exporters, about their own future
    dense, example = build(name)
    models = {variant: _variant(dense, example, VARIANTS[variant]) for variant in variants}
    record: Record = {"model": name, "threads": threads, "variants": {}}
    calls: dict[tuple[str, str], Call] = {}
    freezing: bool | None = None
    for variant, model in models.items():
        # Inductor compiles for minutes: the dense model alone tells how it compares.
        present = [peer for peer in wanted if peer != "inductor" or variant == "dense"]
        made, facts, freezing = _programs(model, example, threads, present, freezing)
        record["variants"][variant] = facts
        calls |= {(variant, program): call for program, call in made.items()}
    # One thread is timed by its own clock, which other processes do not disturb; several by the clock on the wall.
    clock = time.thread_time if threads == 1 else time.perf_counter
    for (variant, program), value in _medians(calls, seconds, clock).items():
        record["variants"][variant]["seconds"][program] = value
    return record


def _variant(dense: Any, example: torch.Tensor, options: dict[str, Any]) -> Any:
    """The model itself, or what is left of it at half of the MACs."""
    if not options:
        return dense
    return graphprune.optimize(dense, sparsity=0.5, budget="macs", example_inputs=example, **options).eval()


def _programs(
    model: Any, example: torch.Tensor, threads: int, wanted: list[str], freezing: bool | None
) -> tuple[dict[str, Call], Record, bool | None]:
    """The model in every runtime with the facts that need no clock, and whether freezing helps Inductor."""
    start = time.perf_counter()
    artifact = graphprune.compile(model, target="x86", example_inputs=example, threads=threads)
    compiling = time.perf_counter() - start
    programs: dict[str, Call] = {"artifact": lambda: artifact(example)}
    failed: dict[str, str] = {}
    for peer in wanted:
        try:
            if peer == "onnxruntime":
                programs[peer] = peers.onnx_runtime(model, (example,), threads)
            elif peer == "eager":
                programs[peer] = peers.eager(model, (example,))
            else:
                programs[peer], freezing = _inductor(model, example, freezing)
        except Exception as error:  # a peer that cannot run a model is a gap in the table
            failed[peer] = f"{type(error).__name__}: {error}"[:300]
    exact = copy.deepcopy(model).double()
    with torch.inference_mode():
        truth = exact(example.double() if example.is_floating_point() else example)
    cost = graphprune.analyze(model, example_inputs=example).cost()
    facts = {
        "macs": cost.macs,
        "parameters": cost.params,
        "compile": compiling,
        "target": artifact.target,
        "freezing": freezing,
        "failed": failed,
        "errors": {program: _error(call(), truth) for program, call in programs.items()},
        "seconds": {},
    }
    return programs, facts, freezing


def _inductor(model: Any, example: torch.Tensor, freezing: bool | None) -> tuple[Call, bool]:
    """The faster of `torch.compile` with and without frozen weights; what was faster is told for the next time."""
    modes = (True, False) if freezing is None else (freezing,)
    calls = {mode: peers.inductor(model, (example,), mode) for mode in modes}
    medians = alternate({str(mode): call for mode, call in calls.items()}, 5, 2)
    best = min(modes, key=lambda mode: medians[str(mode)])
    return calls[best], best


def _error(result: Any, truth: torch.Tensor) -> float:
    """The largest difference, relative to the largest number."""
    value = result[0] if isinstance(result, list) else result
    return float(np.abs(np.asarray(value, np.float64) - truth.numpy()).max() / truth.abs().max())


def _medians(calls: dict[tuple[str, str], Call], seconds: float, clock: Clock) -> dict[tuple[str, str], float]:
    """Median seconds of all programs, in as many turns as the time allows."""
    keyed = {"/".join(key): call for key, call in calls.items()}
    start = time.perf_counter()
    alternate(keyed, 1, 0, in_a_row=IN_A_ROW)
    turns = int(seconds / (time.perf_counter() - start))
    medians = alternate(keyed, min(max(turns, TURNS[0]), TURNS[1]), 0, clock, in_a_row=IN_A_ROW)
    return {key: medians["/".join(key)] for key in calls}
