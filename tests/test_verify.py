"""The oracle sees what is wrong, says where, and refuses to prove nothing. Negative controls for the rules."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
import oracle
from graphprune import ops
from graphprune.errors import GraphPruneError, PlanError, VerifyError
from graphprune.layout import line
from graphprune.rules import pointwise, reduce, view
from helpers import randomise
from networks import NETWORKS, build


def pruned(name="residual", **options):
    module, inputs = build(name)
    randomise(module)
    return module, inputs, graphprune.optimize(module, 0.3, example_inputs=inputs, **options)


def test_passes_on_a_right_model():
    module, inputs, slim = pruned()
    seen = graphprune.verify(module, slim, example_inputs=inputs)
    assert seen.error < 1e-12 and seen.runs == 3 and seen.sensitivity > 1e-3
    assert graphprune.verify(module, slim, thorough=False).runs == 1  # inputs from the plan


def test_names_the_first_node_that_differs():
    module, _, slim = pruned("chain")
    with torch.no_grad():
        slim[3].weight[0] += 0.1
    with pytest.raises(VerifyError, match=r"first at 3 \(conv\)"):
        graphprune.verify(module, slim)


@pytest.mark.parametrize("name", ["chain", "grouped", "depthwise", "concat", "squeeze_excite"])
def test_sees_swapped_channels(name):
    """The right number of channels, but the wrong ones."""
    module, _, slim = pruned(name)
    plan = graphprune.plan_of(slim)
    parameter = next(p for n, p in slim.named_parameters() if n in plan.kept and p.ndim > 1 and p.shape[0] > 1)
    with torch.no_grad():
        parameter.copy_(parameter.flip(0))
    with pytest.raises(VerifyError, match="differs from the masked original"):
        graphprune.verify(module, slim)


def test_refuses_when_no_input_moves_the_output():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(module[2].weight)
    with pytest.warns(UserWarning, match="says little"):
        slim = graphprune.optimize(module, 0.3)
    with pytest.raises(VerifyError, match="prove nothing"):
        graphprune.verify(module, slim)


def test_refuses_an_empty_plan():
    module, _, slim = pruned()
    plan = copy.deepcopy(graphprune.plan_of(slim))
    plan.kept = {}
    with pytest.raises(VerifyError, match="nothing to verify"):
        graphprune.verify(module, slim, plan)


def test_needs_a_plan():
    module, _, _ = pruned()
    with pytest.raises(PlanError, match="pass the plan"):
        graphprune.verify(module, copy.deepcopy(module))


def forget_second(eq, node, *layouts):
    """A wrong rule: an addition that ties nothing."""
    return layouts[0]


def shifted(eq, node, x, *others):
    """A wrong rule: channels leave in another order than they came."""
    return tuple(array._replace(labels=array.labels[::-1].copy()) if array.axes == (1,) else array for array in x)


def keeps_zero_wrongly(eq, node, x):
    """A wrong rule: sigmoid of zero is not zero."""
    return x


WRONG = {
    "add": ("residual", forget_second),
    "relu": ("grouped", shifted),
    "batch_norm": ("chain", shifted),
    "cat": ("concat", lambda eq, node, *parts: (parts[0][0]._replace(labels=line(eq, parts[0], 1, 6)[[0] * 13]),)),
    "reshape": ("chain", lambda eq, node, x: ()),
    "flip": ("residual_flip", lambda eq, node, x: x),
    "softmax": ("softmax_channels", view.identity),
    "sigmoid": ("sigmoid_sum", keeps_zero_wrongly),
    "getitem": ("slice", lambda eq, node, x: tuple(a._replace(labels=a.labels[:6]) for a in x)),
}


@pytest.mark.parametrize("op", WRONG)
def test_a_wrong_rule_is_found_out(op, monkeypatch):
    """Break one rule: either verification fails or the plan cannot be applied. It must pass with the right rule."""
    name, rule = WRONG[op]
    module, inputs = sigmoid_sum() if name == "sigmoid_sum" else build(name)
    try:
        oracle.check(module, inputs, sparsity=0.3, exact=True)
    except graphprune.errors.BudgetError:
        assert name == "sigmoid_sum"  # locked by the right rule
    monkeypatch.setitem(ops.OPS, op, rule)
    with pytest.raises(GraphPruneError):
        plan = graphprune.analyze(module, inputs).plan(0.3, exact=True)
        graphprune.verify(module, plan.apply(module, inputs), plan, inputs)


def claimed(labels, arrays):
    return any(np.isin(labels, array).any() for array in arrays)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_rule_claims_every_axis(name, monkeypatch):
    """What goes into a rule comes out of it or is tied, locked or loosened there: nothing is forgotten."""

    def checked(op, rule):
        def run(eq, node, *layouts):
            before = len(eq.pairs), len(eq.locks), len(eq.inexact), len(eq.blocks)
            result = rule(eq, node, *layouts)
            out = [array.labels for layout in (result if isinstance(result, list) else [result]) for array in layout]
            said = [side for pair in eq.pairs[before[0] :] for side in pair[:2]]
            said += [labels for labels, _ in eq.locks[before[1] :] + eq.inexact[before[2] :]]
            said += [block.labels for block in eq.blocks[before[3] :]]
            stored = {id(value) for value in node.inputs if value is not None and value.is_leaf}
            for value, layout in zip(node.inputs, layouts, strict=True):
                for array in layout:
                    if id(value) in stored and not claimed(array.labels, list(eq.leaf_axes.values())):
                        continue  # the rule has closed this axis or sliced it in blocks
                    if op == "sum" and array.zero:
                        continue  # zeros may be summed away
                    assert claimed(array.labels, out + said), f"{op} forgets axes {array.axes} of {node!r}"
            return result

        return run

    for op, rule in list(ops.OPS.items()):
        monkeypatch.setitem(ops.OPS, op, checked(op, rule))
    module, inputs = build(name)
    graphprune.analyze(module, inputs)


def sigmoid_sum():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return self.b(torch.sigmoid(self.a(x)).sum(1, keepdim=True))

    torch.manual_seed(0)
    return randomise(Sum()).eval(), torch.randn(2, 3, 8, 8)


def test_the_rules_that_were_broken_are_the_real_ones():
    assert ops.OPS["add"] is pointwise.sums and ops.OPS["softmax"] is reduce.along
