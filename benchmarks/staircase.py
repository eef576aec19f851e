"""Latency of one layer over its number of channels: where the steps are, and so which channel counts suit a target.

    python benchmarks/staircase.py [--turns 12] [--targets x86-avx512 ...] [--layers "3x3 convolution" ...]

Every program is a stack of equal layers, one thread; all programs of a layer take turns; the least time
counts, because it is the code that is measured here.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import nn

import graphprune
from common import ROOT, console, machine, page, show
from graphprune.backends import peers
from graphprune.backends.targets import TARGETS
from graphprune.files import atomic_path
from graphprune.report import BLUE, GREY, INK
from graphprune.timing import alternate

STACKED = 8
# Multiples of 4, and one channel more than whole vectors.
COUNTS = sorted({*range(32, 161, 4), *range(33, 161, 16)})
GRANULES = (4, 8, 16, 32)
# A granule suits a target if a layer at its odd multiples costs at most this much more than its share of the work.
TOLERANCE = 0.06
ORT = "ONNX Runtime"
PLACES = ("16n + 1", *(f"odd multiples of {granule}" for granule in GRANULES[:-1]))
COLUMNS = ("layer and program", *PLACES)
ALIGNMENT = ("target", "smallest granule that wastes little", "alignment that the target declares")
Times = dict[int, float]


class Layer(NamedTuple):
    """A layer of `channels` channels, the shape of its input, and how its work grows with the channels."""

    make: Callable[[int], nn.Module]
    shape: Callable[[int], tuple[int, ...]]
    power: int


LAYERS = {
    "3x3 convolution": Layer(lambda c: nn.Conv2d(c, c, 3, padding=1), lambda c: (1, c, 28, 28), 2),
    "1x1 convolution": Layer(lambda c: nn.Conv2d(c, c, 1), lambda c: (1, c, 28, 28), 2),
    "3x3 depthwise": Layer(lambda c: nn.Conv2d(c, c, 3, padding=1, groups=c), lambda c: (1, c, 28, 28), 1),
    "linear": Layer(lambda c: nn.Linear(c, c), lambda c: (128, c), 2),
}


def measure(layer: Layer, targets: Sequence[str], turns: int) -> dict[str, Times]:
    """Seconds of one layer by target (and in ONNX Runtime) and number of channels."""
    calls: dict[str, Callable[[], Any]] = {}
    for channels in COUNTS:
        torch.manual_seed(0)
        stack = nn.Sequential(*(part for _ in range(STACKED) for part in (layer.make(channels), nn.ReLU()))).eval()
        x = torch.randn(layer.shape(channels))
        for target in targets:
            artifact = graphprune.compile(stack, target, example_inputs=x, threads=1)
            calls[f"{target}/{channels}"] = lambda artifact=artifact, x=x: artifact(x)
        calls[f"{ORT}/{channels}"] = peers.onnx_runtime(stack, (x,), 1)
    seconds = alternate(calls, turns, 1, in_a_row=3, summary=min)
    return {name: {c: seconds[f"{name}/{c}"] / STACKED for c in COUNTS} for name in (*targets, ORT)}


def waste(times: Times, power: int, counts: Sequence[int]) -> float:
    """How much more layers of these channel counts cost, on average, than their share of the work.

    That share lies on a line through the costs of the neighbouring multiples of the largest granule.
    """
    largest, found = GRANULES[-1], []
    for channels in counts:
        low = channels // largest * largest
        start, end = low**power, (low + largest) ** power
        share = (channels**power - start) / (end - start)
        found.append(times[channels] / ((1 - share) * times[low] + share * times[low + largest]) - 1)
    return fmean(found)


def wastes(times: Times, power: int) -> dict[str, float]:
    """The columns of the table: where a layer wastes how much."""
    found = {PLACES[0]: waste(times, power, [c for c in COUNTS if c % 4])}
    for granule, place in zip(GRANULES[:-1], PLACES[1:], strict=True):
        found[place] = waste(times, power, [c for c in COUNTS if c % (2 * granule) == granule])
    return found


def alignment(layers: Sequence[dict[str, float]]) -> int:
    """The smallest granule that wastes little, as do all larger ones, on average over the layers."""
    best = GRANULES[-1]
    for granule in reversed(GRANULES[:-1]):
        if fmean(layer[f"odd multiples of {granule}"] for layer in layers) > TOLERANCE:
            break
        best = granule
    return best


def picture(figures: dict[str, dict[str, Times]], target: str) -> None:
    """A panel per layer: microseconds over channels, of artifact and ONNX Runtime."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (name, times) in zip(figure.subplots(2, 2).flat, figures.items(), strict=False):
        for program, colour, label in ((ORT, "#e08a2e", ORT), (target, BLUE, f"artifact, {target}")):
            seconds = times[program]
            axes.plot(list(seconds), [1e6 * value for value in seconds.values()], ".-", color=colour, label=label)
        axes.set_title(name, fontsize=10, color=INK, loc="left")
        axes.set_xticks(range(32, 161, 16))
        whole = [seconds[c] for seconds in times.values() for c in COUNTS if c % 4 == 0]
        axes.set_ylim(0, 1.2e6 * max(whole))  # one channel more than whole vectors may be off the scale
        axes.grid(axis="x", color=GREY, linewidth=0.5)
        axes.tick_params(length=0, colors=INK, labelsize=8)
        for side in axes.spines.values():
            side.set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.supxlabel("channels", fontsize=9, color=INK)
    figure.supylabel("microseconds per layer", fontsize=9, color=INK)
    with atomic_path(ROOT / "docs" / "benchmarks" / "staircase.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    """Measure, print, write the page and the picture."""
    # Instructions for bytes change nothing in layers of float32.
    runnable = [name for name, target in TARGETS.items() if not target.missing_features() and not target.dots]
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--turns", type=int, default=12)
    options.add_argument("--targets", nargs="+", default=runnable, choices=runnable)
    options.add_argument("--layers", nargs="+", default=list(LAYERS), choices=LAYERS)
    options.add_argument("--results", type=Path, default=ROOT / "build" / "staircase.json", help="where figures go")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of exporters, about their own future
    figures: dict[str, dict[str, Times]] = {}
    for name in given.layers:
        with console.status(f"{name}: compiling and measuring ..."):
            figures[name] = measure(LAYERS[name], given.targets, given.turns)
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text(json.dumps(figures))
    present(figures, given.targets)


def present(figures: dict[str, dict[str, Times]], targets: Sequence[str]) -> None:
    """Print the tables; of all layers also write the page and the picture."""
    wasted = {
        program: {name: wastes(times[program], LAYERS[name].power) for name, times in figures.items()}
        for program in (*targets, ORT)
    }
    rows = [
        [f"{name}, {program}", *(f"{100 * wasted[program][name][place]:+.0f} %" for place in PLACES)]
        for name in figures
        for program in wasted
    ]
    aligned = [
        [target, str(alignment(list(wasted[target].values()))), str(TARGETS[target].channel_alignment)]
        for target in targets
    ]
    show("Waste", COLUMNS, rows)
    show("Alignment", ALIGNMENT, aligned)
    if list(figures) == list(LAYERS):
        text = TEXT.format(machine(1, "apache-tvm", "onnxruntime"))
        page("staircase", "Channel counts that suit x86", text, (ALIGNMENT, aligned), (COLUMNS, rows))
        picture(figures, targets[0])


TEXT = """
Printed by `python benchmarks/staircase.py`. {}.

A stack of eight equal layers, each with a ReLU, as many channels out as in, on 28x28 pixels or 128 rows, batch 1; the
least time of a stack over many turns, divided by eight. Pruned models have any channel count, and code works on whole
vectors: between the steps of the staircase, channels are free.

![microseconds per layer over channels](staircase.svg)

The second table tells how much more a layer costs than its share of the work, which is a line from one multiple of 32
to the next: at channel counts that are multiples of 16 but not of 32, of 8 but not of 16, and so on. The smallest
granule that wastes at most 6 %, on average over the layers, suits a target. That is what `Target.channel_alignment`
declares and `optimize(target=...)` keeps to.
"""


if __name__ == "__main__":
    main()
