"""Integer attributes that name sizes: found by where the sizes of a run come from, set, and proved right."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
import oracle
from graphprune.errors import ApplyError
from graphprune.frontends.torch.slots import Slot, Step, Traced, becoming_of, slots_of, solve


class SelfAttention(nn.Module):
    """Separate projections; sizes from three attributes, one of which is the product of the others."""

    def __init__(self, width=16, heads=4) -> None:
        super().__init__()
        self.num_heads, self.head_size = heads, width // heads
        self.all_head_size = self.num_heads * self.head_size
        self.q, self.k, self.v = (nn.Linear(width, self.all_head_size) for _ in range(3))
        self.out = nn.Linear(self.all_head_size, width)

    def split(self, x):
        return x.view(x.size()[:-1] + (self.num_heads, self.head_size)).permute(0, 2, 1, 3)

    def forward(self, x):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(self.head_size)).softmax(-1)
        y = (weights @ v).permute(0, 2, 1, 3).contiguous()
        return self.out(y.view(y.size()[:-2] + (self.all_head_size,)))


class ProductAttention(SelfAttention):
    """The width of all heads is computed where it is used."""

    def forward(self, x):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], self.num_heads * self.head_size))


class TwoWidths(SelfAttention):
    """Queries and keys are as wide as values, but need not be."""

    def __init__(self) -> None:
        super().__init__()
        self.value_size = 4

    def forward(self, x):
        b, n, _ = x.shape
        q, k = (part(x).view(b, n, self.num_heads, self.head_size).transpose(1, 2) for part in (self.q, self.k))
        v = self.v(x).view(b, n, self.num_heads, self.value_size).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.out(y.transpose(1, 2).reshape(b, n, self.num_heads * self.value_size))


class DividedAttention(SelfAttention):
    """The head width is computed from the width of all heads, and that from the tensor."""

    def forward(self, x):
        width = self.all_head_size // self.num_heads
        q, k, v = (
            part(x).view(*x.shape[:2], self.num_heads, width).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2)
        return self.out(y.reshape(*x.shape[:2], y.shape[2] * width))


class FusedAttention(SelfAttention):
    """One projection for q, k and v."""

    def __init__(self, width=16, heads=4) -> None:
        super().__init__(width, heads)
        self.qkv = nn.Linear(width, 3 * width)
        del self.q, self.k, self.v

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_size).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, self.all_head_size))


class Windows(FusedAttention):
    """As many positions to a window as there are heads: equal numbers of different origin."""

    def __init__(self) -> None:
        super().__init__()
        self.window = 4
        assert self.window == self.num_heads == self.head_size

    def forward(self, x):
        b, n, c = x.shape
        return super().forward(x.view(b * (n // self.window), self.window, c)).reshape(b, n, c)


class Split(nn.Module):
    """Sizes of parts, and a bound, in attributes; also in a tuple and in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.sizes = (5, 7), {"first": 5, "rest": 3}
        self.conv, self.a, self.b, self.c = (
            nn.Conv2d(3, 12, 1),
            nn.Conv2d(5, 4, 1),
            nn.Conv2d(7, 4, 1),
            nn.Conv2d(5, 4, 1),
        )

    def forward(self, x):
        y = self.conv(x)
        p, q = y.split(self.parts, 1)
        return self.a(p) + self.b(q) + self.c(y[:, : self.sizes["first"]]) * self.sizes["rest"]


class Groups(nn.Module):
    """A depthwise convolution by hand: the number of groups is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 12
        self.a, self.weight, self.b = nn.Conv2d(3, 12, 1), nn.Parameter(torch.randn(12, 1, 3, 3)), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return self.b(F.relu(F.conv2d(F.relu(self.a(x)), self.weight, None, 1, 1, 1, self.groups)))


class Config:
    """What several modules share."""

    def __init__(self, **entries) -> None:
        self.__dict__.update(entries)


class Inner(nn.Module):
    """A hidden layer whose width stands in a config; the view is there to use it."""

    def __init__(self, config, width) -> None:
        super().__init__()
        self.config = config
        self.a, self.b = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, x):
        return self.b(F.relu(self.a(x)).view(-1, 1, self.config.hidden).squeeze(1))


X, TOKENS = torch.randn(2, 3, 8, 8), torch.randn(2, 8, 16)
MODULES = {
    SelfAttention: (TOKENS, {"num_heads", "all_head_size"}),
    ProductAttention: (TOKENS, {"num_heads"}),
    DividedAttention: (TOKENS, {"num_heads", "all_head_size"}),
    FusedAttention: (TOKENS, {"num_heads", "all_head_size"}),
    Windows: (TOKENS, {"num_heads", "all_head_size"}),
    Split: (X, {"parts", "sizes"}),
    Groups: (X, {"groups"}),
}


def build(kind):
    torch.manual_seed(0)
    return kind().eval()


def numbers(module):
    """All integers by owner and way."""
    return {(name, slot.path): slot.value for name, part in module.named_modules() for slot in slots_of(name, part)}


@pytest.mark.parametrize("kind", MODULES)
def test_the_class_is_kept_and_only_sizes_change(kind):
    inputs, changed = MODULES[kind]
    module = build(kind)
    before = numbers(module)
    slim = oracle.check(module, inputs, sparsity=0.25)
    assert type(slim) is kind
    assert numbers(module) == before, "the original is not touched"
    after = numbers(slim)
    assert {path[0] for (name, path), value in after.items() if not name and value != before[name, path]} == changed
    assert all(type(value) is int for value in after.values()), "no number that remembers is left behind"
    slim.train()(inputs).sum().backward()
    copy.deepcopy(slim)
    pickle.dumps(slim)


def test_equal_numbers_of_other_origin_stay():
    slim = oracle.check(build(Windows), TOKENS, sparsity=0.25)
    assert (slim.window, slim.head_size) == (4, 4)
    assert slim.num_heads < 4


def test_a_number_that_is_no_size_stays():
    slim = oracle.check(build(Split), X, sparsity=0.25)
    assert slim.sizes["rest"] == 3


def test_a_shared_config_changes_once():
    config = Config(hidden=32, layers=2, name="two")
    module = nn.Sequential(Inner(config, 32), Inner(config, 32))
    slim = oracle.check(module, torch.randn(4, 8), sparsity=0.4, scope="layer")
    assert type(slim[0]) is Inner
    assert slim[0].config is slim[1].config
    assert slim[0].config.hidden == slim[0].a.out_features == slim[1].a.out_features < 32
    assert (config.hidden, slim[0].config.layers) == (32, 2)


def test_a_shared_config_that_cannot_say_it_stays():
    config = Config(hidden=32)
    module = nn.Sequential(Inner(config, 32), Inner(config, 32))
    with torch.no_grad():
        module[0].a.weight.mul_(100)
        module[0].b.weight.mul_(100)
    slim = oracle.check(module, torch.randn(4, 8), sparsity=0.4)
    assert type(slim) is nn.Sequential
    assert isinstance(slim[0], Inner), "the code was rewritten instead"
    assert config.hidden == slim[0].config.hidden == 32


def test_a_scale_stays_when_head_widths_shrink():
    module = build(SelfAttention)
    slim = oracle.check(module, TOKENS, sparsity=0.25, policy="dims")
    assert slim.q.out_features < 16
    kept = oracle.check(build(TwoWidths), TOKENS, sparsity=0.25, policy="dims")
    assert type(kept) is TwoWidths
    assert kept.num_heads == 4
    assert (kept.head_size, kept.value_size) == (kept.q.out_features // 4, kept.v.out_features // 4) < (4, 4)


class DefaultScale(SelfAttention):
    """The scale of attention is left to torch, which takes it from the head width."""

    def forward(self, x):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_the_default_scale_of_attention_is_pinned():
    slim = oracle.check(build(DefaultScale), TOKENS, sparsity=0.25, policy="dims")
    assert slim.q.out_features < 16


class Opaque(nn.Module):
    """The size is no attribute, and what comes out fits into no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 16), nn.Linear(16, 8)

    def forward(self, x):
        y = F.relu(self.a(x))
        if float(str(y.shape[1])) != 32:
            raise ValueError("32 it is")
        return Config(y=self.c(F.relu(self.b(y))))


def test_refusals_carry_the_blame():
    module = build(Opaque)
    analysis = graphprune.analyze(module, torch.randn(4, 8))
    plan = analysis.plan(0.3)
    assert 0 in plan.kept["a.weight"]
    with pytest.raises(ApplyError, match="32 it is") as caught:
        plan.apply(module)
    assert set(caught.value.blame) == set(analysis.leaf_classes["a.weight", 0])


def test_numbers_that_remember_are_numbers():
    slot = Slot("", ("heads",), 4)
    heads = Traced(4, slot)
    assert heads == 4
    assert hash(heads) == hash(4)
    assert f"{heads} {heads:>3d} {heads!r}" == "4   4 4"
    assert [0] * heads == [0, 0, 0, 0]
    assert list(range(heads)) == [0, 1, 2, 3]
    assert heads**-0.5 == 0.5
    assert heads / 8 == 0.5
    assert max(heads, 3) == 4
    assert [7, 8, 9, 10, 11][heads] == 11
    for made in (copy.copy(heads), copy.deepcopy(heads), pickle.loads(pickle.dumps(heads)), int(heads)):
        assert type(made) is int
    assert becoming_of(64 // heads) == Step("floordiv", 64, slot)
    assert becoming_of(-heads + Traced(64, 48)) == Step("add", Step("sub", 0, slot), 48)
    assert becoming_of(Traced(64, 48) // 2) == 24
    assert heads.__mul__(0.5) is NotImplemented


def test_solve():
    heads, width, other = Slot("", ("heads",), 4), Slot("", ("width",), 16), Slot("", ("other",), 8)
    product = Step("mul", heads, width)
    assert solve({product: {48}, width: {16}}) == {heads: 3, width: 16}
    assert solve({Step("floordiv", width, 4): {3}}) == {width: 12}
    assert solve({other: {6, 5}}) == {other: 8}, "contradictions leave it as it is"
    assert solve({other: {6}, Step("sub", other, 1): {7}}) == {other: 8}
    assert solve({product: {48}}) == {}, "two unknowns"
    assert solve({Step("mod", other, 3): {2}}) == {other: 8}, "what may stay stays"
