"""Groups whose removal is not masking: refused, preferred against, or taken with a warning; then still verified."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from graphprune.errors import BudgetError, VerifyError
from helpers import randomise


def shifted_rms(width):
    """Dropped positions are not zero where the norm reads them, so that no repair helps."""
    return nn.Sequential(nn.Softplus(), nn.RMSNorm(width))


class Normed(nn.Module):
    """A residual stream with layer norms, as in a transformer; only the inner widths are exact."""

    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), norm(16)
        self.up, self.down, self.last, self.head = nn.Linear(16, 8), nn.Linear(8, 16), norm(16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(self.last(x))


class Grouped(nn.Module):
    """Group norm, and a gate from the mean over channels."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.Conv2d(12, 4, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        return self.b(x * x.mean(1, keepdim=True))


class Standardised(nn.Module):
    """A convolution whose weights are standardised over their inputs, as in normaliser-free networks."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        weight = F.batch_norm(self.b.weight.reshape(1, 8, -1), None, None, training=True).reshape_as(self.b.weight)
        return self.c(F.relu(F.conv2d(F.relu(self.a(x)), weight, self.b.bias)))


def model(kind):
    torch.manual_seed(0)
    return {
        "layer": lambda: (randomise(Normed()).eval(), torch.randn(4, 6)),
        "rms": lambda: (randomise(Normed(shifted_rms)).eval(), torch.randn(4, 6)),
            randomise(Normed(lambda width: nn.RMSNorm(width, elementwise_affine=False))).eval(),
            torch.randn(4, 6),
        ),
        "standardised": lambda: (randomise(Standardised()).eval(), torch.randn(2, 3, 10, 10)),
        "group": lambda: (randomise(Grouped()).eval(), torch.randn(2, 3, 8, 8)),
    }[kind]()


def test_exact_groups_are_preferred():
    module, inputs = model("layer")
    plan = graphprune.analyze(module, inputs).plan(0.2)
    assert plan.exact and set(plan.kept) == {"up.weight", "up.bias", "down.weight"}


@pytest.mark.parametrize("kind", ["layer", "rms", "group"])
def test_inexact_ones_come_with_a_warning_and_are_verified(kind):
    module, inputs = model(kind)
    with pytest.warns(UserWarning, match="inexact"):
        slim = graphprune.optimize(module, 0.5, example_inputs=inputs)
    plan = graphprune.plan_of(slim)
    assert not plan.exact and plan.report["params"][1] <= 0.5 * plan.report["params"][0]
    assert graphprune.verify(module, slim).error < 1e-12


def test_standardised_weights_are_inexact_and_verified():
    module, inputs = model("standardised")
    slim = graphprune.optimize(module, 0.3, example_inputs=inputs, exact=False)
    assert not graphprune.plan_of(slim).exact and graphprune.verify(module, slim).error < 1e-12


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_exact_true_refuses(kind):
    module, inputs = model(kind)
    with pytest.raises(BudgetError, match="statistics"):
        graphprune.optimize(module, 0.5, example_inputs=inputs, exact=True)


def test_exact_false_treats_all_alike():
    module, inputs = model("layer")
    plan = graphprune.analyze(module, inputs).plan(0.2, exact=False)
    assert "embed.weight" in plan.kept and not plan.exact


@pytest.mark.parametrize("kind", ["layer", "rms", "group", "standardised"])
def test_a_mistake_is_seen(kind):
    module, inputs = model(kind)
    slim = graphprune.optimize(module, 0.3, example_inputs=inputs, exact=False, verify=False)
    with torch.no_grad():
        next(slim.parameters())[0] += 0.1
    with pytest.raises(VerifyError, match="differs"):
        graphprune.verify(module, slim)


def test_the_first_difference_is_named():
    module, inputs = model("layer")
    slim = graphprune.optimize(module, 0.3, example_inputs=inputs, exact=False)
    with torch.no_grad():
        slim.down.weight[0] += 0.1
    with pytest.raises(VerifyError, match=r"first at down \(linear\)"):
        graphprune.verify(module, slim)


def test_the_reference_is_what_one_would_compute_by_hand():
    module, inputs = model("layer")
    slim = graphprune.optimize(module, 0.4, example_inputs=inputs, exact=False).double()
    kept = graphprune.plan_of(slim).kept
    stream = torch.from_numpy(kept["embed.weight"].get(0, np.arange(16)))
    inner = torch.from_numpy(kept.get("up.weight", {}).get(0, np.arange(8)))
    whole, x = module.double(), inputs.double()

    def norm(layer, y):
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt()
        return y * layer.weight[stream] + layer.bias[stream]

    y = F.linear(x, whole.embed.weight[stream], whole.embed.bias[stream])
    z = F.gelu(F.linear(norm(whole.norm, y), whole.up.weight[inner][:, stream], whole.up.bias[inner]))
    y = y + F.linear(z, whole.down.weight[stream][:, inner], whole.down.bias[stream])
    expected = F.linear(norm(whole.last, y), whole.head.weight[:, stream], whole.head.bias)
    assert len(stream) < 16 and torch.allclose(slim(x), expected, atol=1e-12)
