"""What cannot be meant for single weights is refused, by name and with a way out."""

import warnings

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import (
    BudgetError,
    CriterionError,
    DataError,
    NothingToPruneError,
    OptionError,
    PlanError,
    WeightsError,
)
from masked_networks import X, network, nonzeros, size, sparse_of

BAD = [
    (dict(structure="3:2"), OptionError, "first number"),
    (dict(structure="4:4"), OptionError, "first number"),
    (dict(structure="0:4"), OptionError, "first number"),
    (dict(structure="n:m"), OptionError, "such as '2:4'"),
    (dict(structure="diagonal"), OptionError, "unstructured"),
    (dict(structure="block", block=(0, 1)), OptionError, "positive"),
    (dict(structure="block", block=(4,)), OptionError, "two positive"),
    (dict(structure="2:4", block=(4, 1)), OptionError, "goes with"),
    (dict(structure="2:4", sparsity=0.7), BudgetError, "leave sparsity out"),
    (dict(sparsity=1.5), BudgetError, "between 0 and 1"),
    (dict(sparsity=float("nan")), BudgetError, "between 0 and 1"),
    (dict(sparsity=True), BudgetError, "between 0 and 1"),
    (dict(budget="macs"), OptionError, "params, weights"),
    (dict(criterion="taylor"), CriterionError, "magnitude"),
    (dict(criterion=lambda tensor: None), CriterionError, "magnitude"),
    (dict(scope="network"), OptionError, "global, layer"),
    (dict(criterion="sparsegpt", scope="global", data=[X]), OptionError, "layer"),
    (dict(criterion="wanda"), DataError, "data="),
    (dict(criterion="wanda", data=[]), DataError, "no batch"),
    (dict(criterion="wanda", data=[torch.randn(2, 5)]), DataError, "batch 0"),
    (dict(criterion="sparsegpt", data=[X * float("nan")]), DataError, "NaN"),
    (dict(criterion="wanda", data=X), DataError, "iterable of batches"),
    (dict(criterion="sparsegpt", data=[X * 0]), CriterionError, "zero"),
    (dict(multiple_of=8), OptionError, "keeps all shapes"),
    (dict(target="x86"), OptionError, "keeps all shapes"),
    (dict(allocate="per_cost"), OptionError, "allocate="),
    (dict(widths={"0": (2, None)}), OptionError, "widths="),
    (dict(min_width=2), OptionError, "min_width="),
    (dict(reduction="max"), OptionError, "reduction="),
    (dict(normalizer="max"), OptionError, "normalizer="),
    (dict(criterion="wanda", data=[X], loss=nn.functional.mse_loss), OptionError, "loss="),
    (dict(recover=True), OptionError, "recover="),
    (dict(recover="tricks"), OptionError, "least_squares"),
    (dict(latency="60 %", threads=2, insist=True), OptionError, "latency= and threads= and insist="),
    (dict(budget="latency"), OptionError, "params, weights"),
    (dict(budget={"params": 0.5}), OptionError, "params, weights"),
    (dict(scope="isomorphic"), OptionError, "global, layer"),
    (dict(keep=["nothing.*"]), OptionError, "matches no parameter"),
    (dict(keep=["*"]), NothingToPruneError, "keep less"),
    (dict(structure="5:7"), NothingToPruneError, "multiple of 7"),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD, ids=[str(options)[:40] for options, _, _ in BAD])
def test_bad_options(options, error, words) -> None:
    with pytest.raises(error, match=words):
        sparse_of(network(), **options)


def test_budget_out_of_reach() -> None:
    with pytest.raises(BudgetError, match="lie in biases") as caught:
        sparse_of(network(), 0.9, keep=["7"])
    reachable = caught.value.reachable
    model = sparse_of(network(), reachable - 0.01, keep=["7"])
    assert nonzeros(model) <= size(model) * (1 - reachable + 0.01)


def test_bad_weights_and_models() -> None:
    model = network()
    with torch.no_grad():
        model[7].weight[2, 3] = float("nan")
    with pytest.raises(WeightsError, match=r"7\.weight"):
        sparse_of_nan = graphprune.optimize(model, structure="unstructured", example_inputs=X)
        assert sparse_of_nan is None
    with pytest.raises(PlanError, match="no masks"):
        graphprune.hold_masks(network())
    with pytest.raises(PlanError, match="no masks"):
        graphprune.finalize(network())
    masks = graphprune.masks_of(sparse_of(network(), 0.5))
    with pytest.raises(PlanError, match=r"another model.*0\.weight"):
        masks.apply(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(PlanError, match="another model"):
        graphprune.hold_masks(nn.Sequential(nn.Linear(3, 3)), masks)
    with pytest.raises(NothingToPruneError, match="no product"):
        sparse_of(nn.Sequential(nn.BatchNorm2d(3)).eval(), 0.5)


def test_an_empty_layer_is_told() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight.mul_(1e-6)
    with pytest.warns(UserWarning, match=r"no weight is left in 3\.weight"):
        sparse_of(model, 0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparse_of(model, 0.9, scope="layer")
