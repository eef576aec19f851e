"""Which torchvision models are pruned and proved, or refused with a reason. Run by hand: python benchmarks/coverage.py.

Every model is built with random weights, gets batch-norm statistics from one random batch (untouched ones let signals
die out in deep networks, and then equal outputs prove nothing), is pruned to half of its parameters without example
inputs, and verified in float64 on one random input. Writes docs/benchmarks/coverage.md.
"""

import gc
import sys
import time
import warnings

import graphprune
from common import ROOT, console, machine, page, parameters
from graphprune.errors import GraphPruneError

sys.path.insert(0, str(ROOT / "tests"))

LARGEST = 150_000_000
"""Models with more parameters are left out: float64 runs of them take minutes."""

TEXT = """Printed by `python benchmarks/coverage.py`. {machine}.

Random weights with batch-norm statistics from a random batch; half of the parameters, no example inputs, verified in
float64 against the masked original. *Not proved*: with random weights no input moves the outputs, so equality says
nothing. **{summary}** of {total} models. A refusal names the operation in the way."""


def calibrated(model):
    """Batch-norm statistics of one random batch, so that signals survive; zero heads and layer scales randomised."""
    import torch

    from helpers import randomise

    model = randomise(model).train()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.momentum = 1.0
        try:
            model(torch.randn(2, 3, 224, 224))
        except (AssertionError, RuntimeError):  # some take one larger size only
            model(torch.randn(2, 3, 299, 299))
    return model.eval()


def attempt(models, name: str) -> tuple[str, str, int, float]:
    """(status, detail, parameters, seconds) for one model."""
    segments = name in models.list_models(models.segmentation)
    model = models.get_model(name, weights=None, **({"weights_backbone": None} if segments else {}))
    size = parameters(model)
    if size > LARGEST:
        return "left out", "too large for this run", size, 0.0
    try:
        model = calibrated(model)
    except AssertionError:  # transformers of another size have no batch norm to calibrate
        model = model.eval()
    start = time.process_time()
    try:
        slim = graphprune.optimize(model, sparsity=0.5, verify=False)
        seconds = time.process_time() - start
        seen = graphprune.verify(model, slim, thorough=False)
    except GraphPruneError as error:
        status = "not proved" if "prove nothing" in str(error) else "refused"
        detail = f"{type(error).__name__}: {str(error).splitlines()[0][:140]}"
        return status, detail, size, time.process_time() - start
    plan = graphprune.plan_of(slim)
    kind = "" if type(slim) is type(model) else ", as a GraphModule"
    return "proved", f"error {seen.error:.0e}{kind}{'' if plan.exact else ', inexact groups'}", size, seconds


def main() -> None:
    """Print and write the table."""
    from helpers import define_missing_operators

    define_missing_operators()
    from torchvision import models

    warnings.simplefilter("ignore")
    wanted = sys.argv[1:] or [*models.list_models(models), *models.list_models(models.segmentation)]
    rows = []
    for name in wanted:
        status, detail, size, seconds = attempt(models, name)
        rows.append((name, f"{size / 1e6:.1f} M", f"{seconds:.2f} s", f"{status}: {detail}", status))
        console.print(*rows[-1][:4])
        gc.collect()
    counts = {status: sum(row[4] == status for row in rows) for status in dict.fromkeys(row[4] for row in rows)}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(summary)
    if not sys.argv[1:]:
        text = TEXT.format(machine=machine(1), summary=summary, total=len(rows))
        table = ("model", "parameters", "optimize", "result"), [row[:4] for row in rows]
        page("coverage", "Coverage of torchvision", text, table)


if __name__ == "__main__":
    main()
