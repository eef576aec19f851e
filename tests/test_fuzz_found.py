"""Networks that once went wrong, as the fuzzer shrank them: name -> (inputs, __init__, forward, options)."""

import pytest
import torch

import graphprune
from examine import examine
from random_networks import Network, options

TOKENS, VECTORS, IDS, IMAGES = (
    "torch.randn(2, 4, 6)",
    "torch.randn(3, 6)",
    "torch.randint(0, 9, (2, 4))",
    "torch.randn(2, 4, 6, 6)",
)

FOUND = {
    "a rim of ones around dropped channels": (
        [IMAGES],
        ["self.a = nn.Conv2d(4, 8, 3, padding=1)", "self.b = nn.Linear(8, 3)"],
        ["v = F.pad(self.a(x0), (1, 1, 1, 1), value=1.0)", "v = v / v.abs().sum(1, keepdim=True).add(1)", "return self.b(v.flatten(2).transpose(1, 2))"],
        {},
    ),
    "rows are rolled that keep different positions": (
        [IDS],
        ["self.a = nn.Embedding(9, 8)", "self.b = nn.Linear(8, 8)", "self.c = nn.Linear(8, 3)"],
        ["v = self.b(self.a(x0))", "v = v.reshape(2, 4, -1, 2).roll(1, 2).flatten(2, 3)", "return self.c(v)"],
        {},
    ),
    "a letter beside rows that are dropped as a whole": (
        [TOKENS],
        ["self.a = nn.Linear(6, 6)", "self.p = nn.Parameter(torch.randn(6, 2, 3))", "self.b = nn.Linear(6, 8)", "self.c = nn.Linear(18, 3)"],
        ["v = self.a(x0)", "t = torch.stack([v, v], 2).flatten(2, 3).reshape(2, 4, 6, -1)", "w = torch.einsum('abhd,hde->abhe', t, self.p).flatten(2)",
         "t = v.reshape(2, 4, -1, 3).roll(1, 2).flatten(2, 3)", "u = self.b(t).reshape(2, 4, -1, 4)", "return self.c(w)"],
        {},
    ),
    "a constant is computed from a buffer while tracing": (
        [TOKENS],
        ["self.a = nn.Linear(6, 12)", "self.b = nn.Linear(12, 4)", "self.register_buffer('m', torch.ones(4, 4).tril().bool())", "self.c = nn.Linear(16, 3)"],
        ["v = self.b(self.a(x0).reshape(2, 4, 12))", "return self.c(v.masked_fill(~self.m, 0.5).reshape(2, -1))"],
        {},
    ),
    "a mask over head dimensions": (
        ["torch.randn(2, 6, 5)", IMAGES],
        ["self.a = nn.Linear(5, 6)", "self.b = nn.Conv2d(4, 12, 3, padding=1)", "self.c = nn.Linear(6, 6)", "self.register_buffer('m', torch.ones(6, 6).tril().bool())", "self.d = nn.Conv2d(12, 3, 1)"],
        ["t = self.c(self.a(x0)).view(2, 6, -1, 6).transpose(1, 2)", "t = t.masked_fill(~self.m, -1e9)", "return self.d(self.b(x1))"],
        {},
    ),
    "a shuffle keeps its number of groups": (
        [IDS],
        ["self.a = nn.Embedding(9, 16)", "self.s = nn.ChannelShuffle(8)", "self.b = nn.Linear(64, 3)"],
        ["v = self.a(x0)", "t = self.s(v.transpose(1, 2).reshape(2, 16, 2, 2))", "u = v.reshape(2, 4, 4, -1)", "return self.b(t.flatten(1))"],
        {},
    ),
    "a variance needs two positions": (
        ["torch.randn(2, 3, 4, 4)"],
        ["self.a = nn.Conv2d(3, 5, 3, padding=1, stride=2)", "self.b = nn.Conv2d(5, 3, 1)"],
        ["v = self.a(x0)", "return self.b(v / (v.var(1, keepdim=True) + 0.1))"],
        {"sparsity": 0.7},
    ),
    "a list of positions in an exported graph": (
        [IMAGES],
        ["self.a = nn.Conv2d(4, 12, 3, padding=1)", "self.b = nn.Conv2d(3, 3, 1)"],
        ["v = self.a(x0)", "t = v + 1 / v.size(1)", "return self.b(v[:, [0, 2, 4]])"],
        {"multiple_of": 4},
    ),
    "a projection that keeps one position": (
        [TOKENS],
        ["self.a = nn.LSTM(6, 8, batch_first=True, num_layers=2, proj_size=3)", "self.b = nn.Linear(3, 3)"],
        ["v = self.a(x0)[1][0]", "return self.b(v[0])"],
        {"sparsity": 0.7},
    ),
    "as few units as they are projected to": (
        [IDS],
        ["self.a = nn.Embedding(9, 12)", "self.b = nn.LSTM(12, 4, batch_first=True, proj_size=3)", "self.p = nn.Parameter(torch.randn(2, 6))", "self.c = nn.Linear(3, 3)"],
        ["v = self.a(x0)", "t = v.reshape(2, 4, 2, -1) + self.p", "return self.c(self.b(v)[0])"],
        {},
    ),
    "a mean over positions of a row": (
        [VECTORS],
        ["self.a = nn.Linear(6, 16)", "self.b = nn.Linear(16, 3)"],
        ["t = self.a(x0).reshape(3, 2, 8)", "return self.b((t * t.sigmoid().mean(2, keepdim=True)).flatten(1, 2))"],
        {"policy": ("dims",)},
    ),
    "values and indices of an inexact maximum": (
        [VECTORS],
        ["self.a = nn.Linear(6, 12)", "self.b = nn.Linear(3, 3)"],
        ["v = self.a(x0).unsqueeze(1).expand(3, 3, 12)", "return self.b(v.max(2).values)"],
        {"exact": False},
    ),
    "cropped to one channel": (
        [IDS],
        ["self.a = nn.Embedding(9, 8)", "self.register_buffer('i', torch.tensor([7, 2, 4]))", "self.b = nn.Linear(8, 3)"],
        ["v = F.pad(self.a(x0).index_select(2, self.i), (0, -2))", "return self.b(torch.cat([v, v], 2).reshape(2, -1))"],
        {},
    ),
    "a scale computed from a width": (
        [TOKENS],
        ["self.a = nn.Linear(6, 8)", "self.b = nn.Linear(4, 3)"],
        ["v = self.a(x0)", "return self.b((v @ v.transpose(-2, -1)) * v.shape[-1] ** -0.5)"],
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_found(name):
    inputs, setup, lines, more = FOUND[name]
    examine(Network(tuple(inputs), tuple(setup), tuple(lines)), options(lambda n: 0) | more)


def test_whole_rows_are_combined_exactly():
    setup = ["self.a = nn.Conv2d(3, 8, 3, padding=1)", "self.b = nn.Conv2d(4, 3, 1)"]
    lines = ["t = self.a(x0).reshape(2, 2, 4, 4, 4)", "return self.b(t.amax(1))"]
    module, inputs = Network(("torch.randn(2, 3, 4, 4)",), tuple(setup), tuple(lines)).build()
    slim = graphprune.optimize(module, 0.2, example_inputs=inputs, exact=True)
    assert graphprune.plan_of(slim).exact


def test_frozen_layers_stay_frozen():
    """A graph is made of a model whose parts are in different modes; neither loses them."""
    setup = [
        "self.a = nn.Conv2d(3, 8, 3, padding=1)",
        "self.n = nn.BatchNorm2d(8)",
        "self.d = nn.Dropout()",
        "self.b = nn.Linear(128, 3)",
    ]
    lines = ["v = self.d(self.n(self.a(x0)))", "return self.b(v.view(2, 8, 16).flatten(1))"]
    module, inputs = Network(("torch.randn(2, 3, 4, 4)",), tuple(setup), tuple(lines)).build()
    module.train()
    module.n.eval()
    slim = graphprune.optimize(module, 0.3, example_inputs=inputs)
    assert type(slim).__name__ == "GraphModule"
    for model in (module, slim):
        assert model.training and model.d.training and not model.n.training


def test_small_activations_show_the_eps_of_a_norm():
    """A repaired norm without an eps of its own gets one: in float32 it matters where activations are small."""
    setup = ["self.a = nn.Linear(6, 16, bias=False)", "self.n = nn.RMSNorm(16)", "self.b = nn.Linear(16, 3)"]
    module, (x,) = Network((VECTORS,), tuple(setup), ("return self.b(self.n(self.a(x0)))",)).build()
    slim = graphprune.optimize(module, 0.4, example_inputs=x)
    kept = torch.from_numpy(graphprune.plan_of(slim).kept["a.weight"][0])
    with torch.no_grad():
        masked = torch.zeros_like(module.a.weight).index_copy(0, kept, module.a.weight[kept])
        module.a.weight.copy_(masked)
        assert torch.allclose(module(x * 1e-4), slim(x * 1e-4), rtol=1e-4, atol=1e-6)
