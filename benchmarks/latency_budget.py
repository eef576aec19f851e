"""Budgets of MACs beside budgets of latency: what is left of a model, and how much faster it is.

    python benchmarks/latency_budget.py [--models resnet18 ...] [--rounds 3]

One thread. Kernels are measured where their times are not known yet, in `~/.cache/graphprune`. Figures are kept in
`build/latency_budget.json`; docs/benchmarks/latency_budget.md is written from them.
"""

import argparse
import json
import os
import warnings
from dataclasses import replace
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import torch  # noqa: E402

import graphprune  # noqa: E402
from common import ROOT, console, machine, page, show  # noqa: E402
from graphprune.allocation import Account, by_cost, cut  # noqa: E402
from graphprune.backends.compiler import compile_model  # noqa: E402
from graphprune.backends.latency import checked_target, clock_of, seconds_of  # noqa: E402
from graphprune.budget import Options, _ordered  # noqa: E402
from graphprune.cost import CostModel  # noqa: E402
from graphprune.plan import Plan  # noqa: E402
from graphprune.policy import COMPILED  # noqa: E402
from x86_models import build  # noqa: E402

RESULTS = ROOT / "build" / "latency_budget.json"
MODELS = ("resnet18", "mobilenet_v2", "densenet121", "regnet_y_400mf", "vgg11_bn")
COLUMNS = ("model, budget", "MACs left", "params left", "importance left", "predicted", "measured", "of the MACs")
TARGET = "x86"


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Speed-ups, costs and importance of what several ways leave of a model."""
    model, example = build(name)
    target = checked_target(TARGET)
    analysis = graphprune.analyze(model, example, COMPILED)
    artifacts = {"dense": compile_model(model, TARGET, example, threads=1)}
    dense = seconds_of(artifacts, 1)["dense"]
    clock = clock_of(analysis, target, 1, dense)
    costs = CostModel.of(analysis, clock)
    options = Options(multiple_of=target.channel_alignment)
    units, order = _ordered(analysis, options, analysis.free)
    _, even = _ordered(analysis, replace(options, scope="isomorphic"), analysis.free)
    before = costs.totals(torch.ones(analysis.solution.count, dtype=torch.bool).numpy())
    half = {"macs": before["macs"] // 2}
    timely = by_cost(Account(costs, units, {"latency": before["latency"] // 4}), order)
    staying: dict[str, Any] = {
        "half of the MACs": cut(Account(costs, units, half), order),
        "half of the MACs, evenly": cut(Account(costs, units, half), even),
        "half of the MACs, by time": cut(Account(costs, units, half), timely),
    }
    for title, alive in staying.items():
        artifacts[title] = _compiled(analysis, model, example, alive[units.of_class], before, costs)
    seconds = seconds_of(artifacts, 1)
    goal = seconds["half of the MACs"] / seconds["dense"]
    title, aim = "as fast, by time", goal
    for _ in range(rounds):  # as optimize(latency=...) does
        staying[title] = cut(Account(costs, units, {"latency": int(aim * before["latency"])}), timely)
        alive = staying[title][units.of_class]
        artifacts[title] = _compiled(analysis, model, example, alive, before, costs)
        seconds = seconds_of({"dense": artifacts["dense"], title: artifacts[title]}, 1)
        reached = seconds[title] / seconds["dense"]
        if abs(reached / goal - 1) < 0.03:
            break
        aim *= goal / reached
    seconds = seconds_of(artifacts, 1)
    rows = {}
    for title, kept in staying.items():
        after = costs.totals(kept[units.of_class])
        rows[title] = {name: after[name] / before[name] for name in before} | {
            "importance": float(units.score[kept].sum() / units.score.sum()),
            "measured": seconds[title] / seconds["dense"],
        }
    return rows


def _compiled(analysis: Any, model: Any, example: Any, alive: Any, before: Any, costs: CostModel) -> Any:
    plan = Plan.of(analysis, alive, Options(policy=COMPILED).as_json(), before, costs.totals(alive))
    return compile_model(plan.apply(model), TARGET, example, threads=1)


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="*", choices=MODELS, default=list(MODELS), help="none: write the page from what is known"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of exporters, about their own future
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.models:
        with console.status(f"{name}: compiling and measuring ..."):
            known[name] = measure(name, given.rounds)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(known))
        console.print(name, known[name])
    rows = [
        [
            f"{name}, {title}",
            *(f"{100 * row[key]:.1f} %" for key in ("macs", "params", "importance")),
            *(f"{1 / row[key]:.2f} x" for key in ("latency", "measured")),
            f"{row['macs'] / row['measured']:.2f}",
        ]
        for name in MODELS
        if name in known
        for title, row in known[name].items()
    ]
    show("Budgets of MACs and of latency", COLUMNS, rows)
    page("latency_budget", "Budgets of MACs and of latency", TEXT.format(machine(1, "apache-tvm")), (COLUMNS, rows))


TEXT = """
Printed by `python benchmarks/latency_budget.py`. {}.

One 224x224 image; random weights, l2, channel counts that suit the target. Ways to choose: *half of the MACs*, the
least important channels first; *evenly*: of all layers of a kind the same share (`scope="isomorphic"`); *by time*:
those first of which the least importance is lost for the predicted time they save; *as fast, by time*: in that order,
until the model is measured to be as fast as the first one. *importance*: the sum of the normalised scores of what is
left, of all; *predicted* and *measured*: speed-up by the clock of the kernels, and of compiled models that take turns;
*of the MACs*: the measured speed-up over the reduction of MACs.
"""


if __name__ == "__main__":
    main()
