"""Softmax and norms over rows that do and do not fill their vectors, and norms of groups of channels."""

import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn

from graphprune.backends import rows
from graphprune.backends.compiler import compile_model
from graphprune.backends.import_torch import import_model
from graphprune.backends.pipeline import optimize_passes
from graphprune.backends.targets import get_target

TARGETS = ("x86", "x86-avx2")
FUNCTIONS = {
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(
        x, x.shape[-1:], torch.linspace(0.5, 2, x.shape[-1]).to(x), torch.ones(x.shape[-1]).to(x)
    ),
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def assert_same(model, example, target, bound=1e-5):
    artifact = compile_model(model, target, example)
    with torch.no_grad():
        expected = model.double()(example.double())
    model.float()
    assert expected.std() > 0
    got = torch.as_tensor(artifact(example))
    assert torch.equal(got.isfinite(), expected.isfinite())
    living = expected.isfinite()
    assert (got - expected)[living].abs().max() <= bound * expected[living].abs().max()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("length", [2, 7, 16, 31, 77, 197])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_of_any_length(name, length, target):
    torch.manual_seed(length)
    assert_same(Function(FUNCTIONS[name]), 3 * torch.randn(5, 3, length) - 20, target)


def test_extremes_in_ragged_rows():
    x = torch.randn(4, 19)
    x[0, 3], x[1, 18], x[2] = float("-inf"), 80.0, -1e30
    x[3, :18] = float("-inf")
    got = compile_model(Function(FUNCTIONS["softmax"]), "x86", x)(x)
    torch.testing.assert_close(got, torch.softmax(x.double(), -1).float(), rtol=1e-5, atol=1e-7)
    x[1] = float("-inf")  # nothing is left to choose from
    assert compile_model(Function(FUNCTIONS["softmax"]), "x86", x)(x)[1].isnan().all()


def test_what_fills_a_row_does_not_count(monkeypatch):
    """The negative control: other numbers in the empty lanes are seen."""
    original = rows.filled
    monkeypatch.setattr(rows, "filled", lambda *a: original(*a[:4], 1.0, *a[5:]))
    with pytest.raises(AssertionError):
        assert_same(Function(FUNCTIONS["softmax"]), torch.randn(3, 19) - 5, "x86")


class Grouped(nn.Module):
    """A group norm between convolutions, with an activation behind it."""

    def __init__(self, channels, groups, norm=None):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 4, 1)
        self.norm = norm or nn.GroupNorm(groups, channels)
        if self.norm.weight is not None:
            nn.init.uniform_(self.norm.weight, 0.5, 2)
            nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return self.last(F.silu(self.norm(self.first(x) + 10)))


def tracked(channels):
    norm = nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


GROUPED = {
    "whole vectors": (lambda: Grouped(32, 4), 10),
    "narrow vectors": (lambda: Grouped(12, 3), 6),
    "ragged": (lambda: Grouped(10, 2), 5),
    "one group": (lambda: Grouped(6, 1), 9),
    "channels": (lambda: Grouped(6, 1, nn.InstanceNorm2d(6, affine=True)), 9),
    "channels by what was tracked": (lambda: Grouped(5, 1, tracked(5)), 5),
    "channels, ragged": (lambda: Grouped(5, 1, nn.InstanceNorm2d(5, affine=True)), 5),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", GROUPED)
def test_norms_of_groups(name, target):
    torch.manual_seed(3)
    make, size = GROUPED[name]
    assert_same(make().eval(), torch.randn(2, 3, size, size), target)


def test_norms_of_groups_are_a_kernel():
    passes = tvm.transform.Sequential(optimize_passes(get_target("x86")))
    module = passes(import_model(Grouped(8, 2).eval(), torch.randn(1, 3, 8, 8)).module)
    assert any(name.name_hint.startswith("moments") for name in module.get_global_vars())
