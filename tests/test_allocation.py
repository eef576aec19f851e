"""Allocation against brute force: every set of channels of a tiny network that could have been dropped."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
from graphprune.allocation import Account, by_cost, cut
from graphprune.budget import Options, _ordered
from graphprune.cost import CostModel
from graphprune.errors import BudgetError, OptionError
from helpers import randomise

QUANTITIES = ("params", "macs", "bytes", "memory")
ORDERS = ("score", "per_cost")


def tiny(widths, seed=0):
    """Convolutions of these widths with a batch norm each, and a head."""
    torch.manual_seed(seed)
    layers, last = [], 3
    for width in widths:
        layers += [nn.Conv2d(last, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        last = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 4)]
    return randomise(nn.Sequential(*layers), seed).eval(), torch.randn(1, 3, 6, 6)


def by_hand(widths):
    """Parameters, MACs, bytes and peak memory of `tiny`, from its sizes alone."""
    ends = [3, *widths]
    pairs = list(zip(ends[:-1], ends[1:], strict=True))
    weights = sum(9 * a * b for a, b in pairs)
    params = weights + sum(3 * b for _, b in pairs) + 5 * widths[-1] - widths[-1] + 4
    macs = 36 * weights + 4 * widths[-1]
    saved = 4 * params + sum(8 * b + 8 for _, b in pairs)
    image = 4 * 36
    steps = [image * 3 + image * b + (image * a if place else 0) for place, (a, b) in enumerate(pairs)]
    pooling = image * 3 + image * widths[-1] + 4 * widths[-1]
    return {"params": params, "macs": macs, "bytes": saved, "memory": max(*steps, pooling)}


def planned(widths, budgets, seed=0, **options):
    module, x = tiny(widths, seed)
    plan = graphprune.analyze(module, x).plan(budget=budgets, **options)
    kept = [plan.kept.get(f"{3 * place}.weight", {}).get(0) for place in range(len(widths))]
    return plan, [width if own is None else own.size for own, width in zip(kept, widths, strict=True)]


def test_quantities_by_hand():
    for widths in ((4,), (5, 3), (2, 7, 4)):
        module, x = tiny(widths)
        cost = graphprune.analyze(module, x).cost()
        assert cost._asdict() == by_hand(widths)
        assert cost.bytes == sum(tensor.nbytes for tensor in module.state_dict().values())


widths = st.lists(st.integers(2, 6), min_size=2, max_size=3)
shares = st.dictionaries(st.sampled_from(QUANTITIES), st.floats(0.05, 0.7), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(widths, shares, st.sampled_from(ORDERS), st.integers(0, 3))
def test_met_and_maximal(sizes, budgets, allocate, seed):
    """Every budget holds by the sizes that are left; with one channel more in any layer one of them would not."""
    whole = by_hand(sizes)
    limits = {name: whole[name] * (1 - share) for name, share in budgets.items()}
    possible = [w for w in product(*(range(1, size + 1) for size in sizes)) if _holds(w, limits)]
    try:
        plan, left = planned(sizes, budgets, seed, allocate=allocate)
    except BudgetError as error:
        assert not possible
        assert "must stay" in str(error)
        return
    assert possible and _holds(left, limits)
    assert {name: plan.report[name] for name in whole} == {name: [whole[name], by_hand(left)[name]] for name in whole}
    for layer, size in enumerate(sizes):
        more = [width + (place == layer) for place, width in enumerate(left)]
        assert left[layer] == size or not _holds(more, limits), "a channel could have stayed"


def _holds(sizes, limits):
    return all(by_hand(sizes)[name] <= limit for name, limit in limits.items())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(widths, st.sampled_from(QUANTITIES), st.floats(0.1, 0.6), st.sampled_from(ORDERS), st.integers(0, 9))
def test_importance_near_the_best(sizes, quantity, share, allocate, seed):
    """What is kept of the importance, beside the best of all choices: never less than 0.6 of it."""
    kept, best = _importance(sizes, quantity, share, allocate, seed)
    assert kept <= best + 1e-9
    assert kept >= 0.6 * best


def _importance(sizes, quantity, share, allocate, seed):
    """Importance that is kept: by the plan, and by the best of all sets of channels that meet the budget."""
    limit = by_hand(sizes)[quantity] * (1 - share)
    possible = [w for w in product(*(range(1, size + 1) for size in sizes)) if by_hand(w)[quantity] <= limit]
    if not possible:
        return 0.0, 0.0
    module, x = tiny(sizes, seed)
    analysis = graphprune.analyze(module, x)
    units, order = _ordered(analysis, Options(), analysis.free)
    account = Account(CostModel.of(analysis), units, {quantity: int(limit)})
    alive = cut(account, by_cost(account, order) if allocate == "per_cost" else order)
    kept = units.score[alive & units.free].sum()
    layers = [units.score[units.of_class[analysis.leaf_classes[f"{3 * n}.weight", 0]]] for n in range(len(sizes))]
    tops = [np.cumsum(np.sort(scores)[::-1]) for scores in layers]  # the best of a layer are always its largest
    return kept, max(sum(top[w - 1] for top, w in zip(tops, chosen, strict=True)) for chosen in possible)


def test_importance_on_average():
    """Greedy choices keep more than 90 % of the best on average, and per cost no less than by score alone."""
    cases = [((4, 6, 3), quantity, share, seed) for quantity in QUANTITIES for share in (0.2, 0.4) for seed in range(4)]
    ratios = {}
    for allocate in ORDERS:
        pairs = [_importance(sizes, quantity, share, allocate, seed) for sizes, quantity, share, seed in cases]
        ratios[allocate] = np.mean([kept / best for kept, best in pairs])
    assert ratios["per_cost"] >= ratios["score"] > 0.9


def test_several_budgets_at_once():
    """Of a parameter-heavy and a MAC-heavy half neither is cut much more than its budget asks for, by cost."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 512), nn.ReLU(),
        nn.Linear(512, 5),
    )  # fmt: skip
    analysis = graphprune.analyze(module, torch.randn(1, 3, 16, 16))
    plan = analysis.plan(budget={"params": 0.5, "macs": 0.4}, allocate="per_cost", keep=["4"])
    shares = {name: plan.report[name][1] / plan.report[name][0] for name in ("params", "macs")}
    assert 0.49 < shares["params"] <= 0.5 and 0.5 < shares["macs"] <= 0.6
    alone = analysis.plan(budget={"params": 0.5}, allocate="per_cost", keep=["4"])
    assert alone.report["macs"][1] > 0.6 * alone.report["macs"][0], "one budget alone would not have done"


def test_budgets_in_words():
    module, x = tiny((6, 6))
    analysis = graphprune.analyze(module, x)
    both = analysis.plan(0.4, budget=("params", "macs"))
    assert (
        both.kept["0.weight"][0].tolist()
        == analysis.plan(budget={"params": 0.4, "macs": 0.4}).kept["0.weight"][0].tolist()
    )
    assert all(both.report[name][1] <= 0.6 * both.report[name][0] for name in ("params", "macs"))
    assert graphprune.Plan.from_json(both.to_json()).options["budget"] == {"params": 0.4, "macs": 0.4}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"budget": {}}, OptionError, "names no quantity"),
        ({"budget": 3}, OptionError, "a tuple of them"),
        ({"budget": [0.5]}, OptionError, "several, or a dict"),
        ({"budget": {"params": 1.0}}, BudgetError, "between 0 and 1"),
        ({"budget": {"params": True}}, BudgetError, "between 0 and 1"),
        ({"budget": {"joules": 0.5}}, OptionError, "memory"),
        ({"budget": ("params", "joules")}, OptionError, "memory"),
        ({"allocate": "dearest"}, OptionError, "per_cost"),
        ({"allocate": "per_cost", "scope": "layer"}, OptionError, "compares all layers"),
        ({"budget": {"params": 0.1, "memory": 0.999}}, BudgetError, "bytes of peak activation memory"),
    ],
)
def test_bad_budgets(options, kind, words):
    module, x = tiny((4, 4))
    with pytest.raises(kind, match=words):
        graphprune.optimize(module, example_inputs=x, **options)


def test_a_quantity_that_a_model_has_not():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(8))

        def forward(self, x):
            return (x * self.scale).sum(1)

    with pytest.raises(BudgetError, match="no macs"):
        graphprune.optimize(Table(), 0.5, budget="macs", example_inputs=torch.randn(2, 8))


def test_out_of_reach_names_the_quantity_and_how_far_one_gets():
    module, x = tiny((4, 4))
    analysis = graphprune.analyze(module, x)
    with pytest.raises(BudgetError) as caught:
        analysis.plan(budget={"params": 0.2, "macs": 0.99})
    assert "macs" in str(caught.value) and "params, but" not in str(caught.value)
    least, whole = by_hand((1, 1))["macs"], by_hand((4, 4))["macs"]
    assert caught.value.reachable == pytest.approx(1 - least / whole)
    analysis.plan(budget={"params": 0.2, "macs": caught.value.reachable - 1e-6})


def test_isomorphic_layers_lose_the_same_share():
    """Two blocks of one structure compete inside their set; the stem, of another one, loses the same share alone."""
    torch.manual_seed(0)

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 64, 3, padding=1)
            self.up = nn.ModuleList(nn.Conv2d(64, 96, 1) for _ in range(3))
            self.down = nn.ModuleList(nn.Conv2d(96, 64, 1) for _ in range(3))
            self.head = nn.Conv2d(64, 4, 1)

        def forward(self, x):
            x = self.stem(x)
            for up, down in zip(self.up, self.down, strict=True):
                x = x + down(up(x).relu())
            return self.head(x)

    module = Blocks()
    with torch.no_grad():
        module.up[1].weight[:80] *= 0.01
    analysis = graphprune.analyze(module, torch.randn(1, 3, 8, 8))
    plan = analysis.plan(0.5, scope="isomorphic")
    inner = [plan.kept.get(f"up.{n}.weight", {}).get(0, np.arange(96)).size for n in range(3)]
    outer = plan.kept["stem.weight"][0].size
    assert abs(sum(inner) / 288 - outer / 64) < 0.05
    assert max(inner) - min(inner) > 20, "layers of one structure compete"
    same = analysis.plan(0.5, scope="layer")
    sizes = [same.kept[f"up.{n}.weight"][0].size for n in range(3)]
    assert max(sizes) - min(sizes) <= 2
