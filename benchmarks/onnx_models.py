"""ONNX models at half of their parameters, by GraphPrune and by the structured pruning of onnxsim.

    [GRAPHPRUNE_DATA=...] python benchmarks/onnx_models.py [--only PATTERN ...] [--tool graphprune] [--redo]

Every model and tool runs in a process of its own, with a limit on time. Results are kept in `build/onnx.jsonl`: a run
that was interrupted goes on where it stopped. docs/benchmarks/onnx.md is written from what is there.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import numpy as np  # noqa: E402
import onnx  # noqa: E402

import graphprune  # noqa: E402
import onnx_accuracy  # noqa: E402
import onnx_peer as peer  # noqa: E402
from common import ROOT, console  # noqa: E402
from graphprune.errors import GraphPruneError  # noqa: E402
from graphprune.timing import alternate  # noqa: E402
from onnx_page import write_page  # noqa: E402
from onnx_runs import difference, drawn, runner  # noqa: E402
from onnx_zoo import SIZES, every_model  # noqa: E402

RESULTS = ROOT / "build" / "onnx.jsonl"
WALL_SECONDS = 900
REPEATS = 15
OURS = "graphprune"

Record = dict[str, Any]


def ours(name: str, model: onnx.ModelProto) -> Record:
    """Half of the parameters with the defaults, and what the result is worth."""
    feed = drawn(model, SIZES.get(name))
    given = {"example_inputs": feed} if name in SIZES else {}
    start = time.perf_counter()
    slim = graphprune.optimize(model, 0.5, verify=False, **given)
    seconds = time.perf_counter() - start
    plan = graphprune.plan_of(slim)
    record = {"seconds": seconds, "exact": plan.exact, "params": plan.report["params"], "macs": plan.report["macs"]}
    start = time.perf_counter()
    record["error"] = graphprune.verify(model, slim, plan, thorough=False, **given).error
    record["verify"] = time.perf_counter() - start
    return record | judged(model, slim, feed) | aligned(model, feed, given)


def aligned(model: onnx.ModelProto, feed: dict[str, Any], given: dict[str, Any]) -> Record:
    """Latency where channel counts suit the vectors of this machine."""
    try:
        slim = graphprune.optimize(model, 0.5, target="x86", verify=False, **given)
    except GraphPruneError as error:
        return {"aligned": type(error).__name__}
    medians = alternate({"dense": runner(model, feed), "slim": runner(slim, feed)}, REPEATS)
    return {"aligned": [medians["dense"], medians["slim"]]}


def theirs(name: str, model: onnx.ModelProto) -> Record:
    """Half of the channels of every chain that it finds, and what the result is worth."""
    feed = drawn(model, SIZES.get(name))
    start = time.perf_counter()
    entry, source, result = peer.prune(model, 0.5, feed)
    record = {"seconds": time.perf_counter() - start, "entry": entry}
    record |= judged(model, result, feed)
    kept = peer.kept_of(source, result)
    if record["defect"] is None and kept:
        expected = runner(peer.masked(source, kept), feed)()
        record["error"] = difference(expected, runner(result, feed)())
    return record


def judged(model: onnx.ModelProto, slim: onnx.ModelProto, feed: dict[str, Any]) -> Record:
    """Stored weights, validity and latency beside the dense model."""
    record: Record = {"stored": [peer.elements(model), peer.elements(slim)], "defect": peer.defect(slim, feed)}
    try:
        medians = alternate({"dense": runner(model, feed), "slim": runner(slim, feed)}, REPEATS)
    except Exception:  # it does not run, which `defect` says
        return record
    return record | {"latency": [medians["dense"], medians["slim"]]}


TOOLS: dict[str, Callable[[str, onnx.ModelProto], Record]] = {OURS: ours, peer.NAME: theirs}


def _child(call: Callable[[], Record], connection: Connection) -> None:
    try:
        record = call()
    except BaseException as error:  # whatever happens becomes a line of the table
        text = str(error).splitlines()[0][:400] if str(error) else ""
        record = {"reason": f"{type(error).__name__}: {text}"}
    connection.send(record)


def in_own_process(call: Callable[[], Record]) -> Record:
    """The record of one measurement; of a process that died or hung, how."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(call, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(WALL_SECONDS):
            return {"reason": f"not done after {WALL_SECONDS} s"}
        return dict(receiver.recv())
    except EOFError:
        process.join()
        return {"reason": f"the process died (exit code {process.exitcode})"}
    finally:
        process.kill()
        process.join()


def warm_up() -> None:
    """Import everything that a measurement uses, so that no time goes into it; children share what is imported."""
    import onnxsim  # noqa: F401

    nodes = "a = Gemm(x, w) y = Gemm(a, v)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[1,8] x) => (float[1,8] y) {{ {nodes} }}'
    )
    weights = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in zip("wv", weights, strict=True))
    graphprune.optimize(model, 0.3)


def load_results() -> dict[tuple[str, str], Record]:
    """All records so far; later lines replace earlier ones."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(record["name"], record["tool"]): record for record in map(json.loads, lines)}


def tasks() -> dict[tuple[str, str], Callable[[], Record]]:
    """Everything that can be measured: models by tool, then accuracies."""
    jobs = {}
    for name, path in every_model().items():
        for tool, measure in TOOLS.items():
            jobs[name, tool] = lambda name=name, path=path, measure=measure: measure(name, onnx.load(path()))
    return jobs | {(name, "accuracy"): call for name, call in onnx_accuracy.tasks().items()}


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of models, with wildcards")
    parser.add_argument("--tool", nargs="+", choices=[*TOOLS, "accuracy"], default=[*TOOLS, "accuracy"])
    parser.add_argument("--redo", action="store_true", help="measure again what was measured")
    given = parser.parse_args()
    for _, path in every_model().items():  # exports are no part of a measurement
        in_own_process(lambda path=path: {"path": str(path())})
    warm_up()
    done = load_results()
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        for (name, tool), call in tasks().items():
            wanted = tool in given.tool and any(fnmatch(name, pattern) for pattern in given.only)
            if not wanted or (name, tool) in done and not given.redo:
                continue
            done[name, tool] = {"name": name, "tool": tool} | in_own_process(call)
            file.write(json.dumps(done[name, tool]) + "\n")
            file.flush()
            console.print(json.dumps(done[name, tool]), highlight=False, markup=False)
    write_page(done, list(every_model()))


if __name__ == "__main__":
    main()
