"""One model of benchmarks/x86_latency.py on one number of threads.

Every program (the artifact, each peer) lives in a process of its own, because thread pools in one process disturb each
other: their workers spin for a while after the last call. The processes take turns.
"""

import copy
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
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
PAUSE = 0.08  # seconds between two turns: the workers of the last program go to sleep

Call = Callable[[], Any]
Record = dict[str, Any]
Models = dict[str, Any]
Made = tuple[Call, Record]  # a program and what is to be told of it


def measure(name: str, threads: int, variants: list[str], wanted: list[str], seconds: float) -> Record:
    """The record of a model: MACs, seconds and errors of every program, seconds to compile.

    `wanted` are the peers beside the artifact; `seconds` is about how long the turns may take together.
    """
    torch.set_num_threads(1)  # a process with running workers must not be forked
    warnings.filterwarnings("ignore")  # of exporters, about their own future
    dense, example = build(name)
    models = {variant: _variant(dense, example, VARIANTS[variant]) for variant in variants}
    record: Record = {"model": name, "threads": threads, "variants": {}}
    for variant, model in models.items():
        cost = graphprune.analyze(model, example_inputs=example).cost()
        facts = {"macs": cost.macs, "parameters": cost.params, "failed": {}, "errors": {}, "seconds": {}}
        record["variants"][variant] = facts
    truths = {variant: _truth(model, example) for variant, model in models.items()}
    with ExitStack() as stack:
        players = {}
        for program in ("artifact", *wanted):
            player = stack.enter_context(_player(program, models, example, truths, threads))
            for variant, told in player.recv().items():
                _note(record["variants"][variant], program, told)
            players[program] = player
        for (variant, program), value in _medians(players, record["variants"], seconds).items():
            record["variants"][variant]["seconds"][program] = value
    return record


def _note(facts: Record, program: str, told: Record) -> None:
    """What a player told about one variant, put where the page looks for it."""
    for key in ("failed", "errors"):
        if key in told:
            facts[key][program] = told.pop(key)
    facts |= told


def _variant(dense: Any, example: torch.Tensor, options: dict[str, Any]) -> Any:
    """The model itself, or what is left of it at half of the MACs."""
    if not options:
        return dense
    return graphprune.optimize(dense, sparsity=0.5, budget="macs", example_inputs=example, **options).eval()


def _truth(model: Any, example: torch.Tensor) -> np.ndarray:
    exact = copy.deepcopy(model).double()
    with torch.inference_mode():
        return exact(example.double() if example.is_floating_point() else example).numpy()


@contextmanager
def _player(program: str, models: Models, example: torch.Tensor, truths: Models, threads: int) -> Any:
    """A process that makes a program of every variant, tells what came of it, and then plays whenever it is asked."""
    context = multiprocessing.get_context("fork")  # the models are shared, not copied
    ours, theirs = context.Pipe()
    process = context.Process(target=_play, args=(theirs, program, models, example, truths, threads))
    process.start()
    try:
        yield ours
    finally:
        ours.send(None)
        process.join(10)
        process.kill()


def _play(pipe: Connection, program: str, models: Models, example: torch.Tensor, truths: Models, threads: int) -> None:
    """The life of a player."""
    torch.set_num_threads(threads)
    calls, tales = {}, {}
    freezing: bool | None = None
    for variant, model in models.items():
        try:
            call, tale = _MAKERS[program](model, example, threads, freezing)
        except Exception as error:  # a peer that cannot run a model is a gap in the table
            tales[variant] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            continue
        freezing = tale.get("freezing", freezing)
        calls[variant] = call
        tales[variant] = tale | {"errors": _error(call(), truths[variant])}
    pipe.send(tales)
    # One thread is timed by its own clock, which other processes do not disturb; several by the clock on the wall.
    clock = time.thread_time if threads == 1 else time.perf_counter
    while (variant := pipe.recv()) is not None:
        pipe.send(_turn(calls[variant], clock))


def _turn(call: Call, clock: Clock) -> list[float]:
    """A few calls in a row; the first, for which caches are cold and workers asleep, is not counted."""
    call()
    samples = []
    for _ in range(IN_A_ROW):
        start = clock()
        call()
        samples.append(clock() - start)
    return samples


def _make_artifact(model: Any, example: torch.Tensor, threads: int, _: bool | None) -> Made:
    start = time.perf_counter()
    artifact = graphprune.compile(model, target="x86", example_inputs=example, threads=threads)
    compiling = time.perf_counter() - start
    return lambda: artifact(example), {"compile": compiling, "target": artifact.target}


def _make_onnxruntime(model: Any, example: torch.Tensor, threads: int, _: bool | None) -> Made:
    return peers.onnx_runtime(model, (example,), threads), {}


def _make_inductor(model: Any, example: torch.Tensor, _: int, freezing: bool | None) -> Made:
    """The faster of `torch.compile` with and without frozen weights; what was faster is told for the next time."""
    modes = (True, False) if freezing is None else (freezing,)
    calls = {mode: peers.inductor(model, (example,), mode) for mode in modes}
    medians = alternate({str(mode): call for mode, call in calls.items()}, 5, 2)
    best = min(modes, key=lambda mode: medians[str(mode)])
    return calls[best], {"freezing": best}


def _make_eager(model: Any, example: torch.Tensor, _: int, __: bool | None) -> Made:
    return peers.eager(model, (example,)), {}


_MAKERS: dict[str, Any] = {
    "artifact": _make_artifact,
    "onnxruntime": _make_onnxruntime,
    "inductor": _make_inductor,
    "eager": _make_eager,
}


def _error(result: Any, truth: np.ndarray) -> float:
    """The largest difference, relative to the largest number."""
    value = result[0] if isinstance(result, list) else result
    return float(np.abs(np.asarray(value, np.float64) - truth).max() / np.abs(truth).max())


def _medians(players: dict[str, Any], variants: Record, seconds: float) -> dict[tuple[str, str], float]:
    """Median seconds of all programs, in as many turns as the time allows."""
    keys = [
        (variant, program) for variant, facts in variants.items() for program in players if program in facts["errors"]
    ]
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    start, turns = time.perf_counter(), 0
    while turns < TURNS[0] or (turns < TURNS[1] and time.perf_counter() - start < seconds):
        for variant, program in keys:
            time.sleep(PAUSE)
            players[program].send(variant)
            samples[variant, program] += players[program].recv()
        turns += 1
    return {key: statistics.median(values) for key, values in samples.items()}
