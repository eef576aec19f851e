"""Prune ONNX exports of random networks and prove each: python benchmarks/fuzz_onnx.py --networks 5000.

Writes docs/benchmarks/fuzz_onnx.md. A run that is broken off goes on where it stopped (`--state`). Whatever is wrong is
shrunk and printed as the source of the network.
"""

import sys
from collections import Counter
from typing import Any

import fuzz
from common import machine, page
from examine import Outcome, Wrong
from examine_onnx import classes, examine, onnx_trial
from random_networks import Choices, Trial

TEXT = """Printed by `python benchmarks/fuzz_onnx.py --networks {networks} --seed {seed}`. {machine}.

The random programs of [fuzz.md](fuzz.md), exported to ONNX by `torch.onnx.export`: opsets 9 to 20, fixed and open axes,
with and without constant folding, as they are or rewritten (weights in Constant nodes, listed as inputs, in float16,
optimised by ONNX Runtime with its fused operators). Each is pruned with random options, checked in full, held against
the masked original in float64 by the reference evaluator of the onnx package, at the sizes of the export and at larger
ones, and loaded in ONNX Runtime; then it is made again from its saved plan or pruned a second time
(`tests/examine_onnx.py`). **{networks:,} networks, {wrong} wrong**, {seconds:.0f} ms each on average.

Of one in ten the groups are compared with those of the module: {agreement}. They differ where the exporter writes two
tensors for one (a tied weight and its transpose), folds constants, or joins both directions of a recurrent layer."""

MEANINGS = fuzz.REFUSALS | {
    "UnsupportedOperatorError": "the exporter lacks an operator",
    "ExampleInputsError": "no sizes of open axes were found without example inputs",
    "ApplyError": "sizes are written into the program",
    "nothing runs it": "neither ONNX Runtime nor the reference evaluator runs the export",
}


def attempt(seed: int, agreement: dict[str, int]) -> tuple[Trial, Outcome | Wrong]:
    """One network; of some the groups are compared with those of the module."""
    drawn = onnx_trial(Choices(seed))
    if seed % 10 == 0:
        pair = classes(*drawn)
        if pair is not None:
            kind = "same" if pair[0] == pair[1] else "fewer" if pair[1] < pair[0] else "more"
            agreement[kind] = agreement.get(kind, 0) + 1
    try:
        return drawn, examine(*drawn)
    except Wrong as wrong:
        return drawn, wrong


def write(state: dict[str, Any], seed: int) -> None:
    """The page."""
    total, outcomes, agreement = state["done"], Counter(state["outcomes"]), state["agreement"]
    rows = []
    for key, number in outcomes.most_common():
        status, _, detail = key.partition(": ")
        rows.append((status, MEANINGS.get(detail, detail), f"{number:,}", f"{100 * number / total:.1f} %"))
    if "wrong" not in outcomes:
        rows.append(("wrong", "", "0", "0.0 %"))
    compared = sum(agreement.values())
    told = f"{agreement.get('same', 0):,} of {compared:,} exports have as many as their module, "
    told += f"{agreement.get('more', 0)} have more, {agreement.get('fewer', 0)} fewer"
    text = TEXT.format(
        networks=total,
        seed=seed,
        machine=machine(1, "onnx", "onnxruntime"),
        wrong=len(state["wrong"]),
        seconds=1000 * state["seconds"] / total,
        agreement=told,
    )
    page("fuzz_onnx", "Random networks as ONNX", text, (("result", "", "networks", "share"), rows))


def main() -> None:
    """Read the arguments, run, write the page."""
    given = fuzz.arguments(__doc__, ".fuzz_onnx.json")
    state, save = fuzz.resumed(given.state, fuzz.fresh(given.seed) | {"agreement": {}})
    fuzz.run(given.seed, given.networks, state, save, lambda seed: attempt(seed, state["agreement"]), examine)
    write(state, given.seed)
    given.state.unlink(missing_ok=True)
    sys.exit(bool(state["wrong"]))


if __name__ == "__main__":
    main()
