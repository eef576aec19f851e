"""Damage ONNX models and see that all is refused or works: writes docs/benchmarks/onnx_bad_input.md.

python benchmarks/onnx_bad_input.py --cases 10000, with GRAPHPRUNE_DATA naming the folder with trained models.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from rich.progress import track

from common import ROOT, console, machine, page

sys.path.insert(0, str(ROOT / "tests"))

from onnx_mutations import MUTATIONS, Wrong, attempt, mutated  # noqa: E402
from onnx_networks import NETWORKS  # noqa: E402

SECONDS = 60
MEMORY = 8 << 30

TEXT = """Printed by `python benchmarks/onnx_bad_input.py --cases {cases}`. {machine}.

Every case is one mutation (`tests/onnx_mutations.py`) of one of {real} trained models and {small} small ones, half of
the cases each. It is read, analysed, pruned by 30 %, saved and read again, in a process of its own kind that is watched
for crashes, for {seconds} s without an answer, for more than {memory} GiB, for files left behind, and for files opened
outside of the model's folder. *Refused*: by an error of GraphPrune. *Works*: the mutation does no harm.
**{cases:,} cases, {wrong} wrong**."""


def models() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Trained models and small ones, as bytes."""
    folder = Path(os.environ["GRAPHPRUNE_DATA"]) / "onnx"
    real = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.onnx"))}
    return real, {name: make().model.SerializeToString() for name, make in NETWORKS.items()}


def serve(pipe: Connection) -> None:
    """A worker: case numbers in, outcomes out, until nobody asks."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sets = models()
    with tempfile.TemporaryDirectory() as folder, suppress(EOFError):
        while True:
            number = pipe.recv()
            try:
                pipe.send(attempt(number // 2, sets[number % 2], Path(folder)))
            except Wrong as wrong:
                pipe.send(f"wrong: {wrong}")


class Worker:
    """A process that may die or hang; another takes its place."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a process."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def run(self, number: int) -> str:
        """What came of a case."""
        try:
            self.pipe.send(number)
            if self.pipe.poll(SECONDS):
                return str(self.pipe.recv())
            outcome = f"wrong: no answer within {SECONDS} s"
        except (EOFError, OSError):
            self.process.join()
            outcome = f"wrong: died with exit code {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        self.start()
        return outcome


def main() -> None:
    """Run all cases and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    sets, workers = models(), threading.local()
    found: Counter[tuple[str, str]] = Counter()

    def run(number: int) -> tuple[int, str]:
        if not hasattr(workers, "mine"):
            workers.mine = Worker()
        return number, workers.mine.run(number)

    with ThreadPoolExecutor(arguments.workers) as pool:
        for number, outcome in track(pool.map(run, range(arguments.cases)), total=arguments.cases, console=console):
            kind = list(MUTATIONS)[number // 2 % len(MUTATIONS)]
            if outcome.startswith("wrong"):
                name = mutated(number // 2, sets[number % 2])[1]
                console.print(f"[red]case {number}, {kind} of {name}: {outcome}[/red]", highlight=False, soft_wrap=True)
                outcome = "wrong"
            found[kind, outcome] += 1
    report(found, {**sets[0]}, {**sets[1]}, arguments.cases)


def report(found: Counter[tuple[str, str]], real: dict[str, bytes], small: dict[str, bytes], cases: int) -> None:
    """Write the page: by kind of mutation, and by error."""
    rows = []
    for kind in MUTATIONS:
        counts = {outcome: count for (name, outcome), count in found.items() if name == kind}
        works, wrong, total = counts.get("works", 0), counts.get("wrong", 0), sum(counts.values())
        rows.append((kind, f"{total:,}", f"{total - works - wrong:,}", f"{works:,}", str(wrong)))
    errors: Counter[str] = Counter()
    for (_, outcome), count in found.items():
        errors[outcome] += count
    wrong = errors.pop("wrong", 0)
    text = TEXT.format(
        cases=cases,
        machine=machine(1, "onnx", "onnx-ir"),
        real=len(real),
        small=len(small),
        seconds=SECONDS,
        memory=MEMORY >> 30,
        wrong=wrong,
    )
    table = ("mutation", "cases", "refused", "works", "wrong"), rows
    by_error = ("outcome", "cases"), [(name, f"{count:,}") for name, count in errors.most_common()]
    page("onnx_bad_input", "Damaged ONNX models", text, table, by_error)


if __name__ == "__main__":
    main()
