"""Bounds on widths: kept exactly, together with budgets, alignment and locks; contradictions are named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
import oracle
from graphprune.errors import BudgetError, OptionError
from helpers import randomise
from networks import build
from test_allocation import tiny


def left(plan, name, size, axis=0):
    kept = plan.kept.get(name, {}).get(axis)
    return size if kept is None else kept.size


bound = st.one_of(st.none(), st.integers(1, 24), st.floats(0.05, 1.0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0.1, 0.8), bound, bound, st.sampled_from([1, 4]), st.sampled_from(["global", "layer"]))
def test_bounds_hold(sparsity, fewest, most, multiple_of, scope):
    module, x = tiny((16, 24, 16))
    analysis = graphprune.analyze(module, x)
    try:
        plan = analysis.plan(sparsity, widths={"3": (fewest, most)}, multiple_of=multiple_of, scope=scope)
    except (OptionError, BudgetError):
        return
    width = left(plan, "3.weight", 24)
    low = {int: fewest, float: fewest and fewest * 24}.get(type(fewest), 1)
    high = {int: most, float: most and most * 24}.get(type(most), 24)
    assert min(low, 24) <= width <= high + 1e-6
    assert width % multiple_of == 0
    assert plan.report["params"][1] <= (1 - sparsity) * plan.report["params"][0]


def test_without_the_bound_another_width_comes_out():
    module, x = tiny((16, 24, 16))
    analysis = graphprune.analyze(module, x)
    free = left(analysis.plan(0.5), "3.weight", 24)
    assert left(analysis.plan(0.5, widths={"3": (20, None)}), "3.weight", 24) == 20 != free
    assert left(analysis.plan(0.5, widths={"3": (None, 0.25)}), "3.weight", 24) == 6 != free
    assert left(analysis.plan(0.1, widths={"3.weight": (None, 5)}), "3.weight", 24) == 5


def test_the_most_is_pruned_to_though_the_budget_needs_less():
    module, x = tiny((16, 24, 16))
    randomise(module)
    slim = graphprune.optimize(module, 0.05, example_inputs=x, widths={"0": (None, 4)})
    plan = graphprune.plan_of(slim)
    assert slim[0].out_channels == 4 and oracle.error(module, slim, (x,)) < 1e-9
    assert left(plan, "3.weight", 24) == 24 and left(plan, "6.weight", 16) == 16, "nothing else had to go"


def test_min_width_for_all():
    module, x = tiny((16, 24, 6))
    plan = graphprune.analyze(module, x).plan(0.5, min_width=8)
    widths = [left(plan, name, size) for name, size in (("0.weight", 16), ("3.weight", 24), ("6.weight", 6))]
    assert widths[2] == 6 and min(widths[:2]) >= 8 and widths != [16, 24, 6]
    half = graphprune.analyze(module, x).plan(0.5, min_width=0.5)
    assert all(2 * after >= before for _, _, before, after in half.widths())


def test_heads_count_as_positions():
    """Of 8 heads of 8 positions at most 32 positions stay: four heads."""
    layer = nn.TransformerEncoderLayer(64, 8, 128, batch_first=True).eval()
    x = torch.randn(1, 5, 64)
    plan = graphprune.analyze(layer, x).plan(0.1, widths={"self_attn.in_proj_weight": (None, 0.5)}, exact=True)
    assert plan.kept["self_attn.in_proj_weight"][0].size == 3 * 32
    assert plan.kept["self_attn.out_proj.weight"][1].size == 32


def test_groups_keep_equal_counts():
    module, inputs = build("grouped")
    plan = graphprune.plan_of(oracle.check(module, inputs, sparsity=0.1, widths={"2": (None, 9)}))
    assert plan.kept["2.weight"][0].size == 9 and plan.kept["5.weight"][1].size == 9


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"widths": [1]}, OptionError, "must be a dict"),
        ({"widths": {"0": 8}}, OptionError, "fewest, most"),
        ({"widths": {"0": (0, None)}}, OptionError, "from 1 on"),
        ({"widths": {"0": (None, 1.5)}}, OptionError, "up to 1.0"),
        ({"widths": {"0": (True, None)}}, OptionError, "from 1 on"),
        ({"widths": {"0": (9, 8)}}, OptionError, "contradict"),
        ({"widths": {"0": (9, None), "0.weight": (None, 8)}}, OptionError, "another bound asks for 9"),
        ({"widths": {"zero": (1, 2)}}, OptionError, "widths='zero' matches no parameter"),
        ({"widths": {"11": (None, 2)}}, BudgetError, "is an output of the program"),
        ({"widths": {"0": (None, 2)}, "multiple_of": 8}, BudgetError, "multiples of 8"),
        ({"widths": {"0": (None, 2)}, "keep": ["0"]}, BudgetError, "keep="),
        ({"min_width": -1}, OptionError, "min_width"),
        ({"min_width": 0.9}, BudgetError, "the most that can be reached with these options"),
    ],
)
def test_bad_widths(options, kind, words):
    module, x = tiny((16, 24, 16))
    with pytest.raises(kind, match=words):
        graphprune.optimize(module, example_inputs=x, **options)


def test_onnx_models_take_the_same_bounds(tmp_path):
    module, x = tiny((16, 24, 16))
    path = tmp_path / "net.onnx"
    torch.onnx.export(module, (x,), path, dynamo=False, input_names=["x"])
    there = graphprune.analyze(str(path))
    first = next(node.inputs[1].name for node in there.graph.nodes if node.op == "conv")
    plan = there.plan(0.3, widths={first: (None, 7)}, multiple_of=1)
    assert left(plan, first, 16) == 7 and plan.report["macs"][0] == graphprune.analyze(module, x).cost().macs
