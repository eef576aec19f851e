"""Time and memory of the analysis against the number of labels: decoders as large as 7 billion parameters.

    python benchmarks/scaling.py

Every decoder (RMS norm, rotary embedding, grouped attention, gated units) lives on the meta device: no weights. Each is
measured in a process of its own.
"""

import multiprocessing
import os
import resource
import time
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import graphprune  # noqa: E402
from common import ROOT, console, machine, page, show  # noqa: E402
from graphprune import report  # noqa: E402
from graphprune.report import BLUE, GREY, INK  # noqa: E402

COLUMNS = ("decoder", "parameters", "labels", "operations", "trace", "labels and solving", "analyze", "peak memory")


class Size(NamedTuple):
    """Sizes of a decoder; heads of keys and values may be fewer than those of queries."""

    width: int
    layers: int
    heads: int
    shared_heads: int
    inner: int
    vocabulary: int = 32000


SIZES = (
    Size(128, 2, 4, 2, 344),
    Size(256, 4, 4, 2, 688),
    Size(512, 8, 8, 4, 1376),
    Size(1024, 16, 16, 8, 2752),
    Size(2048, 22, 32, 4, 5632),
    Size(3200, 26, 32, 32, 8640),
    Size(4096, 32, 32, 32, 11008),
)


class Attention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.dim = size.width // size.heads
        self.query = nn.Linear(size.width, size.heads * self.dim, bias=False)
        self.key = nn.Linear(size.width, size.shared_heads * self.dim, bias=False)
        self.value = nn.Linear(size.width, size.shared_heads * self.dim, bias=False)
        self.out = nn.Linear(size.heads * self.dim, size.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x: (batch, tokens, width)."""
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.dim)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        q, k = (part * cos + _half_turned(part) * sin for part in (q, k))
        return self.out(
            F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        )


def _half_turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class Layer(nn.Module):
    """Attention and a gated feed-forward part, each on a residual branch."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(size.width), nn.RMSNorm(size.width)
        self.attention = Attention(size)
        self.gate, self.up = (nn.Linear(size.width, size.inner, bias=False) for _ in range(2))
        self.down = nn.Linear(size.inner, size.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x: (batch, tokens, width)."""
        x = x + self.attention(self.before(x), cos, sin)
        y = self.between(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Token numbers to scores of the next token."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)
        self.dim = size.width // size.heads

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: (batch, tokens)."""
        rates = 10000 ** (-torch.arange(0, self.dim, 2, device=tokens.device) / self.dim)
        angles = torch.outer(torch.arange(tokens.shape[1], device=tokens.device), rates).repeat(1, 2)
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        return self.head(self.norm(x))


def measure(size: Size, sender: Any) -> None:
    """In a new process: figures of one decoder."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        graphprune.analyze(Decoder(SIZES[0]), torch.zeros(1, 8, dtype=torch.long))  # imports are no model's time
        model, tokens = Decoder(size), torch.zeros(1, 128, dtype=torch.long)
    start = time.process_time()
    analysis = graphprune.analyze(model, tokens)
    total = time.process_time() - start
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counts = {"parameters": parameters, "labels": analysis.equations.count, "nodes": len(analysis.graph.nodes)}
    sender.send(counts | {"seconds": analysis.seconds, "total": total, "memory": memory})


def picture(figures: list[dict[str, Any]]) -> None:
    """Seconds against labels, both logarithmic, and the line of equal time per label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    labels = [row["labels"] for row in figures]
    slope = figures[-1]["total"] / labels[-1]
    axes.plot(labels, [slope * count for count in labels], color=GREY, label="equal time per label")
    axes.plot(labels, [row["total"] for row in figures], "o-", color=BLUE, label="analyze")
    axes.plot(labels, [row["seconds"]["labels"] for row in figures], "s--", color=INK, label="labels and solving")
    axes.set(xscale="log", yscale="log", xlabel="labels", ylabel="processor seconds")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(ROOT / "docs" / "benchmarks" / "scaling.svg", metadata={"Date": None})


def main() -> None:
    """Measure every size; write the page and the picture."""
    figures, rows = [], []
    for size in SIZES:
        receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(size, sender))
        with console.status(f"measuring {size} ..."):
            process.start()
            figures.append(receiver.recv())
            process.join()
        row = figures[-1]
        seconds = [row["seconds"]["trace"], row["seconds"]["labels"], row["total"]]
        counts = [report.count(row["parameters"]), f"{row['labels']:,}", f"{row['nodes']:,}"]
        times = [report.duration(value) for value in seconds]
        rows.append([f"{size.layers} layers of {size.width}", *counts, *times, report.size(row["memory"])])
    show("Scaling", COLUMNS, rows)
    page("scaling", "Time of the analysis against its size", TEXT.format(machine=machine(1)), (COLUMNS, rows))
    picture(figures)


TEXT = """
Printed by `python benchmarks/scaling.py`. {machine}.

Decoders of Llama's kind on the meta device, 128 tokens; processor seconds of `graphprune.analyze`, and the peak
resident memory of the process, torch included.

![seconds against labels](scaling.svg)
"""


if __name__ == "__main__":
    main()
