"""docs/benchmarks/onnx.md, written from the records of onnx_models.py."""

from collections.abc import Mapping
from typing import Any

import onnx_accuracy
import onnx_peer as peer
from common import machine, page, show
from graphprune import report

OURS = "graphprune"
Record = dict[str, Any]
Done = Mapping[tuple[str, str], Record]

SIZES = ("model", "parameters", "left", "MACs left", "onnxsim: parameters left", "onnxsim: valid")
PROOFS = ("model", "error to masked", "proof", "checker and ONNX Runtime", "optimize", "verify", "onnxsim: error")
LATENCY = ("model", "dense", "slim", "dense / slim", "dense / slim, target x86", "onnxsim: dense / slim")


def write_page(done: Done, names: list[str]) -> None:
    """Print and write every table."""
    text = TEXT.format(machine(1, "onnx", "onnxruntime", "onnxsim"))
    tables = {
        "Parameters and MACs": (SIZES, [_sizes(name, *_both(done, name)) for name in names]),
        "Proof and time": (PROOFS, [_proofs(name, *_both(done, name)) for name in names]),
        "Latency in ONNX Runtime, 1 thread": (LATENCY, [_latency(name, *_both(done, name)) for name in names]),
        "Accuracy without training": _accuracies(done),
    }
    sections = []
    for title, (columns, rows) in tables.items():
        show(title, columns, rows)
        sections.append(f"## {title}\n\n{report.markdown(columns, rows).strip()}")
    why = [f"- {name}, {tool}: {record['reason']}" for (name, tool), record in done.items() if "reason" in record]
    refused = ["## Not done\n\n" + "\n".join(why)] if why else []
    page("onnx", "ONNX models", text, more=[*sections, *refused])


def _both(done: Done, name: str) -> tuple[Record, Record]:
    return done.get((name, OURS), {}), done.get((name, peer.NAME), {})


def _share(pair: list[float] | None) -> str:
    return f"{pair[1] / pair[0]:.1%}" if pair and pair[0] else ""


def _sizes(name: str, our: Record, their: Record) -> list[str]:
    stored = our.get("stored") or their.get("stored")
    count = report.count(int(our["params"][0] if "params" in our else stored[0])) if stored or "params" in our else ""
    valid = "" if "stored" not in their else _valid(their)
    return [name, count, _share(our.get("params")), _share(our.get("macs")), _share(their.get("stored")), valid]


def _proofs(name: str, our: Record, their: Record) -> list[str]:
    kind = "" if "exact" not in our else "exact" if our["exact"] else "inexact"
    valid = "" if "stored" not in our else _valid(our)
    times = [f"{our[key]:.2f} s" if key in our else "" for key in ("seconds", "verify")]
    return [name, _error(our), kind, valid, *times, _error(their)]


def _valid(record: Record) -> str:
    return "no" if record["defect"] else "yes"


def _error(record: Record) -> str:
    return f"{record['error']:.1e}" if "error" in record else ""


def _latency(name: str, our: Record, their: Record) -> list[str]:
    times = [report.duration(value) for value in our["latency"]] if "latency" in our else ["", ""]
    return [name, *times, _ratio(our), _ratio(our, "aligned"), _ratio(their)]


def _ratio(record: Record, key: str = "latency") -> str:
    seconds = record.get(key, "")
    return seconds if isinstance(seconds, str) else f"{seconds[0] / seconds[1]:.2f}"


def _accuracies(done: Done) -> tuple[list[str], list[list[str]]]:
    columns = ["model", "images", "dense"]
    keys = [f"{tool} {share}" for share in onnx_accuracy.SHARES for tool in (OURS, peer.NAME)]
    columns += [f"{tool} -{share:.0%}" for share in onnx_accuracy.SHARES for tool in ("GraphPrune", peer.NAME)]
    rows = []
    for (name, tool), record in done.items():
        if tool == "accuracy" and "dense" in record:
            rows.append([name, str(record["images"]), *(_percent(record[key]) for key in ("dense", *keys))])
    return columns, rows


def _percent(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.1%}"


TEXT = """
Printed by `python benchmarks/onnx_models.py`. {}.

GraphPrune: `graphprune.optimize(model, 0.5)` with the defaults; *left* is what is left of the parameters. The error is
the largest difference from the masked original relative to the largest output, as `graphprune.verify` measures it.
onnxsim: the best of `apply_structured_pruning`, `..._cpp` and `..._qdq` at 50 %, of the model as it is and simplified;
its percentage is a share of the channels that it finds, so the tables say what is left of all parameters. It keeps no
record of what it drops: its error is measured in float32 against the original masked where its tensors are parts of
the old ones, and is left out where they are not. *Valid* is the full checker, strict shape inference and a run in
ONNX Runtime. Latencies are medians of runs that take turns; with `target="x86"` channel counts are multiples that suit
its blocked layout. Exports have random weights. In the last table both tools remove the same share of the parameters,
without any training.
"""
