"""Strange models: what cannot be compiled is refused by an error that names the node, the rest is right."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphprune.backends.compiler import compile_model
from graphprune.errors import GraphPruneError


class Head(nn.Module):
    """A module that applies a function, so that errors have a module to name."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.head = Head(function)

    def forward(self, *inputs):
        return self.head(*inputs)


def branch(x):
    return x + 1 if x.sum() > 0 else x - 1


X = torch.linspace(-2, 3, 60).reshape(2, 6, 5)
I = torch.arange(-6, 6).reshape(2, 6)  # noqa: E741

REFUSED = {
    "complex": (lambda x: torch.complex(x, x).abs(), X, r"node 'complex.*module 'head' \(Head\)"),
    "complex input": (lambda x: x.real, X.to(torch.complex64), "complex64"),
    "sparse": (lambda x: x.to_sparse().to_dense(), X, "to_sparse"),
    "nonzero": (lambda x: x.nonzero(), X, "node 'nonzero'.*depends on the numbers"),
    "selected": (lambda x: x[x > 0], X, "depends on the numbers"),
    "branch": (branch, X, "data-dependent"),
    "bessel": (torch.special.bessel_j0, X, "special_bessel_j0"),
    "decomposition": (lambda x: torch.linalg.svd(x)[1], X, "node '_linalg_svd"),
    "text": (lambda x: (x, "a"), X, ""),
    "changed input": (lambda x: x.add_(1), X, "side effects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    function, x, message = REFUSED[name]
    with pytest.raises(GraphPruneError, match=message):
        compile_model(Net(function), "x86", x)


COMPILED = {
    "integer division": (lambda i: (i // 4, i % 4, torch.div(i, 4, rounding_mode="trunc"), i / 4), I),
    "small integers": (lambda i: (i.to(torch.uint8) + 1, i.to(torch.int8) * 2), I),
    "truth values": (lambda i: ~(i > 0) & ((i > -2) | True), I),
    "float division": (
        lambda x: (torch.div(x, 0.7, rounding_mode="floor"), torch.div(x, 0.7, rounding_mode="trunc")),
        X,
    ),
    "selu": (lambda x: (F.selu(x), F.elu(x, 0.3), F.celu(x, 2.0)), X),
    "input as output": (lambda x: x, X),
    "input beside output": (lambda x: (x, x + 1), X),
    "the same twice": (lambda x: [x.exp()] * 2, X),
    "constant beside output": (lambda x: (x + 1, torch.arange(5.0)), X),
    "one number": (lambda x: x.sum(), X),
    "number in": (lambda x: x * 2, torch.tensor(3.0)),
    "huge kernel": (lambda x: F.conv2d(x, torch.ones(2, 1, 31, 31) / 961, padding=15), torch.rand(1, 1, 33, 33)),
}


def leaves(value):
    return [value] if isinstance(value, torch.Tensor) else [leaf for item in value for leaf in leaves(item)]


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name):
    function, x = COMPILED[name]
    model = Net(function)
    for have, want in zip(leaves(compile_model(model, "x86", x)(x)), leaves(model(x)), strict=True):
        assert have.dtype == want.dtype
        torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)


def test_unused_inputs_are_still_inputs():
    artifact = compile_model(Net(lambda x, y: x + 1), "x86", (X, X))
    assert torch.equal(artifact(X, X), X + 1)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 16])
def test_any_number_of_threads_gives_the_same(threads):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 37, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(37, 37, 3, groups=37),
        nn.Conv2d(37, 70, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(280, 51), nn.LayerNorm(51),
        nn.Softmax(-1),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 41, 37)
    alone = compile_model(model, "x86", x, threads=1)(x)
    many = compile_model(model, "x86", x, threads=threads)
    torch.testing.assert_close(alone, model(x), rtol=1e-4, atol=1e-6)
    for _ in range(3):
        assert torch.equal(many(x), alone)
