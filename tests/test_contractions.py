"""Products as linear algebra: features x matrix + bias is what the layer gives, for every layer that multiplies."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from graphprune.chains import chains_of
from graphprune.contractions import by_kernel, contraction_of, features_of, is_product, matrix_of, refusal_of
from graphprune.frontends.torch.follow import Runnable
from graphprune.frontends.torch.inputs import normalise
from graphprune.frontends.torch.links import inverse
from graphprune.frontends.torch.products import Product, numbers_of, stored_as
from helpers import import_torchvision, randomise
from networks import Net


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), (3, 5)),
    "linear, more axes": (lambda: nn.Linear(5, 7, bias=False), (2, 3, 4, 5)),
    "linear, one sample": (lambda: nn.Linear(5, 7), (5,)),
    "1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 11)),
    "2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 4, 9, 8)),
    "3d": (lambda: nn.Conv3d(2, 4, (2, 3, 1), padding=1, bias=False), (2, 2, 4, 5, 3)),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3, padding=1), (2, 6, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, dilation=2), (2, 6, 7, 7)),
    "same": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(2, 3)), (2, 4, 9, 8)),
    "valid": (lambda: nn.Conv1d(4, 6, 3, padding="valid"), (2, 4, 9)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
    "one image": (lambda: nn.Conv2d(4, 6, 3), (4, 7, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 6)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3, dilation=2, bias=False), (2, 4, 5)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), groups=2), (2, 4, 5, 6)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 3, 3, 3)),
    "matmul": (lambda: Net(lambda m, x: x @ m.w, w=weight(5, 7)), (3, 5)),
    "addmm": (lambda: Net(lambda m, x: torch.addmm(m.b, x, m.w), w=weight(5, 7), b=weight(7)), (3, 5)),
    "by name": (lambda: Net(lambda m, x: F.linear(weight=m.w, input=x), w=weight(7, 5)), (3, 5)),
    "convolution": (
        lambda: Net(lambda m, x: torch.convolution(x, m.w, None, [2], [1], [1], True, [1], 2), w=weight(4, 3, 3)),
        (2, 4, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_products(name):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x, checked = make().double(), torch.randn(shape, dtype=torch.float64), []
    analysis = graphprune.analyze(layer, x)

    def visit(node, func, args, kwargs):
        result = func(*args, **kwargs)
        contraction = contraction_of(node)
        if contraction is not None:
            product = Product.of(contraction, func, args, kwargs)
            rows = np.random.default_rng(0).permutation(product.positions)
            numbers, own = numbers_of(product.weight), product.contraction
            matrix = torch.from_numpy(matrix_of(own, numbers).copy())
            bias = 0 if contraction.bias is None else dict(layer.named_parameters())[contraction.bias]
            bias = bias if contraction.bias is None else bias.reshape(contraction.groups, 1, -1)
            made = product.features(rows) @ matrix + bias
            torch.testing.assert_close(made, product.targets(result, rows))
            assert product.positions * made.shape[0] * made.shape[2] == result.numel()
            assert torch.equal(stored_as(own, matrix.numpy(), product.weight), product.weight)
            assert features_of(own, numbers.shape) == matrix.shape[1]
            assert by_kernel(own, numbers).reshape(matrix.shape).tolist() == matrix.tolist()
            wrong = product.features(rows[::-1].copy()) @ matrix + bias
            assert len(rows) == 1 or not torch.allclose(wrong, product.targets(result, rows)), "any rows would do"
            checked.append(node.op)
        return result

    with torch.no_grad():
        result = Runnable(layer, analysis)(normalise(x), visit)
    assert len(checked) == 1
    torch.testing.assert_close(result, layer(x))


def refusals(module: nn.Module, *shape: int) -> list[str]:
    graph = graphprune.analyze(module, torch.randn(shape)).graph
    return [refusal_of(node) for node in graph.nodes if is_product(node)]


def test_what_is_left_alone():
    shared = nn.Linear(5, 5)
    assert refusals(nn.Sequential(shared, nn.ReLU(), shared), 2, 5) == ["its weight is used 2 times"] * 2
    scaled = Net(
        lambda m, x: torch.addmm(m.b, x, m.w, alpha=2),
        w=nn.Parameter(torch.randn(5, 7)),
        b=nn.Parameter(torch.randn(7)),
    )
    assert refusals(scaled, 3, 5) == ["its result is scaled"]
    assert refusals(Net(lambda m, x: x @ m.w, w=torch.randn(5, 7)), 3, 5) == ["its weight is not a parameter"]
    assert refusals(nn.Linear(5, 7), 3, 5) == [""]


def test_auxiliary_heads_do_not_count():
    """A weight that inference reads once is read once, also where a run in training mode looks for unused ones."""

    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.extra = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            y = self.body(x).relu()
            return (self.head(y), self.extra(y)) if self.training else self.head(y)

    graph = graphprune.analyze(Auxiliary().eval(), torch.randn(2, 4)).graph
    assert graph.leaves["extra.weight"].uses == 1
    assert [refusal_of(node) for node in graph.nodes if is_product(node)] == ["", ""]
    assert sum(not node.measured for node in graph.nodes) >= 3


def ends(module: nn.Module, *shape: int) -> dict[str, tuple[str, list[str]]]:
    """Weight -> (operation at the end of its chain, operations on the way)."""
    nodes = [node for node in graphprune.analyze(module, torch.randn(shape)).graph.nodes if node.measured]
    found = chains_of(nodes)
    assert [chain.end for chain in found] == sorted(chain.end for chain in found)
    return {c.contraction.weight: (nodes[c.end].op, [nodes[link].op for link in c.links]) for c in found}


class Block(nn.Module):
    """A residual block with a convolution on its shortcut."""

    def __init__(self, preactivated: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.down = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(3, 6, 3)
        self.norm, self.preactivated = nn.BatchNorm2d(6), preactivated

    def forward(self, x):
        if self.preactivated:
            return self.two(self.norm(self.one(x)).relu()) + self.down(x)
        return (self.down(x) + self.norm(self.two(self.one(x).relu()))).relu()


def test_chains_of_residual_blocks():
    """Of two products that meet, the later one takes the sum."""
    assert ends(Block(), 2, 3, 8, 8) == {
        "down.weight": ("conv", []),
        "one.weight": ("conv", []),
        "two.weight": ("add", ["batch_norm"]),
    }
    assert ends(Block(True), 2, 3, 8, 8) == {
        "one.weight": ("conv", []),
        "two.weight": ("conv", []),
        "down.weight": ("add", []),
    }


def test_chains_of_other_blocks():
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1, enable_nested_tensor=False
    )
    found = ends(encoder, 2, 5, 8)
    assert found["layers.0.linear2.weight"][0] == "add" and found["layers.0.linear1.weight"][0] == "linear"
    assert found["layers.0.self_attn.out_proj.weight"][0] == "add"
    concat = Net(
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)), a=nn.Linear(4, 3), b=nn.Linear(4, 3), c=nn.Linear(6, 2)
    )
    assert {op for op, _ in ends(concat, 2, 4).values()} == {"linear"}
    scaled = Net(lambda m, x: torch.add(x, m.a(x), alpha=2), a=nn.Linear(4, 4))
    assert ends(scaled, 2, 4) == {"a.weight": ("linear", [])}
    twice = Net(lambda m, x: (y := m.a(x)) + y, a=nn.Linear(4, 4))
    assert ends(twice, 2, 4) == {"a.weight": ("linear", [])}


def test_chains_of_convnext():
    convnext = import_torchvision().models.convnext
    settings = [convnext.CNBlockConfig(8, None, 2)]
    found = ends(convnext.ConvNeXt(settings, num_classes=3), 2, 3, 32, 32)
    assert found["features.1.0.block.5.weight"] == ("add", ["permute", "mul"])


LINKS = {
    "batch_norm": lambda x, m: m(x),
    "mul": lambda x, m: x * m.weight.view(-1, 1, 1),
    "add": lambda x, m: x + m.bias.view(-1, 1, 1),
    "times a number": lambda x, m: x * 0.5,
    "twice": lambda x, m: x * 2,
    "sub from": lambda x, m: m.bias.view(-1, 1, 1) - x,
    "scaled by": lambda x, m: m.weight.view(-1, 1, 1) * x,
    "rsub": lambda x, m: 3 - x,
    "permute": lambda x, m: x.permute(0, 2, 3, 1),
    "reshape": lambda x, m: x.flatten(1),
    "roll": lambda x, m: x.roll((1, 2), (2, 3)),
    "flip": lambda x, m: x.flip(1),
    "in place": lambda x, m: x.mul_(3),
}


@pytest.mark.parametrize("name", LINKS)
def test_inverse(name):
    """Round trips: what `inverse` gives comes out as the target; what it is asked with stays as it was."""
    torch.manual_seed(0)
    norm = randomise(nn.BatchNorm2d(4)).eval()
    module = Net(lambda m, x: LINKS[name](m.conv(x), m.norm), conv=nn.Conv2d(3, 4, 1), norm=norm).eval()
    nodes = graphprune.analyze(module, torch.randn(2, 3, 5, 6)).graph.nodes
    node = nodes[-1]
    with torch.no_grad():
        given = torch.randn(2, 4, 5, 6)
        call = lambda x: LINKS[name](x, norm)  # noqa: E731
        target = torch.randn_like(call(given.clone()))
        back = inverse(node, call, given, target)
        assert back.shape == given.shape
        torch.testing.assert_close(call(back.clone()), target, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(call(given.clone()), target)


def test_inverse_of_nothing():
    """Where an affine link multiplies by zero, its input stays as it is."""
    norm = randomise(nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        norm.weight[2] = 0
        given = torch.randn(2, 4, 3, 3)
        module = Net(lambda m, x: m.norm(m.conv(x)), conv=nn.Conv2d(3, 4, 1), norm=copy.deepcopy(norm)).eval()
        node = graphprune.analyze(module, torch.randn(2, 3, 3, 3)).graph.nodes[-1]
        back = inverse(node, norm, given, torch.randn(2, 4, 3, 3))
    assert torch.equal(back[:, 2], given[:, 2]) and not torch.allclose(back[:, 1], given[:, 1])
    assert back.isfinite().all()
