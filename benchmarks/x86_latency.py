"""Latency on x86, dense and at half of the multiply-adds: our artifact, ONNX Runtime, torch.compile, PyTorch.

    python benchmarks/x86_latency.py [--models resnet18 ...] [--threads 1 2] [--only dense ...] [--name NAME]
        [--redo] [--page]

Every program is a process of its own; those of a model take turns. Results are kept in `build/NAME.jsonl`
(`--results`): a run that was interrupted goes on where it stopped. The page and the plot are written when everything is
there, or of what there is with `--page`. transformers is in the extra `bench`.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import ROOT, console, machine
from x86_models import MODELS
from x86_page import NAME, summary, write_page

PEERS = ("onnxruntime", "inductor", "eager")
VARIANTS = ("dense", "aligned", "unaligned")
Key = tuple[str, int]
Record = dict[str, Any]


def run(name: str, threads: int, given: argparse.Namespace) -> Record:
    """The record of one measurement, made in a new process; a failure is a record, too."""
    code = f"""
import json, sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import common, x86_one
record = x86_one.measure({name!r}, {threads}, {given.only!r}, {given.peers!r}, {given.seconds})
print("\\n" + json.dumps(record))
"""
    # Programs set their own number of threads; numpy, which has no such call, computes nothing that is timed.
    pools = dict.fromkeys(("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    command = [*([] if given.core is None else ["taskset", "-c", given.core]), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | pools)
    record = {"model": name, "threads": threads, "machine": machine(None, "apache-tvm", "onnxruntime")}
    if done.returncode:
        error = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit code {done.returncode}"]
        return record | {"failed": error[0][:500]}
    return record | json.loads(done.stdout.splitlines()[-1])


def load_results(path: Path) -> dict[Key, Record]:
    """All records so far; later lines replace earlier ones, and a line that was cut off does not count."""
    results: dict[Key, Record] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        results[record["model"], record["threads"]] = record
    return results


def main() -> None:
    """Measure what is missing; print, and write the page and the plot."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, metavar="MODEL")
    options.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    options.add_argument("--only", nargs="+", default=VARIANTS, choices=VARIANTS, help="variants to measure")
    options.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS, help="peers to measure")
    options.add_argument("--seconds", type=float, default=40, help="about how long the turns of one process take")
    options.add_argument("--core", help="pin the processes to these cores (taskset)")
    options.add_argument("--name", default=NAME, help="of the page, its plot and its results: another one per machine")
    options.add_argument("--results", type=Path, help="default: build/NAME.jsonl")
    options.add_argument("--redo", action="store_true", help="measure again what is there")
    options.add_argument("--page", action="store_true", help="write the page of what there is")
    given = options.parse_args()
    given.only, given.peers = list(given.only), list(given.peers)
    given.results = given.results or ROOT / "build" / f"{given.name}.jsonl"
    results = load_results(given.results)
    given.results.parent.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        for threads in given.threads:
            if (name, threads) in results and not given.redo:
                continue
            with console.status(f"{name}, {threads} thread{'s' * (threads > 1)} ..."):
                record = run(name, threads, given)
            results[name, threads] = record
            with given.results.open("a") as file:
                file.write("\n" + json.dumps(record) + "\n")  # the last line may have been cut off
            console.print(summary(record))
    if given.page or all((name, threads) in results for name in MODELS for threads in (1, 2)):
        write_page([record for record in results.values() if "failed" not in record], given.name)


if __name__ == "__main__":
    main()
