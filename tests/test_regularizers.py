"""Penalties on groups of coupled channels, against sums over every single element."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import OptionError, TrainingError
from graphprune.frontends.torch.regularizers import REGULARIZERS
from helpers import randomise
from networks import NETWORKS, build

PATTERNS = (
    "chain", "residual", "grouped", "depthwise_multiplier", "shared_layer", "tied_head", "weight_used_twice", "heads",
    "unbind_qkv", "einsum", "squeeze_excite", "swap_concat", "transposed_grouped", "buffer_scale", "instance_norm",
)  # fmt: skip


def groups_of(model, x) -> list[set[tuple[str, int]]]:
    """Every group as a set of (parameter, place of an element), element by element from the analysis."""
    analysis = graphprune.analyze(model, x)
    found = [set() for _ in range(analysis.solution.count)]
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for (name, axis), classes in analysis.leaf_classes.items():
        if name not in shapes:
            continue
        places = np.arange(math.prod(shapes[name])).reshape(shapes[name])
        for index in np.ndindex(*shapes[name]):
            if classes.ndim == 1:
                group = classes[index[axis]]
            else:
                group = classes[index[0] // (shapes[name][0] // len(classes)), index[axis]]
            if analysis.free[group]:
                found[group].add((name, int(places[index])))
    return [group for group in found if group]


def norms(model, groups) -> list[float]:
    flat = {name: parameter.detach().double().flatten() for name, parameter in model.named_parameters()}
    return [math.sqrt(sum(float(flat[name][place]) ** 2 for name, place in group)) for group in groups]


@pytest.mark.parametrize("name", PATTERNS)
def test_group_lasso_is_the_sum_over_elements(name) -> None:
    model, x = build(name)
    randomise(model).double()
    x = x.double() if x.is_floating_point() else x
    groups = groups_of(model, x)
    assert groups
    expected = sum(math.sqrt(len(group)) * norm for group, norm in zip(groups, norms(model, groups), strict=True))
    penalty = graphprune.regularizer("group_lasso", model, x, strength=0.1)
    assert math.isclose(float(penalty().detach()), 0.1 * expected, rel_tol=1e-12)


def test_patterns_have_elements_in_one_group_by_two_axes() -> None:
    """Without such elements, the test above could not tell whether they are counted once."""
    model, x = build("shared_layer")
    analysis = graphprune.analyze(model, x)
    rows, columns = analysis.leaf_classes["s.weight", 0], analysis.leaf_classes["s.weight", 1]
    assert (rows == columns).all()


def test_the_gradient_is_that_of_differences() -> None:
    model, x = build("residual")
    randomise(model).double()
    penalty = graphprune.regularizer("group_lasso", model, x.double(), strength=1.0)
    assert torch.autograd.gradcheck(lambda *_: penalty(), list(model.parameters()))


def test_groups_of_zeros_have_no_gradient() -> None:
    model, x = build("chain")
    with torch.no_grad():
        model[0].weight[2] = model[0].bias[2] = model[1].weight[2] = model[1].bias[2] = model[3].weight[:, 2] = 0
    penalty = graphprune.regularizer("group_lasso", model, x)
    penalty().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (model[0].weight.grad[2] == 0).all() and (model[0].weight.grad[3] != 0).any()


def test_training_with_group_lasso_brings_whole_groups_to_zero() -> None:
    model, x = build("mlp")
    randomise(model)
    penalty = graphprune.regularizer("group_lasso", model, x, strength=1.0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    first = float(penalty().detach())
    for _ in range(300):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()
    assert float(penalty().detach()) < 0.2 * first


def test_bn_scale_is_the_sum_of_absolute_scales() -> None:
    model, x = build("chain")
    randomise(model)
    with torch.no_grad():
        model[1].weight[3] *= -1
    penalty = graphprune.regularizer("bn_scale", model, x, strength=2.0)
    value = penalty()
    assert math.isclose(float(value.detach()), 2 * float(model[1].weight.detach().abs().sum()), rel_tol=1e-6)
    value.backward()
    assert torch.equal(model[1].weight.grad, 2 * model[1].weight.sign())
    with pytest.raises(TrainingError, match="no channel that may be dropped has the scale"):
        graphprune.regularizer("bn_scale", *build("mlp"))()


def dropped_by(plan) -> set[tuple[str, int, int]]:
    return {
        (name, axis, place)
        for name, axes in plan.kept.items()
        for axis, kept in axes.items()
        for place in set(range(plan.shapes[name][axis])) - set(kept.tolist())
    }


def test_growing_presses_on_what_a_plan_would_drop_and_more_and_more() -> None:
    model, x = build("residual")
    randomise(model)
    plan = graphprune.analyze(model, x).plan(0.4, budget="macs")
    places = {name: torch.arange(p.numel()).reshape(p.shape) for name, p in model.named_parameters()}
    elements = {
        (name, place)
        for name, axis, index in dropped_by(plan)
        for place in places[name].select(axis, index).flatten().tolist()
    }
    groups = [group for group in groups_of(model, x) if group <= elements]
    assert 0 < len(groups) < len(groups_of(model, x))
    expected = sum(norm**2 for norm in norms(model, groups)) / 2
    penalty = graphprune.regularizer(
        "growing", model, x, strength=0.01, sparsity=0.4, budget="macs", every=3, ceiling=0.025
    )
    seen = [float(penalty().detach()) for _ in range(9)]
    wanted = [0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.025, 0.025, 0.025]
    assert np.allclose(seen, [strength * expected for strength in wanted], rtol=1e-5)
    again = graphprune.regularizer("growing", model, x, strength=0.01, sparsity=0.4, budget="macs", every=3)
    again.load_state_dict({**penalty.state_dict(), "calls": 4})
    assert math.isclose(float(again().detach()), 0.02 * expected, rel_tol=1e-5)


@pytest.mark.parametrize("kind", REGULARIZERS)
def test_penalties_follow_a_model_that_is_pruned(kind) -> None:
    model, x = build("chain")
    randomise(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    options = {"sparsity": 0.6} if kind == "growing" else {}
    penalty = graphprune.regularizer(kind, model, x, **options)
    pruner = graphprune.Schedule(0.5, begin=2, kind="one-shot").attach(model, optimizer, x)
    for step in range(3):
        optimizer.zero_grad()
        (model(x).square().mean() + penalty()).backward()
        optimizer.step()
        assert pruner.step() == (step == 1)
    fresh = graphprune.regularizer(kind, model, x, **(options | ({"sparsity": 0.2} if kind == "growing" else {})))
    if kind == "growing":  # as a share of the model as it was
        before, now = pruner.plan.report["params"]
        dropped = graphprune.analyze(model, x).plan(1 - (int(0.4 * before) + 0.5) / now)
        assert penalty.view().sizes.numel() == len(
            {
                (name, axis, place)
                for name, axis, place in dropped_by(dropped)
                if (name, axis) in (("0.weight", 0), ("3.weight", 0))
            }
        )
    else:
        assert math.isclose(float(penalty().detach()), float(fresh().detach()), rel_tol=1e-6)


def test_growing_has_nothing_left_to_press_on_when_all_is_pruned() -> None:
    model, x = build("chain")
    randomise(model)
    penalty = graphprune.regularizer("growing", model, x, sparsity=0.5)
    assert float(penalty().detach()) > 0
    pruner = graphprune.Schedule(0.5, kind="one-shot").attach(model, torch.optim.SGD(model.parameters(), 0.1), x)
    assert pruner.step()
    assert float(penalty().detach()) == 0
    penalty().backward()


def test_own_penalties() -> None:
    model, x = build("mlp")
    penalty = graphprune.regularizer(lambda view: view.squares().amax(), model, x, strength=1.0)
    groups = groups_of(model, x)
    assert math.isclose(float(penalty().detach()), max(norms(model, groups)) ** 2, rel_tol=1e-5)


def test_bad_regularizers() -> None:
    model, x = build("mlp")
    for words, kind, options in (
        ("kind='l3': choose one of group_lasso", "l3", {}),
        ("budget belongs to kind='growing' alone", "group_lasso", {"budget": "macs"}),
        ("strength=-1", "group_lasso", {"strength": -1}),
        ("every=0", "growing", {"every": 0}),
        ("'growing' presses on what one budget would drop", "growing", {"budget": ("params", "macs")}),
    ):
        with pytest.raises(OptionError, match=words):
            graphprune.regularizer(kind, model, x, **options)
    assert set(PATTERNS) <= set(NETWORKS)


def test_double_precision_is_kept_and_half_is_summed_in_single() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(2, 6)
    assert graphprune.regularizer("group_lasso", model.double(), x.double())().dtype == torch.float64
    assert graphprune.regularizer("group_lasso", model.bfloat16(), x.bfloat16())().dtype == torch.float32
