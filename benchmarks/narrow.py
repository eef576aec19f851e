"""Networks of few channels: vectors of 16 numbers beside vectors of 8, on a processor with AVX-512.

GRAPHPRUNE_DATA=... python benchmarks/narrow.py [--repeats 40]
"""

import argparse
import os
import warnings
from functools import partial
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import torch  # noqa: E402

import graphprune  # noqa: E402
from cifar import data_folder  # noqa: E402
from common import machine, page, show, torchvision_model  # noqa: E402
from graphprune.errors import BudgetError  # noqa: E402
from graphprune.timing import alternate  # noqa: E402

TARGETS: dict[str, Any] = {
    "16 numbers": "x86-avx512",
    "8 numbers": {"base": "x86-avx512", "name": "narrow", "vector_width": 8},
    "8 numbers, AVX2": "x86-avx2",
}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "multiples of 16": {"multiple_of": 16},
    "multiples of 8": {"multiple_of": 8},
    "any counts": {"multiple_of": 1},
}
COLUMNS = ("network", "MACs", *(f"{name}, ms" for name in TARGETS), "8 over 16")
TEXT = """
Printed by `python benchmarks/narrow.py`. {}.

A layer that makes 8 channels fills half of a vector of 16 numbers, and costs what 16 channels cost. Networks as they
are and pruned to half of their multiply-adds (MACs), compiled for vectors of 16 numbers, for vectors of 8 with the same
instructions (`target={{"base": "x86-avx512", "name": "narrow", "vector_width": 8}}`), and for AVX2.
One thread, batch 1; programs take turns; medians.
"""


def measure(name: str, dense: torch.nn.Module, x: torch.Tensor, repeats: int) -> list[list[str]]:
    """One row per variant."""
    rows = []
    for variant, options in VARIANTS.items():
        half = {"sparsity": 0.5, "budget": "macs", "example_inputs": x}
        try:
            model = dense if options is None else graphprune.optimize(dense, **half, **options)
        except BudgetError:  # half of a layer of 16 channels is no multiple of 16
            rows.append([f"{name}, {variant}", "out of reach", *["-"] * 4])
            continue
        calls = {
            title: partial(graphprune.compile(model, target=target, example_inputs=x, threads=1), x)
            for title, target in TARGETS.items()
        }
        times = [1e3 * seconds for seconds in alternate(calls, repeats, in_a_row=5).values()]
        macs = graphprune.analyze(model, x).cost().macs / 1e6
        rows.append([f"{name}, {variant}", f"{macs:.0f} M", *(f"{t:.3f}" for t in times), f"{times[1] / times[0]:.2f}"])
    return rows


def main() -> None:
    """Print the table and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of exporters, about their own future
    folder = data_folder()
    from resnet_cifar import resnet

    trained = resnet(20, folder / "cifar10_models" / "resnet20_cifar10.pt").eval()
    rows = measure("CIFAR ResNet-20", trained, torch.randn(1, 3, 32, 32), given.repeats)
    rows += measure("resnet18", torchvision_model("resnet18"), torch.randn(1, 3, 224, 224), given.repeats)
    show("Vectors of 16 and of 8 numbers", COLUMNS, rows)
    page("narrow", "Networks of few channels", TEXT.format(machine(1, "apache-tvm")), (COLUMNS, rows))


if __name__ == "__main__":
    main()
