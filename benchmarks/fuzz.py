"""Prune random networks and prove each: python benchmarks/fuzz.py --networks 10000 writes docs/benchmarks/fuzz.md.

A run that is broken off goes on where it stopped (`--state`). Whatever is wrong is shrunk and printed as source.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common import ROOT, console, machine, page

sys.path.insert(0, str(ROOT / "tests"))

from examine import Outcome, Wrong, examine  # noqa: E402
from random_networks import Choices, Trial, shrink, trial  # noqa: E402

TEXT = """Printed by `python benchmarks/fuzz.py --networks {networks} --seed {seed}`. {machine}.

Random programs of up to 12 steps (`tests/random_networks.py`) with random options. Each is pruned, held against the
masked original in float64, run in float32, and then either made again from its saved plan or pruned a second time
(`tests/examine.py`). *Inexact* plans are held against the original whose inexact operations see living positions only.
**{networks:,} networks, {wrong} wrong**, {seconds:.0f} ms each on average."""

REFUSALS = {
    "NothingToPruneError": "everything is locked",
    "BudgetError": "the budget is out of reach of what is not locked",
    "ApplyError": "sizes are written into the code and cannot be rewritten",
    "CriterionError": "the criterion has nothing to say",
}


def attempt(seed: int) -> tuple[Trial, Outcome | Wrong]:
    """One network."""
    drawn = trial(Choices(seed))
    try:
        return drawn, examine(*drawn)
    except Wrong as wrong:
        return drawn, wrong


def report_wrong(drawn: Trial, wrong: Wrong, seed: int, examine: Any = examine) -> None:
    """Print the simplest network that goes wrong in the same way."""
    kind = str(wrong).partition(":")[0]

    def fails(other: Trial) -> bool:
        try:
            examine(*other)
        except Wrong as found:
            return str(found).startswith(kind)
        return False

    network, options = shrink(drawn, fails)
    console.print(
        f"[red]seed {seed}: {escape(str(wrong))}[/red]\n{escape(str(network))}\n{options}",
        highlight=False,
        soft_wrap=True,
    )


def run(
    first: int, count: int, state: dict[str, Any], save: Any, attempt: Any = attempt, examine: Any = examine
) -> None:
    """Go on from `state` until `count` networks are done."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("networks", total=count, completed=state["done"])
        for number in range(state["done"], count):
            start = time.perf_counter()
            drawn, outcome = attempt(first + number)
            state["seconds"] += time.perf_counter() - start
            if isinstance(outcome, Wrong):
                state["wrong"].append([first + number, str(outcome)[:200]])
                report_wrong(drawn, outcome, first + number, examine)
                key = "wrong"
            else:
                key = f"{outcome.status}: {outcome.detail.partition(':')[0]}"
            state["outcomes"][key] = state["outcomes"].get(key, 0) + 1
            pruned = not isinstance(outcome, Wrong) and outcome.status in ("proved", "inexact")
            for step in set(drawn[0].steps):
                seen = state["steps"].setdefault(step, [0, 0])
                seen[0] += 1
                seen[1] += pruned
            state["done"] = number + 1
            progress.advance(task)
            if state["done"] % 50 == 0:
                save()
    save()


def write(state: dict[str, Any], seed: int) -> None:
    """The page."""
    total, outcomes = state["done"], Counter(state["outcomes"])
    rows = []
    for key, number in outcomes.most_common():
        status, _, detail = key.partition(": ")
        meaning = {"Net": "the class is kept", "GraphModule": "as a GraphModule"}.get(
            detail, REFUSALS.get(detail, detail)
        )
        rows.append((status, meaning, f"{number:,}", f"{100 * number / total:.1f} %"))
    if "wrong" not in outcomes:
        rows.append(("wrong", "", "0", "0.0 %"))
    steps = sorted(state["steps"].items(), key=lambda item: -item[1][0])
    text = TEXT.format(
        networks=total,
        seed=seed,
        machine=machine(1),
        wrong=len(state["wrong"]),
        seconds=1000 * state["seconds"] / total,
    )
    table = [(step.replace("_", " "), f"{seen:,}", f"{pruned:,}") for step, (seen, pruned) in steps]
    page(
        "fuzz",
        "Random networks",
        text,
        (("result", "", "networks", "share"), rows),
        (("step", "networks with it", "pruned"), table),
    )


def resumed(path: Path, state: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The state of a run that was broken off, where it had the same seed, and a function that saves it."""
    if path.exists():
        kept = json.loads(path.read_text())
        state = kept if kept["seed"] == state["seed"] else state

    def save() -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, path)

    return state, save


def main() -> None:
    """Read the arguments, run, write the page."""
    given = arguments(__doc__, ".fuzz.json")
    state, save = resumed(given.state, fresh(given.seed))
    run(given.seed, given.networks, state, save)
    write(state, given.seed)
    given.state.unlink(missing_ok=True)
    sys.exit(bool(state["wrong"]))


def fresh(seed: int) -> dict[str, Any]:
    """The state of a run that has not begun."""
    return {"seed": seed, "done": 0, "seconds": 0.0, "outcomes": {}, "steps": {}, "wrong": []}


def arguments(text: str | None, state: str) -> argparse.Namespace:
    """The arguments of a run, whose state is kept in a file of this name."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--networks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; network i has seed + i")
    parser.add_argument("--state", type=Path, default=ROOT / state, help="where a broken off run is kept")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return parser.parse_args()


if __name__ == "__main__":
    main()
