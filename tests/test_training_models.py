"""Pruning in place of models that need more than slices: configs, code with sizes, recurrent layers; random ones."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

import graphprune
from graphprune.errors import GraphPruneError, TrainingError
from helpers import randomise
from oracle import error
from random_networks import Choices, trial
from test_training import OPTIMIZERS, check_against_masked, train
from training import same, sliced, snapshot


def one_shot(model, x, sparsity=0.4, optimizer=None, **options):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.0)
    return graphprune.Schedule(sparsity, kind="one-shot", **options).attach(model, optimizer, x)


class Config:
    """As libraries write them: entries, and two methods."""

    def __init__(self, width=8, hidden=32) -> None:
        self.width, self.hidden = width, hidden

    def to_dict(self):
        return dict(vars(self))

    def update(self, entries):
        vars(self).update(entries)


class Layer(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)

    def forward(self, x):
        return x + self.down(F.relu(self.up(x)))


class Model(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.config, self.layer = config, Layer(config)

    def forward(self, x):
        return self.layer(x)


def test_the_config_that_the_user_holds_says_the_new_sizes() -> None:
    config, x = Config(), torch.randn(4, 8)
    model = Model(config)
    pruner = one_shot(model, x)
    assert config.hidden == 32
    assert pruner.step()
    assert model.config is model.layer.config is config
    assert config.hidden == len(model.layer.up.weight) < 32
    Model(config).load_state_dict(model.state_dict())


class Written(nn.Module):
    """The width of what comes in is taken for the width of all heads."""

    def __init__(self, width=16, heads=4) -> None:
        super().__init__()
        self.heads, self.dim = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


def test_parts_with_sizes_in_their_code_get_another_forward_in_place() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Written(), nn.Tanh(), Written()).double(), torch.randn(2, 5, 16).double()
    original, part = copy.deepcopy(model), model[0]
    pruner = one_shot(model, x, sparsity=0.4)
    kind = type(part)
    assert pruner.step()
    assert model[0] is part and isinstance(part, Written) and type(part) is not kind and part.heads < 4
    assert error(original, model, (x,)) < 1e-9
    train(model, torch.optim.SGD(model.parameters(), 0.1), x, 2)


class Last(nn.Module):
    def __init__(self, layer) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_train_on_as_the_masked_ones_do(kind) -> None:
    torch.manual_seed(0)
    model = Last(kind(6, 12, 2, batch_first=True)).double()
    check_against_masked(model, torch.randn(4, 5, 6).double(), OPTIMIZERS["adamw"])
    assert model.layer.hidden_size < 12


class Bounded(nn.Module):
    def forward(self, weight):
        return weight.tanh()


def test_parametrized_weights_are_pruned_in_place() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    register_parametrization(model[0], "weight", Bounded())
    x = torch.randn(4, 6).double()
    original, optimizer = copy.deepcopy(model), torch.optim.AdamW(model.parameters(), 1e-3)
    pruner = one_shot(model, x, optimizer=optimizer)
    assert pruner.step()
    assert model[0].weight.shape[0] < 16 and error(original, model, (x,)) < 1e-9
    train(model, optimizer, x, 2)


@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_what_is_compiled_follows(way) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    x, optimizer = torch.randn(4, 6), torch.optim.AdamW(model.parameters(), 1e-2)
    if way == "wrapped":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
        compiled = model
    pruner = graphprune.Schedule(0.5, begin=2, kind="one-shot").attach(compiled, optimizer, x)
    for step in range(4):
        compiled(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert pruner.step() == (step == 1)
    assert len(model[0].weight) < 16
    plain = nn.Sequential(*model)
    assert torch.equal(compiled.eval()(x), plain.eval()(x))


def test_random_networks_in_place_are_what_they_are_out_of_place() -> None:
    """Weights, buffers, attributes, outputs, the state of the optimizer; refusals leave all as it was."""
    outcomes = {"pruned": 0, "refused": 0, "other program": 0}
    for seed in range(50):
        network, options = trial(Choices(seed))
        options = {key: options[key] for key in ("sparsity", "exact", "scope", "criterion", "budget", "policy")}
        model, inputs = network.build()
        randomise(model)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for parameter in model.parameters():
            state = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            optimizer.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": state, "exp_avg_sq": state + 1}
        before, original = snapshot(model, optimizer), copy.deepcopy(model)
        try:
            slim = graphprune.optimize(model, example_inputs=inputs, verify=False, **options)
        except GraphPruneError as refusal:
            with pytest.raises(type(refusal)):
                one_shot(model, inputs, optimizer=optimizer, **options)
            assert same(before, snapshot(model, optimizer)), network.source
            outcomes["refused"] += 1
            continue
        try:
            assert one_shot(model, inputs, optimizer=optimizer, verify=False, **options).step()
        except TrainingError:
            assert isinstance(slim, torch.fx.GraphModule), network.source
            assert same(before, snapshot(model, optimizer)), network.source
            outcomes["other program"] += 1
            continue
        outcomes["pruned"] += 1
        assert same(snapshot(model, optimizer)["weights"], dict(slim.state_dict())), network.source
        assert [repr(part) for part in model.modules()] == [repr(part) for part in slim.modules()]
        plan, names = graphprune.plan_of(model), dict(original.named_parameters())
        for (name, old), new in zip(before["optimizer"]["state"].items(), optimizer.state.values(), strict=True):
            named = list(names)[name]
            share = plan.repairs[named][0] ** 0.5 if named in plan.repairs else 1.0
            assert torch.allclose(sliced(old["exp_avg"], plan.kept.get(named, {})) / share, new["exp_avg"])
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        with torch.no_grad():
            found, wanted = (copy.deepcopy(one).eval()(*copy.deepcopy(arguments)) for one in (model, slim))
        leaves = torch.utils._pytree.tree_leaves
        assert all(torch.equal(a, b) for a, b in zip(leaves(found), leaves(wanted), strict=True)), network.source
    assert outcomes["pruned"] >= 18, outcomes


def test_a_trained_network_is_pruned_and_fine_tuned(data_dir, monkeypatch) -> None:
    """Half of the multiply-accumulates of a ResNet-20 go within 16 steps; the accuracy is far above that of one cut."""
    monkeypatch.syspath_prepend(str(data_dir))
    from graphdata import cifar10, nchw
    from resnet_cifar import resnet

    images, labels = cifar10("test_a")
    images, labels = torch.from_numpy(nchw(images[:2500])), torch.from_numpy(labels[:2500]).long()

    def accuracy(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net.eval()(images[:500]).argmax(1) == labels[:500]).float().mean())

    torch.manual_seed(0)
    model = resnet(20, str(data_dir / "cifar10_models" / "resnet20_cifar10.pt"))
    teacher, cut = graphprune.teacher(model), graphprune.optimize(model, 0.5, budget="macs", example_inputs=images[:1])
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)
    schedule = graphprune.Schedule(0.5, begin=1, end=9, every=4, budget="macs")
    pruner = schedule.attach(model, optimizer, images[:1])
    for _ in range(16):
        batch = torch.randint(500, 2500, (48,))
        loss = graphprune.distillation(model.train()(images[batch]), teacher(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    before, after = pruner.finish().report["macs"]
    assert after <= before / 2 and after > 0.49 * before
    assert accuracy(model) > accuracy(cut) + 0.2
