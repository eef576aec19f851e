"""Budgets are met within one granule and never exceeded; criteria, scopes, alignment, what stays."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
import oracle
from graphprune.allocation import Account, cut
from graphprune.budget import Options, _ordered
from graphprune.cost import CostModel
from graphprune.criteria import TensorAxis
from graphprune.errors import BudgetError
from helpers import randomise
from networks import NETWORKS, build


def wide():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1)
    module = nn.Sequential(
        *layers, nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)
    )
    return randomise(module).eval(), torch.randn(2, 3, 16, 16)


class Cell(nn.Module):
    """The outputs of a recurrent layer without its last state."""

    def forward(self, found):
        return found[0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.floats(0.05, 0.9),
    st.sampled_from(["params", "macs", "bytes", "memory"]),
    st.sampled_from(["global", "layer", "isomorphic"]),
    st.sampled_from([1, 8]),
)
def test_within_one_granule(sparsity, budget, scope, multiple_of):
    module, inputs = wide()
    analysis = graphprune.analyze(module, inputs)
    try:
        plan = analysis.plan(sparsity, budget=budget, scope=scope, multiple_of=multiple_of)
    except BudgetError:
        assert multiple_of > 1
        return
    before, after = plan.report[budget]
    limit = before * (1 - sparsity)
    assert after <= limit
    units, order = _ordered(analysis, Options(sparsity, budget, scope=scope, multiple_of=multiple_of), analysis.free)
    model = CostModel.of(analysis)
    costs = []
    for count in range(order.ends.size):
        dropped = np.zeros(units.count, dtype=bool)
        dropped[order.units[: order.ends[count]]] = True
        costs.append(model.evaluate(budget, ~dropped[units.of_class]))
    assert all(left >= right for left, right in zip(costs[:-1], costs[1:], strict=True))
    first = next(count for count, cost in enumerate(costs) if cost <= limit)
    assert costs[first] <= after, "more went than the least important granules"
    account = Account(model, units, {budget: int(limit)})
    alive = cut(account, order)[units.of_class]
    assert model.evaluate(budget, alive) == after
    for begin, end in zip(order.ends[:-1], order.ends[1:], strict=True) if scope == "global" else ():
        more = alive | np.isin(units.of_class, order.units[begin:end])
        assert more.sum() == alive.sum() or model.evaluate(budget, more) > limit, "this granule could have stayed"


def test_alignments_give_way_to_the_budget():
    """Counts that the runtime likes are taken where they meet the budget closely; else finer ones."""
    module, inputs = wide()
    analysis = graphprune.analyze(module, inputs)
    coarse = copy(analysis)
    coarse.graph = replace(analysis.graph, alignments=(64, 2, 1))
    plan = coarse.plan(0.2)
    assert plan.options["multiple_of"] in (2, 1)
    coarse.graph = replace(analysis.graph, alignments=(2, 1))
    assert coarse.plan(0.5).options["multiple_of"] == 2
    assert analysis.plan(0.5).options["multiple_of"] == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_predicted_costs_are_real(name):
    """Parameters as counted on the slim module; MACs as analysed anew on the slim module."""
    module, inputs = build(name)
    slim = graphprune.optimize(randomise(module), 0.25, example_inputs=inputs)
    plan = graphprune.plan_of(slim)
    assert sum(parameter.numel() for parameter in module.parameters()) == plan.report["params"][0]
    assert sum(parameter.numel() for parameter in slim.parameters()) == plan.report["params"][1]
    if name != "found_rows":  # how many rows there are depends on the weights
        assert graphprune.analyze(slim, inputs).cost().macs == plan.report["macs"][1]


def test_macs_are_those_that_everybody_counts():
    module, inputs = wide()
    cost = graphprune.analyze(module, inputs[:1]).cost()
    assert cost.macs == 16 * 16 * 9 * (3 * 32 + 32 * 48) + 48 * 10
    assert cost.params == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("multiple", [2, 8, 16])
@pytest.mark.parametrize("name", ["wide", "grouped", "residual"])
def test_alignment(name, multiple):
    module, inputs = wide() if name == "wide" else build(name)
    try:
        slim = oracle.check(module, inputs, sparsity=0.3, multiple_of=multiple)
    except graphprune.errors.BudgetError:
        assert multiple > 4 and name != "wide"
        return
    for _, _, before, after in graphprune.plan_of(slim).widths():
        assert after % multiple == 0 or name == "grouped" or before % multiple


def test_a_target_asks_for_its_alignment():
    module, inputs = wide()
    slim = graphprune.optimize(module, 0.3, example_inputs=inputs, target="x86-avx2")
    assert {after % 8 for _, _, _, after in graphprune.plan_of(slim).widths()} == {0}
    with pytest.raises(graphprune.errors.TargetError):
        graphprune.optimize(module, 0.3, example_inputs=inputs, target="abacus")


def test_alignment_of_widths_that_are_not_multiples():
    module = nn.Sequential(nn.Linear(4, 21), nn.ReLU(), nn.Linear(21, 3))
    plan = graphprune.analyze(module).plan(0.2, multiple_of=8)
    assert plan.kept["0.weight"][0].size == 16


@pytest.mark.parametrize(("multiple", "heads"), [(8, 5), (16, 6), (32, 4), (1, 5)])
def test_a_unit_counts_with_all_its_channels(multiple, heads):
    """Eight heads of 8 channels, of which three could go by the budget."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

        def forward(self, x):
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, 8, 8).permute(2, 0, 3, 1, 4)
            attended = nn.functional.scaled_dot_product_attention(q, k, v)
            return x + self.out(attended.transpose(1, 2).flatten(2))

    module, inputs = Attention().eval(), torch.randn(2, 5, 64)
    sparsity = 1 - heads / 8 - 0.01
    slim = oracle.check(module, inputs, sparsity=sparsity, multiple_of=multiple)
    assert slim.get_parameter("qkv.weight").shape == (3 * 8 * heads, 64)
    assert slim.get_parameter("out.weight").shape == (64, 8 * heads)


@pytest.mark.parametrize("name", ["lstm", "glu", "flattened"])
def test_every_channel_count_of_a_unit_is_a_multiple(name):
    """Gates side by side, halves of a gated layer, pixels behind a convolution: one of the axes has one each."""
    if name == "lstm":
        module, inputs = nn.Sequential(nn.LSTM(6, 20), Cell(), nn.Linear(20, 3)), torch.randn(4, 2, 6)
    elif name == "glu":
        module, inputs = nn.Sequential(nn.Linear(6, 40), nn.GLU(), nn.Linear(20, 3)), torch.randn(4, 6)
    else:
        layers = nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Flatten(), nn.Linear(320, 3)
        module, inputs = nn.Sequential(*layers), torch.randn(2, 3, 6, 6)
    slim = oracle.check(module.eval(), inputs, sparsity=0.4, multiple_of=8)
    left = {
        "lstm": lambda: slim[0].hidden_size,
        "glu": lambda: slim[2].in_features,
        "flattened": lambda: slim[0].out_channels,
    }
    assert left[name]() == 8


def test_scope_layer_takes_the_same_share_everywhere():
    module, inputs = wide()
    plan = graphprune.analyze(module, inputs).plan(0.5, scope="layer")
    shares = [after / before for _, _, before, after in plan.widths()]
    assert max(shares) - min(shares) < 0.05


def test_l2_drops_the_smallest_channels():
    module = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([3.0, 1, 5, 2, 4, 6])[:, None].expand(6, 4))
        module[2].weight.fill_(1)
    plan = graphprune.analyze(module).plan(0.5)
    assert plan.kept["0.weight"][0].tolist() == [2, 4, 5] == plan.kept["2.weight"][1].tolist()


def test_bn_scale_reads_scales():
    module, inputs = wide()
    with torch.no_grad():
        module[1].weight.copy_(torch.arange(1, 33) / 32)
    plan = graphprune.analyze(module, inputs).plan(0.3, criterion="bn_scale", keep=["4", "3.bias"])
    kept = plan.kept["1.weight"][0]
    assert kept.tolist() == list(range(32 - kept.size, 32))


def test_random_is_seeded():
    module, inputs = wide()
    analysis = graphprune.analyze(module, inputs)
    plans = [analysis.plan(0.5, criterion="random", seed=seed).kept["0.weight"][0].tolist() for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_a_criterion_of_ones_own():
    seen = []

    def last_first(tensor: TensorAxis):
        seen.append((tensor.name, tensor.axis, tensor.role))
        return np.arange(tensor.positions[-1], 0, -1).astype(float)

    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    plan = graphprune.analyze(module).plan(0.5, criterion=last_first)
    assert plan.kept["0.weight"][0].tolist() == list(range(plan.kept["0.weight"][0].size))
    assert ("0.weight", 0, "weight") in seen and ("0.bias", 0, "bias") in seen and ("2.weight", 1, "weight") in seen
    assert plan.options["criterion"] == "last_first"


def test_keep():
    module, inputs = wide()
    plan = graphprune.analyze(module, inputs).plan(0.3, keep=["0"])
    assert not any(
        name.startswith(("0.", "1.")) or axis == 1 and name == "3.weight" for name, axis, _, _ in plan.widths()
    )
    assert "3.weight" in plan.kept


def test_no_axis_is_emptied():
    for name in NETWORKS:
        module, inputs = build(name)
        analysis = graphprune.analyze(randomise(module), inputs)
        with pytest.raises(graphprune.errors.BudgetError) as caught:
            analysis.plan(0.9999)
        least = 1 - float(str(caught.value).split("(sparsity ")[1].split(" ")[0])
        plan = analysis.plan(1 - least - 0.002)
        assert all(after >= 1 for _, _, _, after in plan.widths())


def test_grouped_convolutions_lose_different_channels_per_group():
    module, inputs = build("grouped")
    plan = graphprune.plan_of(oracle.check(module, inputs, sparsity=0.3))
    rows = plan.kept["2.weight"][1]
    assert rows.ndim == 2 and len(rows) == 3 and plan.kept["0.weight"][0].size == rows.size
    assert not (rows == rows[0]).all(), "groups may keep different channels"


def test_plan_survives_json(tmp_path):
    module, inputs = build("grouped")
    plan = graphprune.analyze(module, inputs).plan(0.3)
    plan.save(tmp_path / "plan.json")
    again = graphprune.Plan.load(tmp_path / "plan.json")
    assert again.to_json() == plan.to_json() and again.fingerprint == plan.fingerprint
    one, two = plan.apply(module), again.apply(module)
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in two.state_dict().items())


def test_a_budget_out_of_reach_names_the_options_in_the_way():
    module, x = wide()
    analysis = graphprune.analyze(module, x)
    first, second = 32 * (3 * 9 + 1 + 2 + 48 * 9), 48 * (32 * 9 + 1 + 2 + 10)  # weight, bias, norm, readers
    for keep, sparsity, held in (["8"], 0.98, second), (["3"], 0.5, first + second):  # the first is free, or nothing
        with pytest.raises(BudgetError, match=f"{held:,}  is named by keep= -> keep less"):
            analysis.plan(sparsity, keep=keep)
    with pytest.raises(BudgetError, match="multiples of 16: a smaller multiple_of= may reach further") as caught:
        analysis.plan(0.95, multiple_of=16)
    with pytest.raises(BudgetError) as without:
        analysis.plan(0.9999)
    assert without.value.reachable > caught.value.reachable
    assert "keep=" not in str(without.value) and "multiple_of" not in str(without.value)
