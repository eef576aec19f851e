"""Every criterion against its definition, worked out by hand with numpy and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from calibration import batches, structured
from graphprune.criteria import CRITERIA, NORMALIZERS, REDUCTIONS, Criterion, TensorAxis, resolve
from graphprune.errors import CriterionError, OptionError
from graphprune.scores import roles
from helpers import randomise

X = (3, 6, 6)


def net(kind: str) -> tuple[nn.Module, str]:
    """A small network, and the name of the layer that is looked at."""
    middle = {
        "conv": lambda: nn.Conv2d(6, 8, 3, padding=1),
        "grouped": lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2),
        "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
        "transposed": lambda: nn.ConvTranspose2d(6, 8, 3, padding=1),
        "linear": lambda: nn.Conv2d(6, 8, 1),
    }[kind]()
    head = nn.Linear(middle.out_channels, 4)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), middle, nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return randomise(nn.Sequential(*layers, nn.Flatten(), head)).eval(), "7" if kind == "linear" else "3"


KINDS = ["conv", "grouped", "depthwise", "transposed", "linear"]
DATA = [(images, torch.arange(len(images)) % 4) for images in batches(3, 8, *X)]


def scored(model: nn.Module, name: str, axis: int, criterion: str, loss=None) -> np.ndarray | None:
    """What a criterion says of one axis of one tensor."""
    analysis = graphprune.analyze(model, torch.randn(2, *X))
    found = resolve(criterion)
    statistics = analysis.collect(found.needs, DATA, loss)
    classes = analysis.leaf_classes[name, axis]
    rows = classes.shape[0] if classes.ndim == 2 else 1
    leaf, role = analysis.graph.leaves[name], roles(analysis)[name]
    random = np.random.default_rng(0)
    return found.score(
        TensorAxis(name, role, axis, leaf.shape, rows, lambda: analysis.weights(name), random, statistics)
    )


def slices(weight: np.ndarray, axis: int, groups: int) -> list[np.ndarray]:
    """The slices of an axis, one by one; by groups where they are stored as blocks of the first axis."""
    if groups == 1:
        return [np.take(weight, index, axis).ravel() for index in range(weight.shape[axis])]
    return [
        np.take(block, index, axis).ravel() for block in np.split(weight, groups) for index in range(block.shape[axis])
    ]


WEIGHT_ONLY = {
    "l1": lambda rows: [np.abs(row).sum() for row in rows],
    "l2": lambda rows: [np.sqrt((row**2).sum()) for row in rows],
    "linf": lambda rows: [np.abs(row).max() for row in rows],
    "fpgm": lambda rows: [sum(np.linalg.norm(row - other) for other in rows) for row in rows],
    "lamp": lambda rows: [(r**2).sum() / sum(e for o in rows if (e := (o**2).sum()) >= (r**2).sum()) for r in rows],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("criterion", WEIGHT_ONLY)
def test_weights(kind, criterion):
    model, layer = net(kind)
    weight = model.get_parameter(f"{layer}.weight").detach().numpy()
    for axis in (0, 1) if kind != "depthwise" else (0,):
        found = scored(model, f"{layer}.weight", axis, criterion)
        rows = slices(weight, axis, 2 if found.ndim == 2 else 1)
        if found.ndim == 2 and criterion == "fpgm":  # distances are those within a group
            expected = [WEIGHT_ONLY["fpgm"](rows[start : start + 3]) for start in (0, 3)]
        else:
            expected = WEIGHT_ONLY[criterion](rows)
        assert (found.ndim == 2) == (kind == "grouped" and axis == 1)
        np.testing.assert_allclose(found.ravel(), np.ravel(expected), rtol=1e-5)
        assert len(set(found.ravel().tolist())) == found.size, "all alike: nothing was told apart"


def test_bn_scale_looks_at_scales_alone():
    model, _ = net("conv")
    np.testing.assert_allclose(scored(model, "1.weight", 0, "bn_scale"), model[1].weight.detach().abs().numpy())
    assert scored(model, "3.weight", 0, "bn_scale") is None


def by_hand(model: nn.Module, name: str, loss=F.cross_entropy) -> tuple[np.ndarray, np.ndarray]:
    """Mean gradient of a sample and squared gradients of batches per sample, by plain autograd in float64."""
    model = model.double()
    parameter, slopes = model.get_parameter(name), []
    for images, targets in DATA:
        model.zero_grad()
        (loss(model(images.double()), targets) * len(images)).backward()
        slopes.append(parameter.grad.numpy().copy())
    model.zero_grad()
    model.float()
    samples = sum(len(images) for images, _ in DATA)
    return np.sum(slopes, axis=0) / samples, np.sum(np.square(slopes), axis=0) / samples


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Another loss than the usual one."""
    return (outputs - targets[:, None]).square().mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", [None, squared])
def test_gradients(kind, loss):
    model, layer = net(kind)
    name = f"{layer}.weight"
    weight = model.get_parameter(name).detach().double().numpy()
    slope, square = by_hand(model, name, loss or F.cross_entropy)
    for axis in (0, 1) if kind != "depthwise" else (0,):
        for criterion, values in (("taylor", slope * weight), ("fisher", square * weight**2 / 2)):
            found = scored(model, name, axis, criterion, loss)
            expected = np.array([row.sum() for row in slices(values, axis, 2 if found.ndim == 2 else 1)])
            np.testing.assert_allclose(found.ravel(), np.abs(expected), rtol=2e-3, atol=1e-7)
            assert found.max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_have_slopes_too():
    model, _ = net("conv")
    expected = scored(model, "3.weight", 0, "taylor")
    model.requires_grad_(False)
    np.testing.assert_allclose(scored(model, "3.weight", 0, "taylor"), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def seen_by(model: nn.Module, layer: str) -> np.ndarray:
    """What flows into a layer, (channels, samples and positions), by a hook."""
    found = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.no_grad():
        for images, _ in DATA:
            model(images)
    handle.remove()
    return torch.cat([x.movedim(1, 0).flatten(1) for x in found], 1).double().numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_activations(kind):
    model, layer = net(kind)
    seen = seen_by(model, layer)
    weight = model.get_parameter(f"{layer}.weight").detach().numpy()
    axis = 0 if kind in ("depthwise", "transposed") else 1
    expected = {
        "activation_mean": np.abs(seen).mean(1),
        "activation_variance": seen.var(1),
        "apoz": (seen != 0).mean(1),
        "wanda": np.array([np.abs(row).sum() for row in slices(weight, axis, 2 if kind == "grouped" else 1)])
        * np.sqrt((seen**2).mean(1)),
    }
    for criterion, values in expected.items():
        found = scored(model, f"{layer}.weight", axis, criterion)
        np.testing.assert_allclose(found.ravel(), values, rtol=1e-4, err_msg=criterion)
        if kind not in ("depthwise",):
            assert scored(model, f"{layer}.weight", 1 - axis, criterion) is None
    assert 0 < expected["apoz"].mean() <= 1


def test_random_is_seeded_and_reads_no_weights():
    model, _ = net("conv")
    plans = [graphprune.analyze(model, torch.randn(2, *X)).plan(0.4, criterion="random", seed=s) for s in (0, 0, 1)]
    kept = [plan.kept["3.weight"][0].tolist() for plan in plans]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_prunes(name):
    model, _ = net("grouped")
    slim = graphprune.optimize(model, 0.3, example_inputs=torch.randn(2, *X), criterion=name, data=DATA)
    plan = graphprune.plan_of(slim)
    assert plan.kept and plan.report["params"][1] <= 0.7 * plan.report["params"][0]
    assert plan.options["criterion"] == name


def test_reductions_and_normalisers():
    """Against loops; NaN where a group has no members."""
    where, values = np.array([0, 0, 2, 2, 2]), np.array([1.0, 3.0, 2.0, 5.0, 0.5])
    loops = {"mean": np.mean, "sum": np.sum, "max": np.max, "product": np.prod}
    assert loops.keys() == REDUCTIONS.keys()
    for name, loop in loops.items():
        np.testing.assert_allclose(REDUCTIONS[name](where, values, 3), [loop(values[:2]), np.nan, loop(values[2:])])
    score, family = np.array([1.0, 3.0, 2.0, 5.0]), np.array([0, 0, 2, 2])
    divisors = {"none": (1, 1), "mean": (2, 3.5), "max": (3, 5), "sum": (4, 7), "l2": (10**0.5, 29**0.5)}
    assert divisors.keys() == NORMALIZERS.keys()
    for name, (first, second) in divisors.items():
        np.testing.assert_allclose(NORMALIZERS[name](score, family, 3), score / [first, first, second, second])
        assert (NORMALIZERS[name](score * 0, family, 3) == 0).all()


def test_reduction_and_normaliser_change_the_plan():
    """Two layers of different scale: by "none" the small one goes, by "mean" both do."""
    model = randomise(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)))
    with torch.no_grad():
        model[0].weight.mul_(100)
    analysis = graphprune.analyze(model, torch.randn(2, 6))
    kept = {n: analysis.plan(0.2, criterion="l2", normalizer=n, reduction="max").kept for n in ("none", "mean")}
    assert "0.weight" in kept["mean"] and 0 in kept["mean"]["0.weight"]
    assert 0 not in kept["none"].get("0.weight", {})


def test_own_criteria():
    """A function, and a `Criterion` with needs of its own."""

    def mean_input(tensor: TensorAxis):
        return None if tensor.inputs is None else np.abs(tensor.inputs.mean)

    model, layer = net("conv")
    own = Criterion(mean_input, needs=("inputs",), reduction="sum", normalizer="max", allocate="per_cost")
    slim = graphprune.optimize(model, 0.3, example_inputs=torch.randn(2, *X), criterion=own, data=DATA)
    kept = graphprune.plan_of(slim).kept["3.weight"]
    order = np.argsort(np.abs(seen_by(model, layer).mean(1)))
    assert set(kept[1].tolist()) == set(order[6 - len(kept[1]) :].tolist())
    with pytest.raises(CriterionError, match="needs gradient: choose of inputs"):
        resolve(Criterion(mean_input, needs=("gradient",)))
    with pytest.raises(CriterionError, match="pass data="):
        analysis = graphprune.analyze(model, torch.randn(2, *X))
        analysis.plan(0.3, criterion=mean_input)
    with pytest.raises(CriterionError, match="'3.weight|of 0.weight have shape"):
        graphprune.optimize(model, 0.3, example_inputs=torch.randn(2, *X), criterion=lambda tensor: np.ones(2))
    with pytest.raises(OptionError, match="reduction='median'"):
        graphprune.optimize(model, 0.3, example_inputs=torch.randn(2, *X), reduction="median")
    with pytest.raises(CriterionError, match="unknown criterion 'l3'"):
        graphprune.optimize(model, 0.3, example_inputs=torch.randn(2, *X), criterion="l3")


def test_duplicates():
    """Of two identical channels one goes first, at no cost, and then the other is dear. Magnitude cannot see that."""
    model = randomise(nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4)))
    with torch.no_grad():
        model[0].weight[7], model[0].bias[7] = model[0].weight[3] * 4, model[0].bias[3] * 4  # large, and superfluous
    data = [torch.randn(400, 8, generator=torch.Generator().manual_seed(1))]
    for sparsity, lost in ((0.09, 1), (0.18, 2)):
        plan = graphprune.optimize(model, sparsity, example_inputs=data[0], criterion="reconstruction", data=data)
        kept = set(graphprune.plan_of(plan).kept["0.weight"][0].tolist())
        assert len(kept) == 10 - lost and len(kept & {3, 7}) == 1
        magnitude = graphprune.optimize(model, sparsity, example_inputs=data[0], criterion="l2")
        assert 7 in set(graphprune.plan_of(magnitude).kept["0.weight"][0].tolist())


def test_statistics_leave_the_model_alone():
    """Weights, gradients, buffers, modes; also of a model that writes into its buffers and inputs."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            x.mul_(2)
            return self.head(self.body(x).relu())

    model = randomise(Counting()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = [structured(20, 6, seed=seed) for seed in range(2)]
    copies = [item.clone() for item in data]
    for criterion in ("taylor", "wanda", "reconstruction"):
        slim = graphprune.optimize(
            model, 0.3, example_inputs=torch.randn(2, 6), criterion=criterion, data=data, recover=True, verify=False
        )
        assert slim.training and model.training
        assert slim.calls == before["calls"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(item, copy) for item, copy in zip(data, copies, strict=True))


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_what_is_too_wide_to_look_at_is_named(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(f"graphprune.frontends.{kind}.collect.WIDEST", 100)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()
    data = [torch.randn(16, 3, 8, 8) for _ in range(2)]
    model, examples = net, {"example_inputs": data[0][:1]}
    if kind == "onnx":
        model, examples = str(tmp_path / "net.onnx"), {}
        torch.onnx.export(net, (data[0],), model, dynamo=False, input_names=["x"])
    with pytest.raises(graphprune.errors.BudgetError, match="weight reads 216 features"):
        graphprune.optimize(model, 0.9, criterion="reconstruction", data=data, **examples)
    with pytest.raises(CriterionError, match="weight reads 216 features.*wanda"):
        graphprune.optimize(model, 0.1, criterion="reconstruction", data=data, keep=["*0*"], **examples)
    slim = graphprune.optimize(model, 0.1, criterion="reconstruction", data=data, **examples)
    before, after = graphprune.plan_of(slim).report["params"]
    assert after <= 0.9 * before
