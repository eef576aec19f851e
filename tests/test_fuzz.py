"""Random networks: whatever is pruned must equal the masked original; refusals must be ours."""

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import oracle
from graphprune.errors import BudgetError

STEPS = [
    "conv", "conv", "grouped", "depthwise", "norm", "relu", "sigmoid", "add", "gate", "cat", "chunk", "split",
    "slice", "shuffle", "flip", "excite", "pixel", "unpixel", "scale", "group_norm", "mean_gate", "bmm",
]  # fmt: skip


class Random(nn.Module):
    """Runs a list of (step, first, second, number) on a growing list of feature maps of equal height and width."""

    def __init__(self, program) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.program = []
        widths = [4]
        for step, first, second, number in program:
            first, second = first % len(widths), second % len(widths)
            made = self.plan(step, first, second, number, widths)
            if made is not None:
                layer, width = made
                self.layers.append(layer)
                self.program.append((step, first, second, number, widths[first]))
                widths.append(width)
        used = {index for _, first, second, _, _ in self.program for index in (first, second)}
        self.open = [index for index in range(1, len(widths)) if index not in used or index == len(widths) - 1]
        self.head = nn.Conv2d(sum(widths[index] for index in self.open) or 4, 3, 1)

    def plan(self, step, first, second, number, widths):
        """The layer of one step and its width; None where the step does not fit."""
        width, other = widths[first], widths[second]
        groups = next((g for g in (4, 3, 2) if width % g == 0), 1)
        none = nn.Identity()
        return {
            "conv": lambda: (nn.Conv2d(width, 4 + number, 3, padding=1), 4 + number),
            "grouped": lambda: (nn.Conv2d(width, groups * (2 + number % 3), 3, padding=1, groups=groups), groups * (2 + number % 3)) if groups > 1 else None,
            "depthwise": lambda: (nn.Conv2d(width, width * (1 + number % 2), 3, padding=1, groups=width), width * (1 + number % 2)),
            "norm": lambda: (nn.BatchNorm2d(width, affine=number % 4 > 0), width),
            "relu": lambda: (nn.ReLU(inplace=number % 3 == 0), width),
            "sigmoid": lambda: (nn.Sigmoid(), width),
            "add": lambda: (none, width) if width == other else None,
            "gate": lambda: (none, width) if width == other else None,
            "cat": lambda: (none, width + other) if width + other < 40 else None,
            "chunk": lambda: (none, width // 2) if width % 2 == 0 and width > 4 else None,
            "split": lambda: (none, 2 + number % 2) if width > 5 else None,
            "slice": lambda: (none, width - 2) if width > 5 else None,
            "shuffle": lambda: (none, width) if groups > 1 else None,
            "flip": lambda: (none, width),
            "excite": lambda: (nn.Sequential(nn.Conv2d(width, 3, 1), nn.ReLU(), nn.Conv2d(3, width, 1), nn.Hardsigmoid()), width),
            "pixel": lambda: (none, width // 4) if width % 4 == 0 and width > 4 else None,
            "unpixel": lambda: (none, width * 4) if width < 6 else None,
            "scale": lambda: (nn.ParameterList([nn.Parameter(torch.rand(width, 1, 1) + 0.5)]), width),
            "group_norm": lambda: (nn.GroupNorm(groups, width), width),
            "mean_gate": lambda: (none, width),
            "bmm": lambda: (none, width),
        }[step]()  # fmt: skip

    def step(self, layer, step, first, second, number, c):
        """One step on its operands; sizes are written in, so that tracing symbolically works."""
        groups, n, h, w = next((g for g in (4, 3, 2) if c % g == 0), 1), -1, 4, 4
        if step in ("add", "gate"):
            return first + second if step == "add" else first * second
        if step == "cat":
            return torch.cat([first, second], 1)
        if step == "chunk":
            return first.chunk(2, 1)[number % 2]
        if step == "split":
            return first.split([2 + number % 2, c - 2 - number % 2], 1)[0]
        if step == "slice":
            return first[:, 1:-1]
        if step == "shuffle":
            return first.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        if step == "flip":
            return first.flip(1)
        if step == "excite":
            return first * layer(F.adaptive_avg_pool2d(first, 1))
        if step == "pixel":
            return F.max_pool2d(F.pixel_shuffle(first, 2), 2)
        if step == "unpixel":
            return F.interpolate(F.pixel_unshuffle(first, 2), scale_factor=2)
        if step == "scale":
            return first * layer[0]
        if step == "mean_gate":
            return first * first.mean(1, keepdim=True)
        if step == "bmm":
            flat = first.flatten(2)
            return ((flat @ flat.transpose(1, 2)).softmax(-1) @ flat).view(n, c, h, w)
        return layer(first)

    def forward(self, x):
        values = [x]
        for layer, (step, first, second, number, width) in zip(self.layers, self.program, strict=True):
            value = self.step(layer, step, values[first].clone(), values[second], number, width)
            values.append(value)
        return self.head(torch.cat([values[index] for index in self.open], 1) if self.open else x)


step = st.tuples(st.sampled_from(STEPS), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(step, min_size=3, max_size=10), st.sampled_from([0.1, 0.3, 0.6]), st.sampled_from(["global", "layer"]))
def test_random_networks(program, sparsity, scope):
    torch.manual_seed(0)
    module = Random([("conv", 0, 0, 8), *program]).eval()
    try:
        oracle.check(module, torch.randn(2, 4, 4, 4), sparsity=sparsity, scope=scope, exact=True)
    except BudgetError:
        pass  # a refusal with a reason


def test_the_generator_prunes_most_networks():
    """Without this, refusals alone would pass the test above."""
    torch.manual_seed(0)
    pruned = 0
    for seed in range(12):
        number = torch.Generator().manual_seed(seed)
        draw = lambda high: int(torch.randint(high, (1,), generator=number))  # noqa: B023, E731
        program = [("conv", 0, 0, 8), *((STEPS[draw(len(STEPS))], draw(9), draw(9), draw(9)) for _ in range(6))]
        try:
            oracle.check(Random(program).eval(), torch.randn(2, 4, 4, 4), sparsity=0.1, exact=True)
            pruned += 1
        except BudgetError:
            continue
    assert pruned >= 8
