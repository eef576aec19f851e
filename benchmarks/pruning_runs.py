"""Accuracy at fewer multiply-adds: what both tools are given, and a record of what was measured already."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import graphprune
from common import console
from peer_pruning import CRITERIA, macs, pruned, reestimated

OURS: dict[str, dict[str, Any]] = {
    "l2": {"criterion": "l2", "recover": False},
    "l2 recovered": {"criterion": "l2", "recover": True},
    "l2 recovered data-free": {"criterion": "l2", "recover": True, "free": True},
    "reconstruction": {"criterion": "reconstruction", "recover": False},
    "reconstruction recovered": {"criterion": "reconstruction", "recover": True},
}
"""What of GraphPrune is measured."""

DATA_FREE = (1.5, 2.0)
"""Where it is measured without data, which takes the longest."""

BATCH = 128


class Task(NamedTuple):
    """A trained model with its data: `calibration` are images with labels, `keep` the layers that stay as they are."""

    name: str
    dense: torch.nn.Module
    example: torch.Tensor
    calibration: tuple[torch.Tensor, torch.Tensor]
    accuracy: Callable[[Any], float]
    keep: Callable[[torch.nn.Module], Iterable[torch.nn.Module]]


class Records:
    """Measurements in a file, one line each, by a key: what is known is not measured again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.path = path

    @property
    def known(self) -> dict[str, Any]:
        """All of them."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return {entry["key"]: entry for entry in map(json.loads, lines)}

    def add(self, key: str, **facts: Any) -> None:
        """Keep one."""
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, **facts}) + "\n")
        console.print(key, facts)

    def best_peer(self, task: str, speedup: float) -> tuple[str, float, float]:
        """The peer's best setting: its name; the best accuracy as it is, and with statistics estimated anew."""
        start = f"{task} {speedup} peer "
        found = {key[len(start) :]: entry for key, entry in self.known.items() if key.startswith(start)}
        found = {key: entry for key, entry in found.items() if "reestimated" in entry}
        name = max(found, key=lambda key: max(found[key]["accuracy"], found[key]["reestimated"]), default="-")
        best = [max((entry[key] for entry in found.values()), default=0.0) for key in ("accuracy", "reestimated")]
        return name, best[0], best[1]

    def percent(self, key: str) -> str:
        """An accuracy in per cent; a dash for what was not measured."""
        entry = self.known.get(key)
        return f"{100 * entry['accuracy']:.2f}" if entry else "-"


def ours(task: Task, speedup: float, criterion: str, recover: bool | str, free: bool = False) -> Any:
    """Pruned by GraphPrune to 1 / `speedup` of the multiply-adds, calibrated on images without labels."""
    data = {} if free or (criterion == "l2" and not recover) else {"data": list(task.calibration[0].split(BATCH))}
    options = {"criterion": criterion, "recover": recover, "example_inputs": task.example, **data}
    return graphprune.optimize(task.dense, 1 - 1 / speedup, budget="macs", verify=False, **options)


def peer(task: Task, speedup: float, setting: str) -> Any:
    """Pruned by Torch-Pruning: "Magnitude global"."""
    criterion, scope = setting.split()
    images, labels = (part[:256].split(BATCH) for part in task.calibration)
    target = macs(task.dense, task.example) / speedup
    batches = list(zip(images, labels, strict=True))
    return pruned(task.dense, task.example, target, criterion, scope == "global", task.keep, batches)


def without_training(task: Task, speedups: Sequence[float], records: Records) -> None:
    """Every tool and setting before any training."""
    if f"{task.name} dense" not in records.known:
        records.add(f"{task.name} dense", accuracy=task.accuracy(task.dense), macs=macs(task.dense, task.example))
    has_norms = any(isinstance(part, torch.nn.BatchNorm2d) for part in task.dense.modules())
    for speedup in speedups:
        for name, options in OURS.items():
            key = f"{task.name} {speedup} {name}"
            if key in records.known or (options.get("free") and not (has_norms and speedup in DATA_FREE)):
                continue
            start = time.perf_counter()
            slim = ours(task, speedup, **options)
            seconds = time.perf_counter() - start
            records.add(key, accuracy=task.accuracy(slim), macs=macs(slim, task.example), seconds=seconds)
        for setting in (f"{criterion} {scope}" for criterion in CRITERIA for scope in ("global", "layer")):
            key = f"{task.name} {speedup} peer {setting}"
            if key in records.known or (setting.startswith("BNScale") and not has_norms):
                continue
            slim = peer(task, speedup, setting)
            if slim is None:
                records.add(key, accuracy=0.0, reestimated=0.0, macs=0)
                continue
            figures = {"accuracy": task.accuracy(slim), "macs": macs(slim, task.example)}
            fresh = reestimated(slim, list(task.calibration[0].split(BATCH))) if has_norms else slim
            records.add(key, reestimated=task.accuracy(fresh), **figures)


def no_training_rows(task: str, speedups: Sequence[float], records: Records) -> list[list[str]]:
    """One row per speed-up, as far as it was measured: accuracies in per cent."""
    known, rows = records.known, []
    for speedup in speedups:
        cells = [records.percent(f"{task} {speedup} {name}") for name in OURS]
        best, plain, anew = records.best_peer(task, speedup)
        mine = known.get(f"{task} {speedup} reconstruction recovered")
        lost = f"{100 * (known[f'{task} dense']['accuracy'] - mine['accuracy']):.2f}" if mine else "-"
        theirs = [f"{100 * plain:.2f}", f"{100 * anew:.2f}"] if best != "-" else ["-", "-"]
        if mine or best != "-":
            rows.append([f"{task}, {speedup}x", *cells, lost, *theirs, best])
    return rows


COLUMNS = ("", *OURS, "points lost", "peer", "peer, statistics anew", "its best setting")
"""Of `no_training_rows`."""
