"""Single weights become zero: the right ones, as many as asked, and they stay zero."""

import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

import graphprune
from graphprune.errors import (
    FileFormatError,
    UnsupportedModelError,
    VerifyError,
)
from graphprune.matrices import weight_matrices
from graphprune.sparsity import best, choose, shared, spread, tiled, within
from graphprune.structures import Structure, resolve_structure
from masked_networks import X, network, nonzeros, size, sparse_of
from networks import NETWORKS

WEIGHTS = ("0.weight", "3.weight", "5.weight", "7.weight")


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.777, 0.95])
def test_global_magnitude_is_what_sorting_gives(sparsity) -> None:
    model = network()
    sparse = sparse_of(model, sparsity)
    allowed = int(size(model) * (1 - sparsity) + 1e-9)
    assert nonzeros(sparse) == allowed
    others = sum(int(torch.count_nonzero(p)) for name, p in model.named_parameters() if name not in WEIGHTS)
    every = sorted((abs(float(w)) for name in WEIGHTS for w in model.get_parameter(name).flatten()), reverse=True)
    least = every[allowed - others - 1]
    for name, parameter in model.named_parameters():
        expected = parameter * (parameter.abs() >= least) if name in WEIGHTS else parameter
        assert torch.equal(sparse.get_parameter(name), expected), name


def test_layers_lose_the_same_share() -> None:
    model = network()
    sparse = sparse_of(model, 0.6, budget="weights", scope="layer")
    total = sum(model.get_parameter(name).numel() for name in WEIGHTS)
    assert sum(int(torch.count_nonzero(sparse.get_parameter(name))) for name in WEIGHTS) == int(total * 0.4 + 1e-9)
    for name in WEIGHTS:
        before, after = model.get_parameter(name), sparse.get_parameter(name)
        kept = after != 0
        assert abs(int(kept.sum()) - 0.4 * before.numel()) <= 1
        assert before[kept].abs().min() >= before[~kept].abs().max()


@pytest.mark.parametrize("structure", ["unstructured", "2:4", "1:4", "4:8", "block", "block:4x2", "block:3x5"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_what_is_reported_is_true(structure, scope) -> None:
    model = network()
    sparse = sparse_of(model, None, structure=structure, scope=scope)
    masks = graphprune.masks_of(sparse)
    before, after = masks.report["nonzero"]
    assert (before, after) == (nonzeros(model), nonzeros(sparse)) and after < before
    assert masks.report["params"] == size(model)
    for name, mask in masks.kept.items():
        expected = model.get_parameter(name) * torch.from_numpy(mask)
        assert torch.equal(sparse.get_parameter(name), expected)
    if ":" not in structure or structure.startswith("block"):
        rows, columns = resolve_structure(structure).block
        granule = rows * columns
        assert size(model) * 0.5 - granule < after <= size(model) * 0.5


@given(
    st.integers(1, 3), st.integers(2, 8), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000)
)
@settings(max_examples=40, deadline=None)
def test_patterns_hold_everywhere(n, more, outputs, kernel, groups, seed) -> None:
    m = n + more
    scores = np.random.default_rng(seed).integers(0, 3, (1, outputs, kernel, m * groups)).astype(float)
    (kept,) = choose([scores], Structure(n=n, m=m), [0])
    assert (kept.reshape(-1, m).sum(axis=1) == n).all()
    for row, own in zip(scores.reshape(-1, m), kept.reshape(-1, m), strict=True):
        assert row[own].min() >= row[~own].max()


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_tiles_stay_within_the_limit(outputs, inputs, high, wide, share, seed) -> None:
    scores = np.random.default_rng(seed).random((1, outputs, 2, inputs))
    limit = int(share * scores.size)
    for limits in ([limit], [limit, limit]):
        layers = [scores] * 1 if len(limits) == 1 else [scores, 2 * scores]
        found = choose(layers, Structure(block=(high, wide)), limits)
        total = sum(int(kept.sum()) for kept in found)
        assert total <= sum(limits) and sum(limits) - total < high * wide + (limit == scores.size)
        for kept in found:  # a tile is zero or not as a whole
            whole = np.add.reduceat(np.add.reduceat(kept, range(0, outputs, high), 1), range(0, inputs, wide), 3)
            _, sizes = tiled(scores, (high, wide))
            assert ((whole == 0) | (whole == sizes)).all()


def test_pieces_of_choosing() -> None:
    assert best(np.array([2.0, 1.0, 2.0, 2.0]), 2).tolist() == [True, False, True, False]
    assert shared([3, 3, 4], 5) == [1, 2, 2] and sum(shared([7, 1, 9], 11)) == 11
    assert within(np.array([3.0, 2.0, 1.0]), np.array([4, 4, 1]), 5).tolist() == [True, False, True]
    tiles = np.array([[[[True, False]], [[False, True]]]])
    assert spread(tiles, (2, 2), (1, 3, 1, 3))[0, :, 0].astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "name", ["transposed_grouped", "grouped", "depthwise", "conv1d", "conv3d", "matmul_parameter", "mlp"]
)
def test_weights_come_back_from_their_matrices(name) -> None:
    model, shape = NETWORKS[name]()
    analysis = graphprune.analyze(model.eval(), torch.randn(shape))
    found = weight_matrices(analysis.graph)
    assert set(found) == {key for key, parameter in model.named_parameters() if parameter.dim() > 1}
    for weight in found.values():
        numbers = np.arange(weight.size).reshape(model.get_parameter(weight.name).shape)
        matrix = weight.matrix(numbers)
        assert matrix.shape == weight.shape and np.array_equal(weight.stored(matrix), numbers)


def test_matrices_have_outputs_and_inputs_where_they_belong() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 8, 3, groups=2))
    found = weight_matrices(graphprune.analyze(net, torch.randn(1, 4, 8, 8)).graph)
    assert found["0.weight"].shape == (2, 3, 9, 2) and found["1.weight"].shape == (2, 4, 9, 3)
    weight = net[1].weight.detach().numpy()  # (in, out / groups, kh, kw)
    assert found["1.weight"].matrix(weight)[1, 2, 4, 0] == weight[3, 2, 1, 1]
    weight = net[0].weight.detach().numpy()
    assert found["0.weight"].matrix(weight)[1, 2, 5, 1] == weight[5, 1, 1, 2]


@pytest.mark.parametrize("name", ["embedding", "tied_head"])
def test_lookups_stay_whole(name) -> None:
    model, _ = NETWORKS[name]()
    tokens = torch.randint(0, 20, (2, 7))
    sparse = sparse_of(model, 0.5, tokens, budget="weights")
    masks = graphprune.masks_of(sparse)
    assert "e.weight" not in masks.kept and {"a.weight", "b.weight"} <= set(masks.kept)
    assert torch.equal(sparse.e.weight, model.e.weight)
    assert masks.report["weights"][1] == masks.report["weights"][0] // 2


def test_attention_and_recurrent_layers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.memory = (
                nn.MultiheadAttention(16, 4, batch_first=True),
                nn.LSTM(16, 8, batch_first=True),
            )
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.memory(self.attention(x, x, x)[0])[0])

    model, x = Net().eval(), torch.randn(2, 5, 16)
    sparse = sparse_of(model, None, x, structure="2:4", criterion="wanda", data=[x])
    names = {"attention.in_proj_weight", "attention.out_proj.weight", "head.weight"}
    assert set(graphprune.masks_of(sparse).kept) == names  # recurrent layers are left alone
    graphprune.hold_masks(sparse)
    sparse.train()(x)[0].sum().backward()
    assert type(graphprune.finalize(sparse)) is Net


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    ],
)
def test_masks_hold_while_training(make) -> None:
    model = sparse_of(network(), 0.8)
    masks = graphprune.masks_of(model)
    optimizer = make(model.parameters())  # made before masks are held: parameters stay the same objects
    x, target = torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))
    assert graphprune.hold_masks(model) is model
    before = model[7].weight.clone()
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        gradient = model[7].parametrizations.weight.original.grad
        assert (gradient[~torch.from_numpy(masks.kept["7.weight"])] == 0).all()
        optimizer.step()
        for name, mask in masks.kept.items():
            assert (model[int(name[0])].weight[~torch.from_numpy(mask)] == 0).all()
    assert not torch.equal(before, model[7].weight), "nothing was trained"
    expected = model(x)
    assert graphprune.finalize(model) is model and not parametrize.is_parametrized(model[7])
    assert torch.equal(model(x), expected)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in network().named_parameters()]
    assert all((model.get_parameter(n)[~torch.from_numpy(m)] == 0).all() for n, m in masks.kept.items())
    assert any(group["params"][0] is model[0].weight for group in optimizer.param_groups)


def test_shared_weights_are_masked_everywhere() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    model[1].weight = model[0].weight
    sparse = sparse_of(model, 0.5, torch.randn(2, 8))
    assert list(graphprune.masks_of(sparse).kept) == ["0.weight", "2.weight"]
    graphprune.hold_masks(sparse)
    optimizer = torch.optim.SGD(sparse.parameters(), 0.1)
    sparse(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    graphprune.finalize(sparse)
    gone = ~torch.from_numpy(graphprune.masks_of(sparse).kept["0.weight"])
    assert sparse[1].weight is sparse[0].weight and (sparse[1].weight[gone] == 0).all() and gone.any()


def test_masks_do_not_hold_by_themselves() -> None:
    model = sparse_of(network(), 0.8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(8, 3, 8, 8)).sum().backward()
    optimizer.step()
    with pytest.raises(VerifyError, match="should be zero"):
        graphprune.masks_of(model).check_zeros(lambda name: model.get_parameter(name).detach().numpy())


def test_held_models_are_copied_saved_and_loaded() -> None:
    model = graphprune.hold_masks(sparse_of(network(), 0.7))
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X)) and torch.equal(twin[0].weight, model[0].weight)
    other = graphprune.hold_masks(sparse_of(network(), 0.2))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), model(X))
    held = graphprune.masks_of(other)
    assert all(np.array_equal(mask, held.kept[name]) for name, mask in graphprune.masks_of(model).kept.items())
    for act in (graphprune.hold_masks, lambda m: sparse_of(m, 0.9), lambda m: graphprune.save(m, "never.safetensors")):
        with pytest.raises(UnsupportedModelError, match="finalize"):
            act(model)


def test_saved_and_loaded(tmp_path) -> None:
    model = sparse_of(network(), 0.7)
    graphprune.save(model, tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in stored.items())
    loaded = graphprune.load_weights(network(), tmp_path / "model.safetensors")
    assert torch.equal(loaded(X), model(X))
    masks, again = graphprune.masks_of(model), graphprune.masks_of(loaded)
    assert masks.report == again.report and masks.options == again.options
    assert all(np.array_equal(mask, again.kept[name]) for name, mask in masks.kept.items())
    masks.save(tmp_path / "masks.safetensors")
    weights = sum(mask.size for mask in masks.kept.values())
    assert (tmp_path / "masks.safetensors").stat().st_size < weights / 8 + 2000
    loaded = graphprune.Masks.load(tmp_path / "masks.safetensors")
    assert torch.equal(loaded.apply(network())(X), model(X))
    state = loaded.apply(network().state_dict())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())
    assert "weights stay" in masks.explain()


def test_damaged_masks(tmp_path) -> None:
    path = tmp_path / "masks.safetensors"
    graphprune.masks_of(sparse_of(network(), 0.7)).save(path)
    whole = path.read_bytes()
    for bad in (b"", whole[:-10], b"nonsense" + whole):
        path.write_bytes(bad)
        with pytest.raises(FileFormatError):
            graphprune.Masks.load(path)
    with pytest.raises(FileFormatError):
        graphprune.Masks.load(tmp_path / "missing")
    with pytest.raises(FileFormatError, match="no masks"):
        graphprune.Masks.of_facts(json.dumps({"format": "another"}), {})


def test_first_channels_then_weights(tmp_path) -> None:
    model = network()
    slim = graphprune.optimize(model, 0.4, example_inputs=X)
    sparse = sparse_of(slim, 0.6)
    assert nonzeros(sparse) == int(size(slim) * 0.4)
    assert graphprune.plan_of(sparse).to_json() == graphprune.plan_of(slim).to_json()
    graphprune.verify(model, sparse, example_inputs=X)
    graphprune.save(sparse, tmp_path / "both.safetensors")
    assert torch.equal(graphprune.load_weights(model, tmp_path / "both.safetensors")(X), sparse(X))
    slimmer = graphprune.optimize(sparse, 0.2, example_inputs=X)
    for name, mask in graphprune.masks_of(slimmer).kept.items():
        weight = slimmer.get_parameter(name)
        assert tuple(weight.shape) == mask.shape and (weight[~torch.from_numpy(mask)] == 0).all()


def test_sparser_in_steps() -> None:
    model = network()
    steps = sparse_of(sparse_of(model, 0.3), 0.7)
    assert torch.equal(steps[7].weight, sparse_of(model, 0.7)[7].weight)


def test_verify_sees_a_wrong_weight() -> None:
    model = network()
    sparse = sparse_of(model, 0.5)
    graphprune.verify(model, sparse, example_inputs=X)
    with torch.no_grad():
        sparse[7].weight[3, 5] += 0.1
    with pytest.raises(VerifyError, match="differs"):
        graphprune.verify(model, sparse, example_inputs=X)


@pytest.mark.parametrize("structure", ["unstructured", "2:4", "block:4x1"])
def test_onnx(tmp_path, structure) -> None:
    model, path = network(), tmp_path / "model.onnx"
    torch.onnx.export(model, (X,), path, dynamo=False)
    sparse = graphprune.optimize(path, structure=structure)
    masks = graphprune.masks_of(sparse)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in sparse.graph.initializer}
    counted = sum(int(np.count_nonzero(array)) for array in tensors.values() if array.dtype == np.float32)
    assert counted == masks.report["nonzero"][1] < masks.report["nonzero"][0]
    graphprune.save(sparse, tmp_path / "sparse.onnx")
    assert graphprune.masks_of(tmp_path / "sparse.onnx").report == masks.report
    graphprune.verify(path, tmp_path / "sparse.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "sparse.onnx", providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]).all()
    with pytest.raises(UnsupportedModelError, match="torch modules"):
        graphprune.optimize(path, structure=structure, criterion="wanda", data=[X.numpy()])
    with pytest.raises(UnsupportedModelError, match="torch modules"):
        graphprune.hold_masks(sparse)


def test_zeros_survive_export(tmp_path) -> None:
    model = sparse_of(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), 0.8, torch.randn(1, 16))
    torch.onnx.export(model, (torch.randn(1, 16),), tmp_path / "sparse.onnx", dynamo=False)
    arrays = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "sparse.onnx").graph.initializer]
    assert sum(int(np.count_nonzero(array)) for array in arrays) == nonzeros(model)


def test_exported_programs() -> None:
    program = torch.export.export(network(), (X,))
    sparse = graphprune.optimize(program, 0.6, structure="unstructured", criterion="sparsegpt", data=[X])
    assert type(sparse) is type(program)
    masks = graphprune.masks_of(sparse)
    assert sum(int(torch.count_nonzero(p)) for p in sparse.parameters()) == masks.report["nonzero"][1]


def test_half_precision() -> None:
    model = network().to(torch.bfloat16)
    sparse = sparse_of(model, 0.5, X.to(torch.bfloat16))
    kept = torch.from_numpy(graphprune.masks_of(sparse).kept["7.weight"])
    assert torch.equal(sparse[7].weight, model[7].weight * kept) and nonzeros(sparse) == size(model) // 2
