"""Root-mean-square norms, as a module and written out: one kernel each, the same numbers."""

import pytest
import torch
import tvm
from torch import nn

from graphprune.backends.compiler import compile_model
from graphprune.backends.import_torch import import_model
from graphprune.backends.pipeline import optimize_passes
from graphprune.backends.targets import get_target

TARGETS = ("x86", "x86-avx2")


class Written(nn.Module):
    """A linear layer and a norm that is written out."""

    def __init__(self, size, norm):
        super().__init__()
        self.linear, self.norm = nn.Linear(size, size), norm
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x):
        x = self.linear(x)
        return self.weight * self.norm(x) + x


NORMS = {
    "power": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "product": lambda x: torch.rsqrt(1e-5 + (x * x).mean(-1, keepdim=True)) * x,
    "division": lambda x: x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
}
# Neither is a norm of the last axis of what is scaled.
OTHERS = {
    "cube": lambda x: x * torch.rsqrt(x.pow(3).mean(-1, keepdim=True).abs() + 1e-6),
    "other axis": lambda x: x * torch.rsqrt(x.pow(2).mean(-2, keepdim=True) + 1e-6),
    "other data": lambda x: (x + 1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "inverse": lambda x: torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) / (x.abs() + 1),
}


def kernels(model, example):
    passes = tvm.transform.Sequential(optimize_passes(get_target("x86")))
    return [name.name_hint for name in passes(import_model(model, example).module).get_global_vars()]


def assert_same(model, example, target):
    artifact = compile_model(model, target, example)
    with torch.no_grad():
        expected = model.double()(example.double())
    model.float()
    assert expected.std() > 0
    assert (artifact(example) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [96, 51, 7])
@pytest.mark.parametrize("norm", [*NORMS, "module"])
def test_norms_are_one_kernel(norm, size, target):
    model = Written(size, nn.RMSNorm(size, eps=1e-6) if norm == "module" else NORMS[norm]).eval()
    example = torch.randn(2, 5, size)
    assert any("rms_norm" in name for name in kernels(model, example))
    assert_same(model, example, target)


@pytest.mark.parametrize("norm", OTHERS)
def test_what_only_looks_like_a_norm(norm):
    model, example = Written(32, OTHERS[norm]).eval(), torch.randn(2, 5, 32)
    assert not any("rms_norm" in name for name in kernels(model, example))
    assert_same(model, example, "x86")
