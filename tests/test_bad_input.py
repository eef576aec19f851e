"""Bad input: a clear error of our own, the model bit-identical, files whole or absent."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import graphprune
from graphprune import errors
from helpers import randomise
from networks import build


@pytest.fixture
def net():
    torch.manual_seed(0)
    return randomise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))).eval()


X = torch.zeros(1, 3, 8, 8)


def unchanged(module, action, error, match):
    """Run an action that must fail with our error and leave the module as it was."""
    before = copy.deepcopy(module.state_dict())
    training = module.training
    with pytest.raises(error, match=match) as caught:
        action()
    assert isinstance(caught.value, errors.GraphPruneError)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.training == training
    assert not any(name.startswith("_graphprune") for name in vars(module))


@pytest.mark.parametrize("sparsity", [0, 1, -0.1, 1.5, float("nan"), "half", True])
def test_sparsity_out_of_range(net, sparsity):
    unchanged(net, lambda: graphprune.optimize(net, sparsity), errors.BudgetError, "between 0 and 1")


def test_impossible_budget_tells_the_least(net):
    unchanged(net, lambda: graphprune.optimize(net, 0.999, example_inputs=X), errors.BudgetError, r"0\.\d+ is the most")


def test_nothing_to_prune():
    module = nn.Sequential(nn.Linear(4, 4))
    unchanged(module, lambda: graphprune.optimize(module), errors.NothingToPruneError, "output of the program")


def test_everything_kept(net):
    unchanged(net, lambda: graphprune.optimize(net, keep=["*"]), errors.NothingToPruneError, "nothing can be dropped")


def test_a_model_without_parameters():
    module = nn.ReLU()
    unchanged(module, lambda: graphprune.optimize(module, example_inputs=X), errors.NothingToPruneError, "nothing")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"budget": "weight"}, errors.OptionError, "params, macs"),
        ({"scope": "local"}, errors.OptionError, "global, layer"),
        ({"criterion": "l3"}, errors.CriterionError, "l1, l2, linf, bn_scale, .*, random"),
        ({"multiple_of": 0}, errors.OptionError, "positive"),
        ({"multiple_of": 2.5}, errors.OptionError, "positive"),
        ({"exact": "maybe"}, errors.OptionError, "prefer"),
        ({"keep": ["nowhere"]}, errors.OptionError, "matches no parameter"),
        ({"criterion": lambda tensor: np.ones(3)}, errors.CriterionError, r"expected \(8,\)"),
        ({"criterion": lambda tensor: np.full(tensor.positions, np.nan)}, errors.CriterionError, "not finite"),
        ({"criterion": lambda tensor: None}, errors.CriterionError, "nothing to say"),
    ],
)
def test_bad_options(net, options, error, match):
    unchanged(net, lambda: graphprune.optimize(net, example_inputs=X, **options), error, match)


@pytest.mark.parametrize("inputs", [torch.zeros(1, 5, 8, 8), torch.zeros(1, 3, 2, 2), (X, X), {"z": X}, "x", 3])
def test_wrong_example_inputs(net, inputs):
    unchanged(net, lambda: graphprune.optimize(net, example_inputs=inputs), errors.ExampleInputsError, "example_inputs")


def test_inputs_that_cannot_be_inferred():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, x, y):
            return self.a(x + y)

    module = Two()
    unchanged(module, lambda: graphprune.optimize(module), errors.ExampleInputsError, "Pass example_inputs")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["0.weight", "3.bias", "1.running_var"])
def test_weights_that_are_not_finite(net, value, where):
    with torch.no_grad():
        net.state_dict()[where].view(-1)[1] = value
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(errors.WeightsError, match=rf"{where} holds 1 values.*1\b"):
        graphprune.optimize(net, example_inputs=X)
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(before.values(), net.state_dict().values(), strict=True)
    )


def test_meta_device(net):
    meta = copy.deepcopy(net).to("meta")
    unchanged_names = list(meta.state_dict())
    with pytest.raises(errors.WeightsError, match="meta device"):
        graphprune.optimize(meta, example_inputs=X)
    slim = graphprune.optimize(meta, example_inputs=X, criterion="random", verify=False)
    assert next(slim.parameters()).is_meta and list(meta.state_dict()) == unchanged_names


def test_unsupported_models():
    for thing in (3, lambda x: x, [nn.ReLU()], {}, {"a": 1}):
        with pytest.raises(errors.UnsupportedModelError):
            graphprune.optimize(thing)
    with pytest.raises(errors.FileFormatError, match="model"):
        graphprune.optimize("model")


def test_a_model_that_fails():
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError("by design")

    with pytest.raises(errors.ExampleInputsError, match="by design"):
        graphprune.analyze(Broken(), X)


def test_a_plan_for_another_model(net):
    plan = graphprune.analyze(net, X).plan(0.3)
    wider = nn.Sequential(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.ReLU(), nn.Conv2d(9, 4, 3))
    other = nn.Sequential(nn.Linear(3, 4))
    more = nn.Sequential(*copy.deepcopy(net), nn.Conv2d(4, 4, 1))
    unchanged(wider, lambda: plan.apply(wider), errors.PlanError, r"0\.weight has shape \(9, 3, 3, 3\)")
    unchanged(other, lambda: plan.apply(other), errors.PlanError, "another model")
    unchanged(more, lambda: plan.apply(more), errors.PlanError, "another model")


def test_an_edited_plan(net):
    plan = graphprune.analyze(net, X).plan(0.3)
    plan.kept["1.weight"][0] = plan.kept["1.weight"][0][:-1]
    unchanged(net, lambda: plan.apply(net), errors.PlanError, "coupled|keeps them")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "graphprune-plan-1"}', '{"format": "other"}', "\x00"])
def test_damaged_plan_files(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(errors.FileFormatError, match="plan.json"):
        graphprune.Plan.load(path)


def test_plan_with_bad_indices(net, tmp_path):
    plan = graphprune.analyze(net, X).plan(0.3)
    body = json.loads(plan.to_json())
    for indices in ([], [9], [-1], [2, 1], [1, 1]):
        body["kept"]["0.weight"]["0"] = indices
        with pytest.raises(errors.FileFormatError):
            graphprune.Plan.from_json(json.dumps(body))


def test_missing_files(tmp_path, net):
    with pytest.raises(errors.FileFormatError):
        graphprune.Plan.load(tmp_path / "none.json")
    with pytest.raises(errors.FileFormatError):
        graphprune.load_weights(net, tmp_path / "none.safetensors")


def test_damaged_weights(net, tmp_path):
    path = tmp_path / "slim.safetensors"
    slim = graphprune.optimize(net, 0.3, example_inputs=X)
    graphprune.save(slim, path)
    whole = path.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        unchanged(net, lambda: graphprune.load_weights(net, path), errors.FileFormatError, "damaged|cannot be read")
    save_file({"a": torch.zeros(1)}, path)
    unchanged(net, lambda: graphprune.load_weights(net, path), errors.FileFormatError, "no plan")


def test_weights_for_another_model(net, tmp_path):
    path = tmp_path / "slim.safetensors"
    graphprune.save(graphprune.optimize(net, 0.3, example_inputs=X), path)
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    unchanged(other, lambda: graphprune.load_weights(other, path), errors.PlanError, "another model")


def test_saving_what_was_not_pruned(net, tmp_path):
    unchanged(net, lambda: graphprune.save(net, tmp_path / "x.safetensors"), errors.PlanError, "not made by graphprune")
    assert not list(tmp_path.iterdir())


def test_files_appear_whole_or_not_at_all(net, tmp_path, monkeypatch):
    path = tmp_path / "slim.safetensors"
    slim = graphprune.optimize(net, 0.3, example_inputs=X)
    graphprune.save(slim, path)
    before = path.read_bytes()
    from graphprune.frontends.torch import weights

    def half(tensors, file, metadata):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        graphprune.save(slim, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_an_unknown_operation_locks_with_a_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.special.bessel_j0(self.a(x)))))

    analysis = graphprune.analyze(Odd(), torch.randn(1, 4))
    assert "operation 'special_bessel_j0' has no rule" in analysis.explain()
    plan = analysis.plan(0.2)
    assert 0 not in plan.kept.get("a.weight", {}) and 0 in plan.kept["b.weight"]


def test_train_mode_and_gradients_are_left_alone(net):
    net.train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    slim = graphprune.optimize(net, 0.3, example_inputs=X)
    assert net.training and slim.training and torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert slim[0].weight.grad is None and slim[0].weight.requires_grad


def test_originals_share_nothing_with_the_result():
    module, inputs = build("chain")
    slim = graphprune.optimize(module, 0.3, example_inputs=inputs)
    theirs = {tensor.data_ptr() for tensor in module.state_dict().values()}
    assert not any(tensor.data_ptr() in theirs for tensor in slim.state_dict().values())


def test_wrappers_and_scripts(net):
    script = torch.jit.trace(net, X)
    for module in (script, nn.DataParallel(net), nn.Sequential(nn.LazyLinear(3))):
        with pytest.raises(errors.UnsupportedModelError):
            graphprune.analyze(module, X)
