"""Root-mean-square norms over a width that shrinks: repaired, so that dropping equals masking."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
import oracle
from helpers import randomise


class Written(nn.Module):
    """As language models write it, with casts; `offset` is added to the scale."""

    def __init__(self, width, offset=0.0, eps=1e-2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.variance_epsilon, self.offset = eps, offset

    def forward(self, x):
        wide = x.to(torch.float32) if x.dtype != torch.float64 else x
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)).to(x.dtype)
        return normed * (self.offset + self.weight) if self.offset else self.weight * normed


class Block(nn.Module):
    """A stream whose width is normalised twice."""

    def __init__(self, norm, width=24) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(6, width), norm(width), norm(width)
        self.up, self.down, self.head = nn.Linear(width, 40), nn.Linear(40, width), nn.Linear(width, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.down(F.silu(self.up(self.first(x))))
        return self.head(self.second(x))


NORMS = {
    "module": lambda width: nn.RMSNorm(width, eps=1e-2),
    "module_without_eps": nn.RMSNorm,
    "written": Written,
    "written_offset": lambda width: Written(width, 1.0),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_widths_are_exact(name, dtype):
    torch.manual_seed(0)
    model = randomise(Block(NORMS[name])).to(dtype).eval()
    x = torch.randn(3, 6, dtype=dtype)
    slim = graphprune.optimize(model, 0.5, example_inputs=x, exact=True)
    plan = graphprune.plan_of(slim)
    assert type(slim) is Block and plan.exact
    assert slim.stem.out_features < 24 and plan.repairs["first.weight"][0] == 24 / slim.stem.out_features
    assert oracle.error(model, slim, (x,)) < (1e-12 if dtype == torch.float64 else 1e-6)
    assert graphprune.verify(model, slim).error < 1e-12


def test_without_the_repair_the_proof_fails():
    model = randomise(Block(Written)).double().eval()
    slim = graphprune.optimize(model, 0.5, example_inputs=torch.randn(3, 6).double())
    slim.first.variance_epsilon = model.first.variance_epsilon
    with pytest.raises(graphprune.errors.VerifyError, match="first"):
        graphprune.verify(model, slim)


def test_pruning_twice_and_plans(tmp_path):
    model = randomise(Block(Written)).double().eval()
    x = torch.randn(3, 6).double()
    slim = graphprune.optimize(graphprune.optimize(model, 0.3, example_inputs=x), 0.3, example_inputs=x)
    plan = graphprune.plan_of(slim)
    plan.save(tmp_path / "plan.json")
    again = graphprune.Plan.load(tmp_path / "plan.json").apply(model)
    torch.testing.assert_close(again(x), slim(x))
    assert oracle.error(model, slim, (x,)) < 1e-12


def test_a_graph_module():
    model = randomise(Block(Written)).double().eval()
    traced = torch.export.export(model, (torch.randn(3, 6).double(),)).module()
    slim = graphprune.optimize(traced, 0.5, example_inputs=torch.randn(3, 6).double(), exact=True)
    assert graphprune.plan_of(slim).repairs


def test_a_norm_that_cannot_be_repaired_is_inexact():
    class Shifted(Written):
        def forward(self, x):
            x = x + 1.0
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight

    model = randomise(Block(Shifted)).eval()
    analysis = graphprune.analyze(model, torch.randn(3, 6))
    widths = analysis.solution.inexact[analysis.leaf_classes["stem.weight", 0]]
    assert (widths >= 0).all()
