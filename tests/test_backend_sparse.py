"""Kernels that pass over zeros: right on every shape, taken where they promise something, never against the user."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
from graphprune.backends import lower_convolution, lower_matmul, lower_sparse
from graphprune.backends.compiler import compile_model
from graphprune.backends.measuring import Meter
from graphprune.backends.sparse import Sparse, lists_of, single_span, single_widths
from graphprune.backends.targets import get_target
from graphprune.errors import OptionError


def thinned(model: nn.Module, share: float, tile: int = 1) -> nn.Module:
    """Zeros in tiles of so many outputs by one input."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                columns = parameter[0].numel()
                kept = torch.rand(-(-len(parameter) // tile), columns) >= share
                parameter.mul_(kept.repeat_interleave(tile, 0)[: len(parameter)].reshape(parameter.shape))
    return model.eval()


@pytest.fixture
def forced(monkeypatch):
    """Takes the first candidate of a kind that there is, wherever there is one; tells how many were taken."""
    taken = []

    def force(kind, place=0):
        def with_sparse(lowering, dense, found):
            wanted = [one for numbers, _ in found if numbers.kind == kind for one in numbers.candidates()]
            taken.extend(wanted[:1])
            return [wanted[min(place, len(wanted) - 1)], *dense] if wanted else list(dense)

        for module in (lower_matmul, lower_convolution):
            monkeypatch.setattr(module, "with_sparse", with_sparse)
        return taken

    return force


def error(model: nn.Module, x: torch.Tensor, **options) -> float:
    """Relative to the largest output of the model in float64."""
    found = compile_model(model, example_inputs=x, threads=1, **options)(x)
    with torch.no_grad():
        expected = model.double()(x.double())
    model.float()
    assert expected.abs().max() > 0
    return float((torch.as_tensor(found).double() - expected).abs().max() / expected.abs().max())


def conv(*sizes, **options):
    return lambda: nn.Sequential(nn.Conv2d(*sizes, **options), nn.ReLU())


CASES = {
    "one row": (lambda: nn.Sequential(nn.Linear(70, 50), nn.ReLU()), (1, 70)),
    "few rows": (lambda: nn.Linear(33, 20, bias=False), (5, 33)),
    "many rows": (lambda: nn.Sequential(nn.Linear(40, 50), nn.GELU(), nn.Linear(50, 7)), (37, 40)),
    "batches of rows": (lambda: nn.Sequential(nn.Linear(24, 36), nn.LayerNorm(36)), (3, 11, 24)),
    "pointwise": (conv(20, 35, 1), (2, 20, 8, 8)),
    "ragged pixels": (conv(20, 35, 1), (1, 20, 7, 9)),
    "padded": (conv(20, 35, 3, padding=1), (2, 20, 9, 10)),
    "not padded": (conv(17, 16, (3, 2)), (1, 17, 8, 9)),
    "strided": (conv(20, 35, 3, padding=1, stride=2), (1, 20, 9, 11)),
    "dilated": (conv(20, 16, 3, padding=(2, 1), dilation=2), (1, 20, 9, 11)),
    "line": (lambda: nn.Sequential(nn.Conv1d(20, 24, 3, padding=1), nn.ReLU(), nn.Conv1d(24, 5, 1)), (2, 20, 30)),
    "stack": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 40, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(40, 33, 1), nn.ReLU(), nn.Conv2d(33, 16, 1), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(16, 5),
        ),
        (2, 3, 12, 12),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["tiles", "single"])
@pytest.mark.parametrize("name", CASES)
def test_sparse_kernels_are_right(forced, kind, name) -> None:
    make, shape = CASES[name]
    taken = forced(kind)
    model = thinned(make(), 0.8, tile=1 if kind == "single" else 4)
    assert error(model, torch.randn(shape)) < 5e-6
    assert taken or (kind, name) == ("single", "strided")  # vectors of pixels lie side by side


@pytest.mark.parametrize(("target", "place"), [("x86", 1), ("x86", 9), ("x86-avx2", 0), ("x86-avx2", 2)])
def test_every_candidate_is_right(forced, target, place) -> None:
    for kind, name in (("tiles", "stack"), ("single", "pointwise"), ("single", "many rows")):
        make, shape = CASES[name]
        forced(kind, place)
        assert error(thinned(make(), 0.7, 8), torch.randn(shape), target=target) < 5e-6


@pytest.mark.parametrize("kind", ["tiles", "single"])
def test_layers_without_a_weight_left_and_full_ones(forced, kind) -> None:
    forced(kind)
    model = nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 18), nn.Linear(18, 6)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
        model[0].weight[:17] = 0  # whole lists are empty
        model[3].weight[:, ::2] = 0
        model[3].weight[3] = torch.randn(18)
    x = torch.randn(4, 20)
    found = compile_model(model, example_inputs=x, threads=1)(x)
    expected = model.double()(x.double())
    assert float((torch.as_tensor(found).double() - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["tiles", "single"])
def test_half_weights(forced, kind, precision) -> None:
    taken = forced(kind)
    make, shape = CASES["stack"]
    model = thinned(make(), 0.8, 4)
    assert error(model, torch.randn(shape), precision=precision) < 2e-2
    assert all(one.weights != "float32" for one in taken) and taken


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2), st.integers(1, 3), st.integers(5, 12),
    st.integers(5, 12), st.floats(0.3, 1), st.sampled_from(["tiles", "single"]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=10, deadline=None, phases=[Phase.generate])
def test_any_convolution(inputs, outputs, padding, kernel, height, width, share, kind, seed) -> None:
    torch.manual_seed(seed)
    model = thinned(nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=padding)), share)
    with pytest.MonkeyPatch.context() as patch:

        def with_sparse(lowering, dense, found):
            return [*(one for numbers, _ in found if numbers.kind == kind for one in numbers.candidates()), *dense]

        patch.setattr(lower_convolution, "with_sparse", with_sparse)
        assert error(model, torch.randn(1, inputs, height, width)) < 5e-6


def kernels(model, x, **options) -> str:
    return " ".join(compile_model(model, example_inputs=x, threads=1, **options).manifest["kernels"])


def test_sparse_kernels_are_taken_where_they_promise_something() -> None:
    x = torch.randn(1, 128, 14, 14)
    model = nn.Sequential(nn.Conv2d(128, 128, 1), nn.ReLU()).eval()
    assert "sparse" not in kernels(model, x)
    assert "sparse" in kernels(thinned(model, 0.9, 16), x)
    assert "sparse" not in kernels(model, x, sparse=False)
    assert "sparse" not in kernels(thinned(nn.Sequential(nn.Conv2d(128, 128, 1)), 0.35), x)
    with pytest.raises(OptionError, match="auto"):
        graphprune.compile(model, example_inputs=x, sparse="always")


def test_what_was_measured_decides(tmp_path, monkeypatch) -> None:
    """A record that says the dense kernel is faster is followed, and one that says the sparse one is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from graphprune.backends import tuning
    from graphprune.backends.import_torch import import_model
    from graphprune.backends.record import Measured

    x = torch.randn(1, 128, 14, 14)
    module = import_model(thinned(nn.Sequential(nn.Conv2d(128, 128, 1), nn.ReLU()), 0.8), x).module
    for sparse_wins in (True, False):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(sparse_wins)))

        def measure(first, candidate, wins=sparse_wins):
            return Measured(1.0 if isinstance(candidate, Sparse) == wins else 3.0, 2.0)

        record, _ = tuning.tune(module, get_target("x86"), 1e9, 1, measure)
        (work,) = tuning.workloads(module, get_target("x86"))
        assert isinstance(record.choose(work.candidates), Sparse) == sparse_wins


def test_candidates_can_be_measured() -> None:
    if get_target("x86").missing_features():
        pytest.skip("this processor lacks what the target needs")
    numbers = dict(batch=1, rows=1, columns=32, lists=4, entries=40, longest=20, lanes=16, registers=16)
    tiles = Sparse("tiles", size=32 * 64, step=(0, 64), **numbers)
    single = Sparse("single", size=64 * 32, step=(0, 1), **numbers)
    with Meter(get_target("x86"), 1) as meter:
        for one in (tiles.candidates()[0], single.candidates()[0]):
            assert meter(one, one).seconds > 0


@given(st.integers(1, 20), st.integers(1, 12), st.sampled_from([1, 4, 16]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_lists_hold_the_weight(outputs, inputs, lanes, seed) -> None:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((outputs, inputs)) * (random.random((outputs, inputs)) < 0.3)
    lists = lists_of(weight, np.arange(inputs) * 7, lanes)
    assert len(lists.starts) == -(-outputs // lanes) + 1
    whole = np.zeros((len(lists.starts) - 1, lanes, inputs))
    for row, (start, stop) in enumerate(zip(lists.starts, lists.starts[1:], strict=False)):
        for place in range(start, stop):
            whole[row, :, lists.places[place] // 7] = lists.weights[place]
            assert np.any(lists.weights[place])
    assert np.array_equal(whole.reshape(-1, inputs)[:outputs], weight)


@given(st.integers(1, 2000), st.sampled_from([4, 8, 16]))
@settings(max_examples=60, deadline=None)
def test_tiles_cover_all_columns(columns, lanes) -> None:
    span = single_span(columns, lanes)
    assert columns <= span < columns + 8 * lanes
    for wide in single_widths(columns, lanes):
        assert -(-columns // (wide * lanes)) * wide * lanes == span


def test_what_a_sparse_kernel_promises_grows_with_its_entries() -> None:
    x = torch.randn(1, 64, 8, 8)
    costs = []
    for share in (0.5, 0.7, 0.9):
        found = []

        def keep(lowering, dense, ways, found=found):
            found.extend(numbers.cost for numbers, _ in ways if numbers.kind == "single")
            return list(dense)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lower_convolution, "with_sparse", keep)
            kernels(thinned(nn.Sequential(nn.Conv2d(64, 64, 1)), share), x)
        costs.append(found[0])
    assert costs == sorted(costs, reverse=True) and lower_sparse._FEWEST < 0.5
