"""Where kernels that pass over zeros become faster than dense ones: single layers and whole networks, on one thread.

Needs the extra `bench` for the networks. Writes docs/benchmarks/sparse.md. Run by hand: python benchmarks/sparse.py.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import graphprune
from common import console, machine, page, show, torchvision_model
from graphprune.backends import lower_convolution, lower_matmul
from graphprune.backends.targets import get_target
from graphprune.timing import alternate

SHARES = (0.7, 0.8, 0.9, 0.95)
STRUCTURES = ("unstructured", "block:16x1")
LAYERS = {
    "linear, 1 row, 768 to 3072": (lambda: nn.Linear(768, 3072), (1, 768)),
    "linear, 128 rows, 768 to 768": (lambda: nn.Linear(768, 768), (128, 768)),
    "1x1 convolution, 256 to 256, 28x28": (lambda: nn.Conv2d(256, 256, 1), (1, 256, 28, 28)),
    "1x1 convolution, 256 to 256, 14x14": (lambda: nn.Conv2d(256, 256, 1), (1, 256, 14, 14)),
    "3x3 convolution, 128 to 128, 28x28": (lambda: nn.Conv2d(128, 128, 3, padding=1), (1, 128, 28, 28)),
}
COLUMNS = ("layer", "structure", "zeros", "dense", "sparse", "times", "by default", "torch dense", "torch CSR")
NETWORKS = ("resnet18", "mobilenet_v2")
TEXT = """
One layer of random weights, of which a share is zero: single weights, or tiles of 16 outputs by one input, the smallest
ones. Microseconds of processor time of one thread, medians of {repeats} calls that take turns. *dense* and *sparse* are
artifacts of `graphprune.compile`; *times* is how much faster the sparse one is, and *by default* whether
`compile(sparse="auto")` takes it without measuring. *torch CSR* multiplies a `torch.sparse_csr` weight with the rows or
pixels. Printed by `python benchmarks/sparse.py` on

{machine}; target {target}.
"""
READING = """## What this says

- Of the shares measured, tiles of 16 outputs by one input beat the dense kernel from {tiles} zeros on, depending on the
  layer; single zeros from {single} on. Where fewer are zero, a sparse model may well not be faster.
- A 3x3 convolution has the Winograd algorithm as its dense rival, so that it takes more zeros to win.
- Single zeros need vectors of pixels or rows: between layers that keep their channels in vectors numbers have to be
  moved. These layers stand alone, and some are spared that; the default counts it as inside of a network.
- Where the last column is the least, the product with a CSR matrix in torch is faster than these kernels.
- On NVIDIA GPUs 2:4 has hardware of its own (`graphprune.to_semi_structured`); processors gain nothing from it.
"""
NETWORK_TEXT = """## Whole networks

torchvision models of random weights, pruned by magnitude with `scope="layer"`, images of 224x224, milliseconds on one
thread. *kernels* counts those that pass over zeros."""
NETWORK_COLUMNS = ("network", "structure", "zeros", "dense", "auto", "times", "kernels")


@contextmanager
def forced() -> Iterator[None]:
    """Sparse kernels wherever there are any, the most promising kind of them."""
    kept = {module: module.with_sparse for module in (lower_matmul, lower_convolution)}

    def with_sparse(lowering: Any, dense: Any, found: Any) -> list[Any]:
        ranked = sorted(found, key=lambda item: item[0].cost + item[1])
        return [*(item[0].candidates()[0] for item in ranked), *dense]

    for module in kept:
        module.with_sparse = with_sparse
    try:
        yield
    finally:
        for module, function in kept.items():
            module.with_sparse = function


def sparse_layer(make: Any, shape: tuple[int, ...], share: float, structure: str) -> nn.Module:
    """A layer with zeros."""
    torch.manual_seed(0)
    model = nn.Sequential(make()).eval()
    options = {"structure": structure, "budget": "weights", "example_inputs": torch.randn(shape)}
    return graphprune.optimize(model, share, verify=False, **options)


def csr(layer: nn.Module, x: torch.Tensor) -> Any:
    """The layer as a product with a CSR matrix; None where it is none."""
    weight = layer.weight.detach()
    if weight.dim() == 4 and weight.shape[2:] != (1, 1):
        return None
    matrix = weight.reshape(weight.shape[0], -1).to_sparse_csr()
    if x.dim() == 2:
        return lambda: torch.addmm(layer.bias[:, None], matrix, x.t()).t()
    flat = x.reshape(x.shape[1], -1)
    return lambda: torch.addmm(layer.bias[:, None], matrix, flat)


def microseconds(model: nn.Module, shape: tuple[int, ...], repeats: int) -> tuple[dict[str, float], bool]:
    """Medians by program, and whether a sparse kernel is taken by default."""
    x = torch.randn(shape)
    dense = graphprune.compile(model, example_inputs=x, threads=1, sparse=False)
    auto = sparse = graphprune.compile(model, example_inputs=x, threads=1)
    if not _sparse_kernels(auto):
        with forced():
            sparse = graphprune.compile(model, example_inputs=x, threads=1)
    calls = {"dense": lambda: dense(x), "sparse": lambda: sparse(x), "torch": lambda: model(x)}
    product = csr(model[0], x)
    if product is not None:
        calls["csr"] = product
    wanted = model(x)
    for name, call in calls.items():
        error = float((call().reshape(wanted.shape) - wanted).abs().max() / wanted.abs().max())
        assert error < 1e-4, (name, error)
    seconds = alternate(calls, repeats, clock=time.thread_time, in_a_row=3)
    return {name: 1e6 * second for name, second in seconds.items()}, _sparse_kernels(auto) > 0


def _sparse_kernels(artifact: Any) -> int:
    return sum("sparse" in name for name in artifact.manifest["kernels"])


def layers(repeats: int) -> tuple[list[tuple[str, ...]], dict[str, list[float]]]:
    """The rows of the table, and per structure the share of zeros at which each layer begins to gain."""
    rows, begins = [], {structure: [] for structure in STRUCTURES}
    for name, (make, shape) in LAYERS.items():
        for structure in STRUCTURES:
            gains = {}
            for share in SHARES:
                times, default = microseconds(sparse_layer(make, shape, share, structure), shape, repeats)
                gains[share] = times["dense"] / times["sparse"]
                figures = [f"{times[key]:.0f}" if key in times else "-" for key in ("dense", "sparse", "torch", "csr")]
                cells = (
                    name,
                    structure,
                    f"{share:.0%}",
                    *figures[:2],
                    f"{gains[share]:.2f}",
                    "yes" if default else "no",
                )
                rows.append((*cells, *figures[2:]))
                console.print(*rows[-1], sep=" | ")
            begins[structure].append(min((share for share in SHARES if gains[share] > 1.05), default=1.0))
    return rows, begins


def networks(repeats: int) -> list[tuple[str, ...]]:
    """Whole networks: dense beside what is compiled by default."""
    rows = []
    for name in NETWORKS:
        x = torch.randn(1, 3, 224, 224)
        model = torchvision_model(name)
        for structure in STRUCTURES:
            for share in (0.9,):
                options = {"structure": structure, "scope": "layer", "verify": False, "example_inputs": x}
                sparse = graphprune.optimize(model, share, budget="weights", **options)
                made = {
                    key: graphprune.compile(sparse, example_inputs=x, threads=1, sparse=value)
                    for key, value in (("dense", False), ("auto", "auto"))
                }
                calls = {key: (lambda artifact=artifact, x=x: artifact(x)) for key, artifact in made.items()}
                times = alternate(calls, repeats, clock=time.thread_time)
                figures = [f"{1e3 * times[key]:.1f}" for key in ("dense", "auto")]
                gain = f"{times['dense'] / times['auto']:.2f}"
                rows.append((name, structure, f"{share:.0%}", *figures, gain, str(_sparse_kernels(made["auto"]))))
                console.print(*rows[-1], sep=" | ")
    return rows


def span(shares: list[float]) -> str:
    """`70 to 90 %`."""
    low, high = f"{min(shares):.0%}".rstrip("%"), f"{max(shares):.0%}".rstrip("%")
    return f"{low} %" if low == high else f"{low} to {high} %"


def main() -> None:
    """Print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--networks", action="store_true", help="whole networks, too: some minutes more")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rows, begins = layers(options.repeats)
    whole = networks(options.repeats) if options.networks else []
    show("layers", COLUMNS, rows)
    facts = {"machine": machine(1, "apache-tvm"), "target": get_target("x86").name, "repeats": 3 * options.repeats}
    reading = READING.format(tiles=span(begins["block:16x1"]), single=span(begins["unstructured"]))
    from graphprune.report import markdown

    more = [reading]
    if whole:
        show("networks", NETWORK_COLUMNS, whole)
        more += [NETWORK_TEXT, markdown(NETWORK_COLUMNS, whole).strip()]
    page("sparse", "Kernels that pass over zeros", TEXT.format(**facts), (COLUMNS, rows), more=more)


if __name__ == "__main__":
    main()
