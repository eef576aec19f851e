"""Coupled alternatives: whole heads or head widths, positions of groups or whole groups."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
import oracle
from graphprune.errors import OptionError
from networks import NETWORKS, Net, X, build, conv


class Written(nn.Module):
    """Attention written out: its scale is pinned, its sizes come from tensors; gain per position, slope per head."""

    def __init__(self, width=16, heads=4, kv=4) -> None:
        super().__init__()
        self.heads, self.kv, self.scale = heads, kv, (width // heads) ** -0.5
        inner = width // heads * kv
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, inner), nn.Linear(width, inner)
        self.gain = nn.Parameter(torch.rand(width // heads) + 0.5)
        self.slope = nn.Parameter(torch.rand(heads, 1, 1))
        self.out = nn.Linear(width, width)

    def forward(self, x):
        b, n = x.shape[:2]
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2) * self.gain
        k = self.k(x).view(b, n, self.kv, -1).transpose(1, 2).repeat_interleave(self.heads // self.kv, 1)
        v = self.v(x).view(b, n, self.kv, -1).transpose(1, 2).repeat_interleave(self.heads // self.kv, 1)
        weights = (q @ k.transpose(-2, -1) * self.scale + self.slope).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("kv", [4, 2])
def test_head_widths(kv):
    model = Written(kv=kv).eval()
    slim = oracle.check(model, torch.randn(2, 5, 16), sparsity=0.3, policy="dims")
    assert type(slim) is Written
    assert slim.q.out_features % 4 == 0 and slim.q.out_features < 16
    assert slim.slope.shape[0] == 4


def test_heads_by_default():
    model = Written(kv=2).eval()
    plan = graphprune.analyze(model, torch.randn(2, 5, 16)).plan(0.3)
    assert "gain" not in plan.kept and plan.kept["slope"][0].size == 2


def test_rotary_head_widths():
    def rotate(x):
        half = x.shape[-1] // 2
        return torch.cat([-x[..., half:], x[..., :half]], -1)

    def forward(m, x):
        q = m.q(x).unflatten(-1, (4, -1)).transpose(1, 2)
        k = m.k(x).unflatten(-1, (4, -1)).transpose(1, 2)
        angle = torch.arange(5, dtype=x.dtype)[:, None] * m.frequency
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        q, k = q * cos + rotate(q) * sin, k * cos + rotate(k) * sin
        return m.o(((q @ k.mT) * 0.35).softmax(-1).sum(-1).transpose(1, 2) * m.g(x))

    layers = {"q": nn.Linear(16, 32), "k": nn.Linear(16, 32), "g": nn.Linear(16, 4), "o": nn.Linear(4, 3)}
    model = Net(forward, **layers, frequency=torch.rand(4)).eval()
    slim = oracle.check(model, torch.randn(2, 5, 16), sparsity=0.3, policy="dims")
    assert slim.frequency.shape[0] < 4 and slim.q.out_features == 8 * slim.frequency.shape[0]


@pytest.mark.parametrize("name", ["grouped", "grouped_residual", "transposed_grouped", "depthwise_multiplier"])
def test_whole_groups(name):
    module, inputs = build(name)
    slim = oracle.check(module, inputs, sparsity=0.25, policy="groups", budget="macs")
    before = {name: part.groups for name, part in module.named_modules() if getattr(part, "groups", 1) > 1}
    after = {name: slim.get_submodule(name).groups for name in before}
    assert any(after[name] < before[name] for name in before)


def side_by_side():
    """Groups of 8 channels behind groups of 24."""
    wide, narrow = nn.Conv2d(48, 64, 3, padding=1, groups=2), nn.Conv2d(64, 64, 3, padding=1, groups=8)
    layers = conv(3, 48), nn.ReLU(), wide, nn.ReLU(), conv(64, 64), nn.ReLU(), narrow, nn.ReLU(), conv(64, 4)
    return nn.Sequential(*layers).eval(), torch.randn(X)


def test_narrow_groups_go_whole_and_wide_ones_lose_positions():
    module, inputs = side_by_side()
    slim = oracle.check(module, inputs, sparsity=0.4, policy="narrow", scope="layer")
    assert slim[2].groups == 2 and slim[2].in_channels < 48
    assert slim[6].groups < 8 and slim[6].in_channels == 8 * slim[6].groups


def test_a_target_prefers_whole_groups_where_they_are_narrow():
    narrow = nn.Conv2d(64, 64, 3, padding=1, groups=8)
    module, inputs = nn.Sequential(conv(3, 64), nn.ReLU(), narrow, nn.ReLU(), conv(64, 4)).eval(), torch.randn(X)

    def pruned(**options):
        slim = graphprune.optimize(module, 0.4, example_inputs=inputs, **options)
        return graphprune.plan_of(slim).policy[1], slim[2].groups, slim[2].weight.shape[1]

    assert pruned() == ("positions", 8, 5)
    assert pruned(target="x86-avx512") == ("narrow", 4, 8)
    assert pruned(target="arm", policy=("dims", "positions")) == ("positions", 8, 4)


def test_whole_groups_of_a_group_norm_are_exact():
    model = nn.Sequential(conv(3, 12), nn.GroupNorm(6, 12), nn.ReLU(), conv(12, 4)).eval()
    slim = oracle.check(model, torch.randn(X), sparsity=0.3, policy="groups", exact=True)
    assert slim[1].num_groups < 6 and slim[1].num_channels == 2 * slim[1].num_groups


@pytest.mark.parametrize("words", [("dims", "groups"), ("dims", "narrow")], ids=" ".join)
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_no_policy_breaks_a_pattern(name, words):
    module, inputs = build(name)
    try:
        oracle.check(module, inputs, sparsity=0.15, policy=words)
    except graphprune.errors.BudgetError:
        pass


def test_words_that_exclude_each_other():
    with pytest.raises(OptionError, match="whole groups"):
        graphprune.optimize(nn.Linear(3, 3), policy=("heads", "dims"))
    with pytest.raises(OptionError, match="choose"):
        graphprune.analyze(nn.Linear(3, 3), torch.randn(1, 3), policy="rows")


def test_the_plan_knows_its_policy(tmp_path):
    model, inputs = Written().eval(), torch.randn(2, 5, 16)
    plan = graphprune.analyze(model, inputs, policy="dims").plan(0.3)
    plan.save(tmp_path / "plan.json")
    again = graphprune.Plan.load(tmp_path / "plan.json")
    assert again.policy == ("dims", "positions")
    torch.testing.assert_close(again.apply(model)(inputs), plan.apply(model)(inputs))
    assert F.mse_loss(plan.apply(model)(inputs), model(inputs)) > 0
