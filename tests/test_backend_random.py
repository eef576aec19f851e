"""Random small networks of odd widths: branches, joins, cuts, gates, pools, every layout against every other."""

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from graphprune.backends.compiler import compile_model

STEPS = ("conv", "depthwise", "grouped", "join", "residual", "gate", "pool", "average", "cut", "shuffle", "broadcast")


class RandomNet(nn.Module):
    """Applies steps one after the other; each one keeps an image, of whatever channel count."""

    def __init__(self, steps, widths, channels, kernel):
        super().__init__()
        self.steps, self.layers = steps, nn.ModuleList()
        for step, width in zip(steps, widths, strict=True):
            layer, channels = self.make(step, width, channels, kernel)
            self.layers.append(layer)
        self.head = nn.Linear(channels, 4)

    def make(self, step, width, channels, kernel):
        def conv(inside, outside, kernel=kernel, groups=1):
            body = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, groups=groups, bias=width % 2 == 0)
            return nn.Sequential(body, nn.BatchNorm2d(outside))

        if step == "conv":
            return conv(channels, width), width
        if step == "depthwise":
            return conv(channels, channels, groups=channels), channels
        if step == "grouped":
            groups = next(g for g in (5, 3, 2, 1) if channels % g == 0)
            return conv(channels, width * groups, groups=groups), width * groups
        if step == "join":
            return nn.ModuleList([conv(channels, width), conv(channels, 3, 1)]), width + 3 + channels
        if step in ("residual", "gate"):
            return conv(channels, channels, 1), channels
        if step == "broadcast":
            return conv(channels, 1), channels
        if step == "cut" and channels > 2:
            return nn.Identity(), channels - 2
        return nn.Identity(), channels - channels % 2 if step == "shuffle" and channels > 1 else channels

    def forward(self, x):
        for step, layer in zip(self.steps, self.layers, strict=True):
            x = self.apply_step(step, layer, x)
        return self.head(x.mean((2, 3))), x

    def apply_step(self, step, layer, x):
        if step in ("conv", "depthwise", "grouped"):
            return F.relu(layer(x))
        if step == "join":
            return torch.cat([layer[0](x), F.silu(layer[1](x)), x], 1)
        if step == "residual":
            return F.relu(layer(x) + x)
        if step == "gate":
            return x * torch.sigmoid(layer(F.adaptive_avg_pool2d(x, 1)))
        if step == "broadcast":
            return x * torch.tanh(layer(x)) + 0.5
        if step == "pool":
            return F.max_pool2d(x, 3, 1, 1)
        if step == "average":
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        if step == "cut":
            return x[:, 1:-1] if x.shape[1] > 2 else x
        half = x.shape[1] // 2
        if half == 0:
            return x
        return x[:, : 2 * half].unflatten(1, (2, half)).transpose(1, 2).flatten(1, 2)


# No shrinking: every attempt compiles a network.
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=3, max_size=6),
    widths=st.lists(st.integers(1, 37), min_size=6, max_size=6),
    channels=st.sampled_from([1, 3, 16, 19]),
    kernel=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(4, 19), st.integers(4, 19)),
    batch=st.integers(1, 2),
    target=st.sampled_from(["x86", "x86-avx2"]),
)
def test_random_network(steps, widths, channels, kernel, size, batch, target):
    torch.manual_seed(0)
    model = RandomNet(steps, widths[: len(steps)], channels, kernel).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    x = torch.randn(batch, channels, *size)
    with torch.no_grad():
        expected = model(x)
    for got, want in zip(compile_model(model, target, x)(x), expected, strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() <= 1e-4 * max(1.0, float(want.abs().max()))
