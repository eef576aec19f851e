"""Which models are pruned to half of their parameters and proved, by GraphPrune and by Torch-Pruning.

    python benchmarks/coverage.py [--family timm ...] [--only PATTERN ...] [--tool graphprune] [--redo | --redo-failed]

Every model and tool runs in a process of its own, with limits on time and memory. Results are kept in
`build/coverage.jsonl`: a run that was interrupted goes on where it stopped. When all are there, docs/coverage.md is
written. timm and transformers are in the extra `coverage`.
"""

import argparse
import gc
import json
import multiprocessing
import os
import resource
import time
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
os.environ.update(ONE_THREAD)  # before torch is imported

import torch  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402

import coverage_one  # noqa: E402
from common import ROOT, console  # noqa: E402
from coverage_models import FAMILIES, every_model  # noqa: E402
from coverage_page import OURS, write_page  # noqa: E402

RESULTS = ROOT / "build" / "coverage.jsonl"
WALL_SECONDS = 1200
MEMORY = 14 * 2**30
GOOD = ("proved", "ok")

Key = tuple[str, str, str]
Record = dict[str, Any]


def _child(key: Key, connection: Connection) -> None:
    """In the new process: measure, and send the record."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for stream in (1, 2):  # the record says it all
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        record = coverage_one.measure(*key)
    except BaseException as error:  # whatever happens becomes a line of the table
        text = str(error).splitlines()[0][:400] if str(error) else ""
        record = {"status": "failed", "reason": f"{type(error).__name__}: {text}"}
    connection.send(record)


def in_own_process(key: Key) -> Record:
    """The record of one measurement; of a process that died or hung, how."""
    context = multiprocessing.get_context("fork")  # everything is imported already
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(key, sender))
    start = time.perf_counter()
    process.start()
    sender.close()
    try:
        if not receiver.poll(WALL_SECONDS):
            return {"status": "failed", "reason": f"not done after {WALL_SECONDS} s"}
        return dict(receiver.recv()) | {"wall": time.perf_counter() - start}
    except EOFError:
        process.join()
        return {"status": "failed", "reason": f"the process died (exit code {process.exitcode})"}
    finally:
        process.kill()
        process.join()


def load_results(path: Path) -> dict[Key, Record]:
    """All records so far; later lines replace earlier ones."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return {(record["family"], record["name"], record["tool"]): record for record in records}


def wanted(given: argparse.Namespace, done: dict[Key, Record]) -> list[Key]:
    """What is to be measured now."""
    keys = [
        (family, name, tool)
        for family, name in every_model()
        for tool in given.tool
        if family in given.family and any(fnmatch(name, pattern) for pattern in given.only)
    ]
    if given.redo:
        return keys
    return [key for key in keys if key not in done or given.redo_failed and done[key]["status"] not in GOOD]


def run(keys: list[Key], done: dict[Key, Record]) -> None:
    """Measure one after another; every record is written at once."""
    RESULTS.parent.mkdir(exist_ok=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, auto_refresh=False) as bar, RESULTS.open("a") as file:
        task = bar.add_task("", total=len(keys))
        for key in keys:
            family, name, tool = key
            bar.update(task, description=f"{name}, {tool}", refresh=True)
            record = {"family": family, "name": name, "tool": tool} | in_own_process(key)
            done[key] = record
            file.write(json.dumps(record) + "\n")
            file.flush()
            console.print(f"{name}, {tool}: {_in_words(record)}", highlight=False, markup=False)
            bar.advance(task)


def _in_words(record: Record) -> str:
    parts = [record["status"]]
    if "params" in record:
        parts.append(f"{record['params'][1] / record['params'][0]:.1%} left")
    parts += [f"{record[key]:.1e}" for key in ("error",) if key in record]
    parts += [f"{key} {record[key]:.2f} s" for key in ("seconds", "verify", "wall") if key in record]
    return ", ".join([*parts, record.get("kind", ""), record.get("reason", "")]).rstrip(", ")


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of models, with wildcards")
    parser.add_argument("--tool", nargs="+", choices=list(coverage_one.TOOLS), default=list(coverage_one.TOOLS))
    parser.add_argument("--redo", action="store_true", help="measure again what was measured")
    parser.add_argument("--redo-failed", action="store_true", help="measure again what was not proved")
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = load_results(RESULTS)
    keys = wanted(given, done)
    if keys:
        coverage_one.warm_up({family for family, _, _ in keys})
        gc.collect()
        gc.freeze()  # children share what is imported
        run(keys, done)
    missing = [name for family, name in every_model() if (family, name, OURS) not in done]
    if missing:
        console.print(f"{len(missing)} models are still missing, so docs/coverage.md is not written")
    else:
        write_page(done)


if __name__ == "__main__":
    main()
