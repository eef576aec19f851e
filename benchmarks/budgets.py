"""How closely budgets are hit, on the models of the coverage benchmark.

    python benchmarks/budgets.py [--family timm ...] [--only PATTERN ...] [--redo]

Only plans are made, with random scores, which need no numbers: the models are built on the meta device where they can
be. Every model runs in a process of its own, with a limit on time. Results are kept in `build/budgets.jsonl`: a run
that was interrupted goes on where it stopped. Then docs/benchmarks/budgets.md is written.
"""

import argparse
import json
import os
import time
import warnings
from fnmatch import fnmatch
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import torch  # noqa: E402

import graphprune  # noqa: E402
from common import ROOT, console, page, show  # noqa: E402
from coverage_models import FAMILIES, Case, every_model  # noqa: E402
from graphprune import report  # noqa: E402
from graphprune.errors import BudgetError, GraphPruneError  # noqa: E402

RESULTS = ROOT / "build" / "budgets.jsonl"
SECONDS = 90
BUDGETS: dict[str, Any] = {
    "params": {"params": 0.5},
    "macs": {"macs": 0.5},
    "bytes": {"bytes": 0.5},
    "memory": {"memory": 0.2},
    "params and macs": {"params": 0.5, "macs": 0.5},
}
WITHIN = 0.01
COLUMNS = ("budget", "models", "hit within 0.1 %", "within 1 %", "missed by more", "out of reach", "largest miss")

Record = dict[str, Any]


def analysed(family: str, name: str) -> graphprune.Analysis:
    """A model on the meta device; with numbers where it cannot be built or run there."""

    def analysis(case: Case) -> graphprune.Analysis:
        return graphprune.analyze(case.model, None if case.inferred else case.inputs)

    try:
        with torch.device("meta"):
            case = FAMILIES[family].build(name)
        return analysis(case)
    except Exception:
        return analysis(FAMILIES[family].build(name))


def measure(family: str, name: str) -> Record:
    """For every budget the share of it that is left unused, or why it is out of reach, and the seconds of the plan."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    analysis = analysed(family, name)
    record: Record = {}
    for title, budget in BUDGETS.items():
        start = time.process_time()
        record[title] = _miss(analysis, budget) | {"seconds": time.process_time() - start}
    return record


def _miss(analysis: graphprune.Analysis, budget: dict[str, float]) -> Record:
    """Asked for as much as can be reached where that is less."""
    found: Record = {}
    for _ in range(2):
        try:
            plan = analysis.plan(budget=budget, criterion="random")
            break
        except BudgetError as error:
            found["reachable"] = error.reachable
            if not error.reachable or len(budget) > 1:
                return found
            budget = dict.fromkeys(budget, 0.999 * error.reachable)
        except GraphPruneError as error:
            return {"failed": str(error).splitlines()[0]}
    left = {name: plan.report[name] for name in budget}
    miss = min(1 - after / (before * (1 - budget[name])) for name, (before, after) in left.items())
    return found | {"miss": miss, "widths": len(plan.widths())}


def in_own_process(family: str, name: str) -> Record:
    """The record of one model; of a process that died or took too long, how."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            import signal

            signal.alarm(SECONDS)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                record = measure(family, name)
            except Exception as error:
                record = {"failed": f"{type(error).__name__}: {error}"[:200]}
            os.write(writer, json.dumps(record).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    return dict(json.loads(text)) if text else {"failed": f"not done after {SECONDS} s"}


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of models, with wildcards")
    parser.add_argument("--redo", action="store_true", help="measure again what was measured")
    given = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = {(line["family"], line["name"]): line for line in map(json.loads, lines)}
    wanted = [
        (family, name)
        for family, name in every_model()
        if family in given.family and any(fnmatch(name, pattern) for pattern in given.only)
    ]
    with RESULTS.open("a") as file:
        for family, name in wanted:
            if (family, name) in done and not given.redo:
                continue
            record = {"family": family, "name": name} | in_own_process(family, name)
            done[family, name] = record
            file.write(json.dumps(record) + "\n")
            file.flush()
            console.print(f"{name}: {_in_words(record)}", highlight=False, markup=False)
    present([done[key] for key in every_model() if key in done])


def _in_words(record: Record) -> str:
    if "failed" in record:
        return str(record["failed"])
    return ", ".join(f"{title} {_percent(record[title])}" for title in BUDGETS)


def _percent(found: Record) -> str:
    return f"{100 * found['miss']:.2f} %" if "miss" in found else "out of reach"


def present(records: list[Record]) -> None:
    """The tables: how many budgets were hit, and those that were not, with the reason."""
    measured = [record for record in records if "failed" not in record]
    rows, missed = [], []
    for title in BUDGETS:
        found = [(record["name"], record[title]) for record in measured]
        hit = [(name, one["miss"]) for name, one in found if "miss" in one]
        worst = max(hit, key=lambda pair: pair[1], default=("", 0.0))
        far = [name for name, miss in hit if miss > WITHIN]
        counts = (len(found), sum(miss <= 0.001 for _, miss in hit), sum(miss <= WITHIN for _, miss in hit))
        beyond = sum("reachable" in one for _, one in found)
        rows.append([title, *map(str, counts), str(len(far)), str(beyond), f"{100 * worst[1]:.2f} % {worst[0]}"])
        for name, one in found:
            if one.get("miss", 0) > WITHIN:
                missed.append([name, title, _percent(one)])
    failed = [[record["name"], record["failed"]] for record in records if "failed" in record]
    show("Budgets", COLUMNS, rows)
    show("Missed by more than 1 %", MISSED, missed)
    more = [
        f"## {title}\n\n{text}\n\n{report.markdown(columns, table).strip()}"
        for title, text, columns, table in (
            ("Missed by more than 1 %", WHY, MISSED, missed),
            ("Not measured", "", ("model", "reason"), failed),
        )
        if table
    ]
    page("budgets", "How closely budgets are hit", TEXT, (COLUMNS, rows), more=more)


MISSED = ("model", "budget", "unused")
WHY = """One group is more than 1 % of these budgets. The memory at the peak is that of a few results: there a channel
is 1/96 of the whole in MobileNetV2, groups of a group norm lose a channel each, and in transformers only whole heads
and widths that all blocks share count."""

TEXT = """
Printed by `python benchmarks/budgets.py`.

Plans for the models of the [coverage benchmark](../coverage.md), with random scores: half of the parameters, half of
the multiply-accumulates (MACs), half of the bytes, a fifth off the peak of activation memory, and half of parameters
and MACs at the same time. A budget is never exceeded; the table says how much of the tightest one is left unused.
*out of reach*: locks hold more than the budget; then as much was asked for as can be reached, where a single quantity
was budgeted.
"""


if __name__ == "__main__":
    main()
