"""Criteria that look at data: what weights are multiplied with, wanda, SparseGPT; against computations by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
from graphprune import sparsegpt
from graphprune.errors import CriterionError
from graphprune.frontends.torch.calibrate import Calibration
from graphprune.frontends.torch.inputs import normalise
from graphprune.matrices import by_source, weight_matrices
from graphprune.sparsegpt import prune, surgeon
from graphprune.sparsity import best_in_rows
from graphprune.structures import Structure
from helpers import randomise

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5, bias=False), (3, 4, 6)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False), (2, 4, 7, 6)),
    "same": (lambda: nn.Conv2d(4, 6, (3, 2), padding="same", dilation=2, bias=False), (2, 4, 7, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, dilation=2, bias=False), (2, 4, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (1, 2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, bias=False), (2, 4, 4, 3)),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(4, 6, 2, 2, groups=2, bias=False), (2, 4, 4, 3)),
    "transposed_dilated": (lambda: nn.ConvTranspose1d(4, 6, 3, 1, dilation=2, bias=False), (2, 4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gram_matrices_give_the_energy_of_outputs(name) -> None:
    """For any weight the sum of squared outputs is w G w: this fixes G, and knows nothing of patches."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, batches = make(), [torch.randn(shape), torch.randn(shape)]
    (weight,) = weight_matrices(graphprune.analyze(layer, batches[0]).graph).values()
    (gram,) = Calibration(layer, normalise(batches[0]), batches, "sparsegpt").grams([weight]).values()
    (norms,) = Calibration(layer, normalise(batches[0]), batches, "wanda").norms([weight]).values()
    assert np.allclose(norms.reshape(len(gram), -1), np.einsum("gii->gi", gram))
    layer = layer.double()
    for _ in range(3):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape))
            energy = sum(float(layer(batch.double()).square().sum()) for batch in batches)
        matrix = weight.matrix(layer.weight.detach().numpy()).reshape(*weight.shape[:2], -1)
        assert np.isclose(energy, np.einsum("goi,gij,goj->", matrix, gram, matrix), rtol=1e-9)


def test_wanda_is_weight_times_norm_in_every_row() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    data = [torch.randn(5, 12) * torch.linspace(0.1, 3, 12) for _ in range(3)]
    sparse = graphprune.optimize(
        model, 0.5, structure="unstructured", criterion="wanda", budget="weights", data=data, example_inputs=data[0]
    )
    x = torch.cat(data).numpy()
    for layer, inputs in (
        (0, x),
        (2, np.maximum(x @ model[0].weight.detach().numpy().T + model[0].bias.detach().numpy(), 0)),
    ):
        weight = model[layer].weight.detach().numpy()
        scores = np.abs(weight) * np.sqrt((inputs**2).sum(0))
        for row, kept in zip(scores, sparse[layer].weight.detach().numpy() != 0, strict=True):
            assert kept.sum() == row.size // 2 and row[kept].min() >= row[~kept].max()


@given(st.integers(1, 4), st.integers(2, 10), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_rows_keep_their_counts(rows, columns, seed) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(0, columns + 1, rows)
    assert (
        best_in_rows(random.integers(0, 3, (rows, columns)).astype(float), counts).sum(axis=1).tolist()
        == counts.tolist()
    )


def by_hand(weight, hessian, kept):
    """Column after column: freeze what lies before, set this one, and let least squares choose all that follow."""
    result = weight.copy()
    for row, mask in zip(result, kept, strict=True):
        for column in range(row.size):
            if mask[column]:
                continue
            # minimise (v - u) H (v - u) over v[column + 1 :], with v[: column] = u[: column] and v[column] = 0
            rest = slice(column + 1, None)
            moved = -row[column]
            if row[rest].size:
                row[rest] -= np.linalg.solve(hessian[rest, rest], hessian[rest, column] * moved)
            row[column] = 0.0
    return result


@pytest.mark.parametrize("columns", [128, 4, 5])
@pytest.mark.parametrize(
    "structure", [Structure(), Structure(n=2, m=4), Structure(block=(2, 1)), Structure(block=(2, 4))]
)
def test_updates_are_those_of_least_squares(structure, columns, monkeypatch) -> None:
    monkeypatch.setattr(sparsegpt, "COLUMNS", columns)  # how many are decided on at once
    random = np.random.default_rng(0)
    weight = random.standard_normal((6, 1, 16))
    x = random.standard_normal((40, 16)) @ random.standard_normal((16, 16))
    gram = x.T @ x
    new, kept = prune(weight, gram, structure, 48)
    assert 48 - structure.block[0] * structure.block[1] < kept.sum() <= 48 and (new[~kept] == 0).all()
    hessian = gram + 0.01 * np.trace(gram) / 16 * np.eye(16)
    assert np.allclose(new[:, 0], by_hand(weight[:, 0], hessian, kept[:, 0]), rtol=1e-8)


def test_one_weight_per_row_is_the_optimal_surgeon() -> None:
    """The first input goes: nothing was frozen before it, so the rest is the optimum of all weights that stay."""
    random = np.random.default_rng(1)
    weight = random.standard_normal((5, 1, 8))
    weight[:, 0, 0] *= 1e-3
    x = random.standard_normal((30, 8)) + random.standard_normal((30, 1))
    gram = x.T @ x
    new, kept = prune(weight, gram, Structure(block=(5, 1)), 35, damping=1e-12)
    assert not kept[:, 0, 0].any() and kept[:, 0, 1:].all()
    expected = np.linalg.lstsq(x[:, 1:], x @ weight[:, 0].T, rcond=None)[0].T
    assert np.allclose(new[:, 0, 1:], expected, rtol=1e-6)


def test_columns_are_chosen_by_what_they_cost() -> None:
    random = np.random.default_rng(2)
    weight, x = random.standard_normal((3, 1, 4)), random.standard_normal((50, 4))
    _, kept = prune(weight, x.T @ x, Structure(), 6, damping=1e-12)
    factor = surgeon(x.T @ x, 1e-12)
    cost = np.square(weight[:, 0] / np.diag(factor))
    assert cost[kept[:, 0]].min() > cost[~kept[:, 0]].max()


@pytest.mark.parametrize("structure", ["unstructured", "2:4", "block:4x1"])
def test_outputs_move_less_than_with_magnitude(structure) -> None:
    torch.manual_seed(0)
    model = randomise(
        nn.Sequential(
            nn.Conv2d(4, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, groups=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 36, 8),
        )
    ).eval()
    mixed = torch.randn(4, 4)
    data = [torch.einsum("nchw,cd->ndhw", torch.randn(8, 4, 8, 8), mixed) for _ in range(4)]
    errors = {}
    for criterion in ("magnitude", "wanda", "sparsegpt"):
        sparse = graphprune.optimize(
            model, 0.5 if structure != "2:4" else None, structure=structure, criterion=criterion, scope="layer",
            data=data, example_inputs=data[0][:1], keep=["0"],
        )  # fmt: skip
        with torch.no_grad():
            errors[criterion] = sum(float((sparse(x) - model(x)).square().sum()) for x in data)
        masks = graphprune.masks_of(sparse)
        assert masks.updated == (criterion == "sparsegpt")
        assert sum(int(torch.count_nonzero(p)) for p in sparse.parameters()) == masks.report["nonzero"][1]
    assert errors["sparsegpt"] < 0.5 * errors["magnitude"] and errors["sparsegpt"] < errors["wanda"]


def test_layers_see_what_pruned_layers_before_them_give() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    data = [torch.randn(32, 8)]
    analysis = graphprune.analyze(model, data[0])
    first, second = by_source(weight_matrices(analysis.graph))
    calibration = Calibration(model, normalise(data[0]), data, "sparsegpt")
    calibration.set("0.weight", np.zeros((8, 8), np.float32))
    (gram,) = calibration.grams(second).values()
    bias = model[0].bias.detach().double().numpy()
    assert np.allclose(gram[0], 32 * np.outer(bias, bias), rtol=1e-5) and len(first) == 1
    assert float(model[0].weight.detach().abs().sum()) > 0  # the model itself is not touched


def test_weights_of_one_source_are_taken_together() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.out(self.q(x) * self.k(x))

    stages = list(by_source(weight_matrices(graphprune.analyze(Net(), torch.randn(1, 8)).graph)))
    assert [[weight.name for weight in stage] for stage in stages] == [["q.weight", "k.weight"], ["out.weight"]]


def test_updated_weights_cannot_be_verified_by_masking() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    sparse = graphprune.optimize(model, 0.5, structure="unstructured", criterion="sparsegpt", data=[torch.randn(9, 8)])
    with pytest.raises(graphprune.errors.PlanError, match="updated"):
        graphprune.verify(model, sparse)


def test_inputs_that_cannot_be_seen_are_told() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 6))

        def forward(self, x):
            return x @ self.weight.t().t()

    x = torch.randn(3, 8)
    assert graphprune.optimize(Net(), 0.5, structure="unstructured", example_inputs=x)
    with pytest.raises(CriterionError, match="keep="):
        graphprune.optimize(Net(), 0.5, structure="unstructured", example_inputs=x, criterion="wanda", data=[x])


def test_a_language_model_with_a_tied_head() -> None:
    transformers = pytest.importorskip("transformers")
    from helpers import define_missing_operators

    define_missing_operators()
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    data = [{"input_ids": torch.randint(0, 64, (2, 12))} for _ in range(3)]
    for structure, criterion in (("unstructured", "sparsegpt"), ("2:4", "wanda"), ("2:4", "magnitude")):
        sparse = graphprune.optimize(
            model, structure=structure, criterion=criterion, budget="weights", data=data, example_inputs=data[0]
        )
        masks = graphprune.masks_of(sparse)
        assert len(masks.kept) == 14 and masks.report["weights"][1] * 2 == masks.report["weights"][0]
        assert sparse.lm_head.weight is sparse.model.embed_tokens.weight
        assert torch.equal(sparse.lm_head.weight, model.lm_head.weight)
        assert sparse.generate(data[0]["input_ids"], max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (2, 15)


def test_semi_structured_needs_a_gpu_and_fitting_layers(monkeypatch) -> None:
    model = graphprune.optimize(
        nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8)).eval(), structure="2:4", example_inputs=torch.randn(1, 64)
    )
    if not torch.cuda.is_available():
        with pytest.raises(graphprune.errors.TargetError, match="NVIDIA"):
            graphprune.to_semi_structured(model)
    from graphprune.frontends.torch import semi_structured

    converted = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(graphprune.errors.NothingToPruneError, match="move the model to the GPU"):
        graphprune.to_semi_structured(model)
    monkeypatch.setattr(semi_structured, "_on_gpu", lambda weight: True)
    monkeypatch.setattr(
        semi_structured.torch_sparse, "to_sparse_semi_structured", lambda weight: converted.append(weight) or weight * 1
    )
    packed = graphprune.to_semi_structured(model.half())
    assert len(converted) == 1 and torch.equal(packed[0].weight, model[0].weight)  # 32 inputs are too few
    assert packed[0].weight is not model[0].weight and not packed[0].weight.requires_grad
    dense = nn.Sequential(nn.Linear(64, 32)).half()
    with pytest.raises(graphprune.errors.NothingToPruneError, match="more than two weights"):
        graphprune.to_semi_structured(dense)


def test_progress_is_told() -> None:
    model, data = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), [torch.randn(16, 8)] * 2
    for criterion, expected in (
        ("wanda", ["look at inputs 1 of 2", "look at inputs 2 of 2"]),
        ("sparsegpt", ["prune weights 1 of 2", "prune weights 2 of 2"]),
        ("magnitude", []),
    ):
        lines: list[str] = []
        graphprune.optimize(model, structure="2:4", criterion=criterion, data=data, progress=lines.append)
        assert lines == ["mask weights", *expected, "verify"]
