"""Why models are traced by recording a run: processor time against torch.fx and torch.export, and what each can read.

Run by hand: python benchmarks/tracers.py. Writes docs/benchmarks/tracers.md.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from common import machine, page, show, torchvision_model
from graphprune.frontends.torch.read import trace

MODELS = ["resnet50", "densenet121", "mobilenet_v3_large", "vit_b_16", "swin_t"]

TEXT = """Printed by `python benchmarks/tracers.py`. {machine}.

Processor seconds on one thread, medians of five alternated runs; one 224x224 image. *Loop* is a module whose forward
branches on a size, *branch* one that branches on a number. A dash: the tracer refuses."""


class Loop(nn.Module):
    """Control flow on sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve until small."""
        while x.shape[-1] > 8:
            x = nn.functional.max_pool2d(self.conv(x), 2)
        return x


class Branch(nn.Module):
    """Control flow on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve positive images only."""
        return self.conv(x) if x.mean() > -1 else x


TRACERS: dict[str, Callable[[nn.Module, torch.Tensor], object]] = {
    "recording": lambda model, image: trace(model, image),
    "torch.fx": lambda model, image: torch.fx.symbolic_trace(model),
    "torch.export": lambda model, image: torch.export.export(model, (image,), strict=False),
}


def measure(model: nn.Module, image: torch.Tensor, repeats: int = 5) -> dict[str, str]:
    """Median seconds per tracer, or a dash where it refuses."""
    seconds: dict[str, list[float]] = {name: [] for name in TRACERS}
    for turn in range(repeats + 1):
        for name, tracer in TRACERS.items():
            start = time.process_time()
            try:
                tracer(model, image)
            except Exception:
                seconds[name].append(float("nan"))
                continue
            if turn:
                seconds[name].append(time.process_time() - start)
    shown = {name: statistics.median(times) for name, times in seconds.items()}
    return {name: "-" if median != median else f"{median:.3f} s" for name, median in shown.items()}


def main() -> None:
    """Print and write the table."""
    torch.set_num_threads(1)
    image = torch.randn(1, 3, 224, 224)
    models = {name: torchvision_model(name) for name in MODELS} | {"loop": Loop().eval(), "branch": Branch().eval()}
    rows = [(name, *measure(model, image).values()) for name, model in models.items()]
    table = ("model", *TRACERS), rows
    show("Tracers", *table)
    page("tracers", "Tracers", TEXT.format(machine=machine(1)), table)


if __name__ == "__main__":
    main()
