"""Compiled models compute what torch computes, for shapes chosen to be awkward."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphprune.backends.compiler import compile_model

TARGETS = ("x86", "x86-avx2")


def randomise(model):
    """Batch-norm statistics as after training: untouched ones would hide mistakes in folding."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


def assert_same(model, *inputs, target="x86", tolerance=1e-4):
    """Compile, run, compare; returns the artifact."""
    randomise(model)
    artifact = compile_model(model, target, inputs)
    with torch.no_grad():
        expected = model(*inputs)
    got = artifact(*inputs)
    assert type(got) is type(expected)
    if isinstance(expected, torch.Tensor):
        expected, got = [expected], [got]
    for want, have in zip(expected, got, strict=True):
        assert want.shape == have.shape and want.dtype == have.dtype
        assert want.float().std() > 0
        assert (want - have).abs().max() <= tolerance * want.abs().max()
    return artifact


class Wrap(nn.Module):
    """A module from a function and the modules it uses."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs):
        return self.function(*self.parts, *inputs)


def block(channels_in, channels_out, kernel, **options):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, **options), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


# channels in, channels out, kernel, options, input size
CONVOLUTIONS = [
    (3, 16, 7, {"stride": 2, "padding": 3}, (31, 29)),
    (1, 5, 3, {"padding": 1}, (12, 12)),
    (13, 11, 3, {"padding": 1, "bias": False}, (17, 19)),
    (51, 37, 1, {}, (17, 17)),
    (16, 33, 1, {"stride": 2}, (15, 15)),
    (32, 32, (1, 5), {"padding": (0, 2)}, (9, 23)),
    (19, 7, 3, {"dilation": 2, "padding": 2}, (14, 14)),
    (20, 24, 3, {"padding": "same", "padding_mode": "zeros", "dilation": (2, 1)}, (10, 11)),
    (24, 36, 3, {"groups": 3, "padding": 1}, (8, 8)),
    (40, 40, 3, {"groups": 5, "stride": 2}, (13, 13)),
    (21, 14, 3, {"groups": 7, "padding": 1}, (9, 9)),
    (6, 6, 3, {"groups": 6, "padding": 1}, (12, 13)),
    (27, 27, 5, {"groups": 27, "padding": 2, "stride": 2}, (17, 17)),
    (9, 27, 3, {"groups": 9, "padding": 1}, (8, 8)),
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case, batch):
    channels_in, channels_out, kernel, options, size = case
    target = TARGETS[batch == 3]
    model = nn.Sequential(nn.Conv2d(channels_in, channels_in, 1), block(channels_in, channels_out, kernel, **options))
    assert_same(model, torch.randn(batch, channels_in, *size), target=target)
