"""The page and the plot of benchmarks/x86_latency.py."""

from statistics import geometric_mean
from typing import Any

from common import ROOT, page, show
from graphprune import report
from graphprune.files import atomic_path
from graphprune.report import BLUE, GREY, INK
from x86_models import CONVOLUTIONAL, MODELS

Record = dict[str, Any]
Rows = list[list[str]]

NAME = "x86_latency"
PEERS = {"onnxruntime": "ONNX Runtime", "inductor": "torch.compile", "eager": "PyTorch"}
COLOURS = {"dense": INK, "aligned": BLUE, "unaligned": "#e08a2e"}
TIMES = ("model", "MACs", "artifact", *PEERS.values(), "artifact / ONNX Runtime", "compile")
SUMMARY = ("artifact against", "variant", "models", "geomean", "worst", "behind")
GAINS = ("model", "variant", "MACs reduction", "artifact speed-up", "of the reduction", "ONNX Runtime speed-up")
SCALING = ("model", "artifact, dense", "ONNX Runtime, dense", "artifact, aligned", "ONNX Runtime, aligned")
ERRORS = ("model", "artifact", *PEERS.values())


def ratio(facts: Record, peer: str) -> float | None:
    """Time of the artifact over the time of a peer."""
    seconds = facts["seconds"]
    return seconds["artifact"] / seconds[peer] if peer in seconds else None


def summary(record: Record) -> str:
    """One measurement in a few words."""
    head = f"{record['model']}, {record['threads']} thread{'s' * (record['threads'] > 1)}: "
    if "failed" in record:
        return head + record["failed"]
    parts = []
    for variant, facts in record["variants"].items():
        ratios = [f"{ratio(facts, peer):.2f} {PEERS[peer]}" for peer in PEERS if peer in facts["seconds"]]
        error, artifact = facts["errors"]["artifact"], report.duration(facts["seconds"]["artifact"])
        parts.append(f"{variant} {artifact} = " + ", ".join(ratios) + f" (error {error:.0e})")
    return head + "; ".join(parts)


def write_page(records: list[Record], name: str = NAME) -> None:
    """The tables of all records, printed and as `docs/benchmarks/NAME.md`, and the plot beside it."""
    records = sorted(records, key=lambda record: (record["threads"], MODELS.index(record["model"])))
    counts = sorted({record["threads"] for record in records})
    more = []
    for threads in counts:
        chosen = [record for record in records if record["threads"] == threads]
        title = f"{threads} thread{'s' * (threads > 1)}"
        tables = ((SUMMARY, summaries(chosen)), (TIMES, times(chosen)), (GAINS, gains(chosen)))
        for columns, rows in tables:
            show(title, columns, rows)
        more += [f"## {title}", *(report.markdown(*table).strip() for table in tables)]
    if len(counts) > 1:
        more += ["## From one thread to two", SCALING_TEXT.strip(), report.markdown(SCALING, scaling(records)).strip()]
    more += ["## Errors", ERRORS_TEXT.strip(), report.markdown(ERRORS, errors(records)).strip()]
    picture(records, name)
    made_on = records[-1]["machine"]
    title, given = "Latency on x86", ""
    if name != NAME:
        title, given = f"Latency on {made_on.split(' (')[0]}", f" --name {name}"
    others = UNALIGNED_TEXT if any("unaligned" in record["variants"] for record in records) else ""
    page(name, title, TEXT.format(made_on, name=name, given=given, others=others), more=more)


def summaries(records: list[Record]) -> Rows:
    """Geometric mean and worst ratio against every peer, per variant."""
    rows = []
    for peer, name in PEERS.items():
        for variant in COLOURS:
            facts = {record["model"]: record["variants"].get(variant) for record in records}
            ratios = {model: ratio(found, peer) for model, found in facts.items() if found}
            known = {model: value for model, value in ratios.items() if value is not None}
            if not known:
                continue
            worst = max(known, key=lambda model: known[model])
            behind = sum(value > 1 for value in known.values())
            mean = geometric_mean(known.values())
            rows.append([name, variant, str(len(known)), f"{mean:.2f}", f"{known[worst]:.2f} {worst}", str(behind)])
    return rows


def times(records: list[Record]) -> Rows:
    """Milliseconds of every program."""
    rows = []
    for record in records:
        for variant, facts in record["variants"].items():
            seconds = facts["seconds"]
            shown = [f"{1000 * seconds[key]:.2f} ms" if key in seconds else "-" for key in ("artifact", *PEERS)]
            against = ratio(facts, "onnxruntime")
            rows.append(
                [
                    f"{record['model']}, {variant}",
                    report.count(facts["macs"]),
                    *shown,
                    "-" if against is None else f"{against:.2f}",
                    f"{facts['compile']:.0f} s",
                ]
            )
    return rows


def gains(records: list[Record]) -> Rows:
    """How much faster pruned models are than dense ones, beside how much less they compute; last, the means of `*`."""
    rows: Rows = []
    found: dict[str, list[tuple[float, float, float]]] = {}
    for record in records:
        variants = record["variants"]
        dense = variants.get("dense")
        for variant in ("aligned", "unaligned"):
            if not dense or variant not in variants:
                continue
            slim = variants[variant]
            less = dense["macs"] / slim["macs"]
            ours = dense["seconds"]["artifact"] / slim["seconds"]["artifact"]
            name = record["model"] + (" *" if record["model"] in CONVOLUTIONAL else "")
            theirs = dense["seconds"].get("onnxruntime", 0) / slim["seconds"].get("onnxruntime", 1)
            rows.append([name, variant, *_gain(less, ours, theirs)])
            if record["model"] in CONVOLUTIONAL:
                found.setdefault(variant, []).append((less, ours, theirs))
    means = {
        variant: [geometric_mean(column) if all(column) else 0.0 for column in zip(*numbers, strict=True)]
        for variant, numbers in found.items()
    }
    return rows + [["geometric mean of *", variant, *_gain(*numbers)] for variant, numbers in means.items()]


def _gain(less: float, ours: float, theirs: float) -> list[str]:
    return [f"{less:.2f} x", f"{ours:.2f} x", f"{ours / less:.2f}", f"{theirs:.2f} x" if theirs else "-"]


def scaling(records: list[Record]) -> Rows:
    """Time on one thread over time on two."""
    found = {(record["model"], record["threads"]): record["variants"] for record in records}
    rows = []
    for model in MODELS:
        one, two = found.get((model, 1)), found.get((model, 2))
        if not one or not two:
            continue
        row = [model]
        for variant in ("dense", "aligned"):
            for program in ("artifact", "onnxruntime"):
                pair = [side.get(variant, {"seconds": {}})["seconds"].get(program) for side in (one, two)]
                row.append(f"{pair[0] / pair[1]:.2f} x" if all(pair) else "-")
        rows.append(row)
    return rows


def errors(records: list[Record]) -> Rows:
    """The largest error of every program over variants and threads."""
    rows = []
    for model in MODELS:
        facts = [f for record in records if record["model"] == model for f in record["variants"].values()]
        if facts:
            found = [[f["errors"][key] for f in facts if key in f["errors"]] for key in ("artifact", *PEERS)]
            rows.append([model, *(f"{max(values):.1e}" if values else "-" for values in found)])
    return rows


def picture(records: list[Record], name: str) -> None:
    """Time over the time of ONNX Runtime: a line per model, a dot per variant, a panel per number of threads."""
    from matplotlib.figure import Figure

    counts = sorted({record["threads"] for record in records})
    models = [model for model in MODELS if any(record["model"] == model for record in records)]
    figure = Figure(figsize=(2.2 + 3.6 * len(counts), 1.4 + 0.32 * len(models)), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, sharex=True, squeeze=False)[0]
    for axes, threads in zip(panels, counts, strict=True):
        axes.axvline(1, color=GREY, zorder=0)
        for variant, colour in COLOURS.items():
            dots = [
                (value, models.index(record["model"]))
                for record in records
                if record["threads"] == threads and variant in record["variants"]
                if (value := ratio(record["variants"][variant], "onnxruntime")) is not None
            ]
            if dots:
                axes.scatter(*zip(*dots, strict=True), s=34, color=colour, label=variant, zorder=2)
        axes.set_title(f"{threads} thread{'s' * (threads > 1)}", fontsize=10, color=INK, loc="left")
        axes.set_xlabel("time / time of ONNX Runtime (less is faster)", fontsize=9, color=INK)
        axes.set_yticks(range(len(models)), models, fontsize=9, color=INK)
        axes.grid(axis="y", color=GREY, linewidth=0.5, zorder=0)
        axes.tick_params(length=0, colors=INK, labelsize=9)
        for side in axes.spines.values():
            side.set_visible(False)
    panels[0].invert_yaxis()
    panels[0].set_xlim(left=0)
    panels[-1].legend(
        fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2, handletextpad=0
    )
    with atomic_path(ROOT / "docs" / "benchmarks" / f"{name}.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


TEXT = """
Printed by `python benchmarks/x86_latency.py{given}`. {}.

One 224x224 image or 128 tokens, batch 1; medians of calls. Every program runs in a process of its own, and the programs
of a model take turns, with a pause between: a program that has its turn is called five times, of which the first is not
counted. One thread is timed by its own processor clock, which other work on the machine does not stop; several threads
by the clock on the wall. Models were measured one after the other, while the machine was not always equally fast:
compare the programs of a row.

- *dense*: the model as it is. *aligned*: `graphprune.optimize(model, sparsity=0.5, budget="macs", target="x86")`: half
  of the multiply-adds (MACs), in channel counts that suit the vectors of this machine.{others}
- *artifact*: `graphprune.compile(model, target="x86", threads=...)`; *compile*: how long that took.
- *ONNX Runtime*: the same model through `torch.onnx.export`, default session options but for the threads.
- *torch.compile*: Inductor in inference mode, with `freezing` or without, whichever was faster on the dense model.
- *PyTorch*: eager, in inference mode.

The weights are random: the figures are about speed only. *behind*: on how many models the peer was faster. *of the
reduction*: the speed-up over the reduction of MACs; `*` marks networks made of convolutions.

What keeps a pruned network from the whole reduction: the transforms of Winograd's algorithm and depthwise convolutions
shrink with the channels, products with their square (ResNet-18, DenseNet, MobileNetV2); linear layers that wait for
their weights count few MACs, so that a budget of MACs leaves them alone (VGG-11; `scope="isomorphic"` does not, see
[budgets](latency_budget.md)); and the fixed cost of a kernel, which is a larger part of a small network, and on two
threads of all.

![time of the artifact over time of ONNX Runtime]({name}.svg)
"""

UNALIGNED_TEXT = """ *unaligned*: the same with
  `multiple_of=1`: whatever counts come out."""

SCALING_TEXT = """
Time on one thread over time on two. The two were measured at different times, and by different clocks: compare programs
rather than read the ratios by themselves.
"""

ERRORS_TEXT = """
The largest difference to PyTorch in float64 over the largest number, the worst of all variants and threads.
"""
