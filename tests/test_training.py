"""Pruning in place between the steps of a training: against the dense model with masked weights and masked state."""

import copy
import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
import graphprune.criteria
from graphprune.errors import TrainingError, WeightsError
from graphprune.frontends.torch import training
from helpers import randomise
from networks import NETWORKS, build
from oracle import error
from training import mask, same, sliced, snapshot, twins

# A large eps: the gradients of biases before a batch norm are nothing but rounding, and must not be blown up.
EPS = 1e-3
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "sgd foreach": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, dampening=0.1, foreach=True),
    "adam amsgrad": lambda p: torch.optim.Adam(p, 0.01, eps=EPS, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, eps=EPS, weight_decay=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 0.01, eps=EPS, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.01, eps=EPS, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.001, eps=EPS, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01, eps=EPS),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01, eps=EPS),
    "adadelta": lambda p: torch.optim.Adadelta(p, eps=EPS),
}
PATTERNS = ("chain", "grouped", "depthwise", "tied_head", "shared_layer", "heads", "unbind_qkv", "buffer_scale")


def small(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 5)), torch.randn(8, 3, 6, 6)


def attach(model, optimizer, x, begin=1, **options):
    end = options.pop("end", begin)
    return graphprune.Schedule(**{"sparsity": 0.5, "begin": begin, "end": end, **options}).attach(model, optimizer, x)


def leaves(result):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def train(model, optimizer, x, steps=1):
    """Some steps with a loss that depends on all outputs."""
    for _ in range(steps):
        optimizer.zero_grad()
        sum(
            (leaf * torch.linspace(-1, 2, leaf.numel()).reshape(leaf.shape).to(leaf)).square().mean()
            for leaf in leaves(model(x))
        ).backward()
        optimizer.step()


def doubled(name):
    model, x = build(name)
    randomise(model)
    return model.double().train(), x.double() if x.is_floating_point() else x


def check_against_masked(model, x, make) -> graphprune.Plan:
    """Train, prune, train on: the same as training on with zeros in the dense model and in its state."""
    optimizer = make(model.parameters())
    pruner = attach(model, optimizer, x, begin=3, sparsity=0.4)
    for _ in range(2):
        train(model, optimizer, x)
        assert not pruner.step()
    train(model, optimizer, x)
    dense, its = twins(model, optimizer)
    assert pruner.step()
    mask(dense, its, pruner.plan)
    train(dense, its, x, 3)
    train(model, optimizer, x, 3)
    expected, names = dict(dense.named_parameters()), dict(model.named_parameters())
    for name, parameter in names.items():
        axes = pruner.plan.kept.get(name, {})
        assert torch.allclose(sliced(expected[name], axes), parameter, rtol=1e-9, atol=1e-12), name
        for key, value in optimizer.state[parameter].items():
            wanted = its.state[expected[name]][key]
            wanted = sliced(wanted, axes) if wanted.shape == expected[name].shape else wanted
            assert torch.allclose(wanted, value, rtol=1e-9, atol=1e-12), (name, key)
    assert pruner.plan.kept
    return pruner.plan


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_after_pruning_is_that_of_the_masked_model(name) -> None:
    model, x = small()
    check_against_masked(model.double(), x.double(), OPTIMIZERS[name])


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_train_on_as_the_masked_model_does(name) -> None:
    plan = check_against_masked(*doubled(name), OPTIMIZERS["adam amsgrad"])
    if name == "grouped":
        assert any(kept.ndim == 2 for axes in plan.kept.values() for kept in axes.values())


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"])
def test_state_that_is_sliced_wrongly_is_noticed(key, monkeypatch) -> None:
    """The negative control of the tests above."""
    right = training.state_changes

    def wrong(optimizers, names, plan):
        changes = list(right(optimizers, names, plan))
        for optimizer in optimizers:
            for state in optimizer.state.values():
                state[key] = state[key].flip(0) if state[key].ndim else state[key]
        return changes + list(right(optimizers, names, plan))

    monkeypatch.setattr(training, "state_changes", wrong)
    model, x = small()
    with pytest.raises(AssertionError):
        check_against_masked(model.double(), x.double(), OPTIMIZERS["adam amsgrad"])


def other_program(model, x) -> bool:
    slim = graphprune.optimize(model, 0.3, example_inputs=x, verify=False)
    return isinstance(slim, torch.fx.GraphModule)


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_twice_in_place_equals_the_masked_original(name) -> None:
    model, x = build(name)
    randomise(model)
    original, parameters = copy.deepcopy(model), list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = graphprune.Schedule(0.3, begin=1, end=2, kind="linear", start=0.15)
    if other_program(model, x):
        with pytest.raises(TrainingError, match="cannot be pruned in place"):
            schedule.attach(model, optimizer, x)
        return
    pruner = schedule.attach(model, optimizer, x)
    changed = [pruner.step(), pruner.step()]
    assert any(changed)
    assert error(original, model, (x,)) < 1e-9
    before, after = pruner.finish().report["params"]
    assert before == sum(p.numel() for p in original.parameters())
    assert after == sum(p.numel() for p in model.parameters()) <= 0.7 * before
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    graphprune.verify(original, model, example_inputs=x)
    replayed = pruner.plan.apply(original, x)
    assert [p.shape for p in replayed.parameters()] == [p.shape for p in model.parameters()]


def test_targets_are_shares_of_the_original() -> None:
    model, x = small()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    pruner = attach(
        model, optimizer, x, begin=2, end=10, every=2, budget="macs", sparsity=0.6, kind="cosine", start=0.1
    )
    seen = []
    for step in range(1, 13):
        train(model, optimizer, x)
        if pruner.step():
            before, left = pruner.plan.report["macs"]
            now = graphprune.analyze(model, x).cost().macs
            assert now == left <= before * (1 - pruner.schedule.sparsity_at(step))
            seen.append(left / before)
    assert len(seen) >= 4 and seen == sorted(seen, reverse=True) and seen[-1] > 0.35


def test_everything_that_the_user_holds_stays_the_same_object() -> None:
    model, x = small()
    model[1].eval()
    model[3].bias.requires_grad_(False)
    calls = []
    model[4].register_forward_hook(lambda *_: calls.append("forward"))
    model[0].weight.register_hook(lambda grad: calls.append(tuple(grad.shape)))
    model[0].bias.register_post_accumulate_grad_hook(lambda p: calls.append("accumulated"))
    parts, parameters, buffers = list(model.modules()), list(model.parameters()), list(model.buffers())
    groups = [{"params": list(model[:4].parameters()), "lr": 0.01}, {"params": list(model[4:].parameters())}]
    optimizer = torch.optim.AdamW(groups, 0.1)
    decay = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    pruner = attach(model, optimizer, x, begin=2)
    for step in range(4):
        train(model, optimizer, x)
        decay.step()
        assert pruner.step() == (step == 1)
        assert [g["lr"] for g in optimizer.param_groups] == [v * 0.5 ** ((step + 1) // 2) for v in (0.01, 0.1)]
    for now, then in ((model.modules(), parts), (model.parameters(), parameters), (model.buffers(), buffers)):
        assert [id(item) for item in now] == [id(item) for item in then]
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in parameters]
    assert not model[1].training and model[4].training and not model[3].bias.requires_grad
    assert model[0].out_channels == model[1].num_features == len(model[0].weight) < 8
    del calls[:]
    train(model, optimizer, x)
    assert calls.count("forward") == calls.count("accumulated") == 1
    assert [item for item in calls if isinstance(item, tuple)] == [tuple(model[0].weight.shape)]


def test_a_loss_of_an_earlier_step_does_not_matter() -> None:
    """What accumulates gradients lives as long as the loss does, and knows the shape of before."""
    model, x = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    pruner = attach(model, optimizer, x, begin=1)
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    assert pruner.step()
    again = model(x).square().mean()
    again.backward()
    assert loss.grad_fn is not None
    expected = torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
    assert all(
        torch.allclose(p.grad, wanted, atol=1e-6) for p, wanted in zip(model.parameters(), expected, strict=True)
    )


def test_gradients_are_sliced_along() -> None:
    model, x = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    pruner = attach(model, optimizer, x)
    model(x).square().mean().backward()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert pruner.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, sliced(before[name], pruner.plan.kept.get(name, {})))
    optimizer.step()


def test_memory_format_is_kept() -> None:
    model, x = small()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    pruner = attach(model, optimizer, x)
    train(model, optimizer, x)
    assert pruner.step()
    weight = model[3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def test_pruning_leaves_the_random_numbers_of_the_training_alone() -> None:
    model, x = small()
    pruner = attach(model, torch.optim.SGD(model.parameters(), 0.1), x)
    state = torch.get_rng_state()
    assert pruner.step()
    assert torch.equal(state, torch.get_rng_state())


def test_attention_changes_its_class_in_place() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).double()
    x = torch.randn(2, 5, 16).double()
    original = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.0, weight_decay=0.0)
    pruner = attach(model, optimizer, x, sparsity=0.4, keep=["*norm*"])
    train(model, optimizer, x)
    assert pruner.step() and model.layers[0].self_attn.num_heads < 4
    assert error(original, model, (x,)) < 1e-9
    train(model, optimizer, x)


def test_a_hook_of_the_optimizer_counts_its_steps() -> None:
    model, x = small()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    pruner = attach(model, optimizer, x, begin=2)
    optimizer.register_step_post_hook(lambda *_: pruner.step())
    train(model, optimizer, x, 3)
    assert pruner.count == 3 and len(model[0].weight) < 8


# ---- averages and scalers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["averaged", "module", "dict", "several"])
def test_averages_are_sliced_by_the_same_plan(kind) -> None:
    model, x = small()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    shadow = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    held = {"averaged": averaged, "module": averaged.module, "dict": shadow, "several": [averaged, shadow]}[kind]
    pruner = graphprune.Schedule(0.5, begin=2, kind="one-shot").attach(model, optimizer, x, ema=held)

    def step() -> bool:
        train(model, optimizer, x)
        averaged.update_parameters(model)
        for name, parameter in model.named_parameters():
            shadow[name].lerp_(parameter.detach(), 0.1)
        return pruner.step()

    assert not step()
    before = {**dict(copy.deepcopy(averaged.module).named_parameters())}, copy.deepcopy(shadow)
    train(model, optimizer, x)
    assert pruner.step()
    kept = pruner.plan.kept
    if kind != "dict":
        for name, parameter in averaged.module.named_parameters():
            assert torch.equal(parameter, sliced(before[0][name], kept.get(name, {})))
        averaged.module.eval()(x)
    if kind in ("dict", "several"):
        for name, tensor in shadow.items():
            assert torch.equal(tensor, sliced(before[1][name], kept.get(name, {})))
    if kind == "several":
        step()


def test_averages_of_other_models_are_refused() -> None:
    model, x = small()
    optimizer, schedule = torch.optim.SGD(model.parameters(), 0.1), graphprune.Schedule(end=2)
    with pytest.raises(TrainingError, match="ema is a Linear whose tensors have other names or shapes"):
        schedule.attach(model, optimizer, x, ema=nn.Linear(2, 2))
    with pytest.raises(TrainingError, match="ema holds 'other', which is no tensor of the model"):
        schedule.attach(model, optimizer, x, ema={"other": torch.zeros(2)})
    with pytest.raises(TrainingError, match=r"ema holds 0.bias of shape \(2,\); the model's has \(8,\)"):
        schedule.attach(model, optimizer, x, ema={"0.bias": torch.zeros(2)})
    with pytest.raises(TrainingError, match="ema is a int"):
        schedule.attach(model, optimizer, x, ema=3)


def test_a_gradient_scaler_goes_on() -> None:
    model, x = small()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=1000)
    pruner = graphprune.Schedule(0.5, begin=2, kind="one-shot").attach(model, optimizer, x, scaler=scaler)
    for step in range(40):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).square().mean()
        scaler.scale(loss * 1e6).backward()
        scaler.step(optimizer)
        scaler.update()
        infinite = any(not torch.isfinite(parameter.grad).all() for parameter in model.parameters())
        if step == 1:
            assert infinite, "the scaler has nothing to do"
        assert pruner.step() == (step == 1)
        optimizer.zero_grad()
    assert scaler.get_scale() < 2.0**120 and all(torch.isfinite(p).all() for p in model.parameters())
    assert any(state["step"] > 0 for state in optimizer.state.values())


# ---- all or nothing ----------------------------------------------------------------------------------------------


def test_interrupted_anywhere_nothing_is_half_applied(monkeypatch) -> None:
    model, x = small()
    model.add_module("heads", nn.TransformerEncoderLayer(5, 5, 16, batch_first=True))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    average = torch.optim.swa_utils.AveragedModel(model)
    pruner = graphprune.Schedule(0.5, begin=2, kind="one-shot").attach(model, optimizer, x, ema=average)
    train(model, optimizer, x)
    pruner.step()
    train(model, optimizer, x)
    before, averaged = snapshot(model, optimizer), snapshot(average, optimizer)
    reached, commit = 0, training.commit

    def interrupted(place, changes):
        nonlocal reached
        changes = list(changes)
        reached = len(changes)

        def do(change=changes[place]):
            change.do()
            raise KeyboardInterrupt

        commit([*changes[:place], changes[place]._replace(do=do), *changes[place + 1 :]])

    place = 0
    while place == 0 or place < reached:
        monkeypatch.setattr(training, "commit", functools.partial(interrupted, place))
        with pytest.raises(KeyboardInterrupt):
            pruner.step()
        assert same(before, snapshot(model, optimizer)), place
        assert same(averaged, snapshot(average, optimizer)), place
        assert pruner.count == 1 and pruner.plan is None and pruner.since is None
        place += 1
    assert reached > 30
    monkeypatch.undo()
    assert pruner.step() and pruner.count == 2
    assert not same(before, snapshot(model, optimizer))
    train(model, optimizer, x)


def test_what_is_not_finite_is_refused_and_nothing_changes() -> None:
    model, x = small()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    pruner = attach(model, optimizer, x, begin=2)
    train(model, optimizer, x)
    pruner.step()
    train(model, optimizer, x)

    def refused(words: str) -> None:
        before = snapshot(model, optimizer)
        with pytest.raises(WeightsError, match=words):
            pruner.step()
        after = snapshot(model, optimizer)
        assert before["layers"] == after["layers"] and pruner.count == 1

    gradient = model[3].weight.grad
    model[3].weight.grad = torch.full_like(gradient, float("nan"))
    refused("the gradient of 3.weight is NaN or infinite at a pruning step")
    model[3].weight.grad = gradient
    state = optimizer.state[model[0].weight]["exp_avg_sq"]
    optimizer.state[model[0].weight]["exp_avg_sq"] = state / 0
    refused("the state exp_avg_sq that AdamW keeps of 0.weight is NaN or infinite")
    optimizer.state[model[0].weight]["exp_avg_sq"] = state
    with torch.no_grad():
        number = model[3].weight[1, 2, 0, 0].item()
        model[3].weight[1, 2, 0, 0] = float("nan")
    refused("3.weight holds 1 values that are NaN")
    with torch.no_grad():
        model[3].weight[1, 2, 0, 0] = number
    assert pruner.step()


def test_what_the_criterion_raises_leaves_all_as_it_was() -> None:
    model, x = small()
    optimizer, calls = torch.optim.AdamW(model.parameters(), 1e-3), []

    def criterion(tensor):
        calls.append(tensor.name)
        if len(calls) == 20:
            raise ZeroDivisionError("of the user")
        return graphprune.criteria.l2(tensor)

    pruner = attach(model, optimizer, x, begin=1, end=3, criterion=criterion)
    assert 0 < len(calls) < 20
    with pytest.raises(ZeroDivisionError):
        for _ in range(3):
            train(model, optimizer, x)
            before = snapshot(model, optimizer)
            pruner.step()
    assert same(before, snapshot(model, optimizer)) and pruner.count < 3
    while pruner.count < 3:
        pruner.step()
    assert pruner.finish().report["params"][1] < sum(p.numel() for p in small()[0].parameters()) / 2


def test_changes_by_others_are_noticed() -> None:
    model, x = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = attach(model, optimizer, x, begin=1, end=4)
    old, model[3] = model[3], nn.Conv2d(8, 12, 3)
    with pytest.raises(TrainingError, match="does not hold 2 of 10 trained parameters .* 3.weight"):
        for _ in range(4):
            pruner.step()
    model[3] = nn.Conv2d(8, 12, 5)
    with pytest.raises(TrainingError, match="sizes of the model were changed behind the schedule's back"):
        for _ in range(4):
            pruner.step()
    model[3] = old
    while pruner.count < 4:
        pruner.step()
    assert pruner.plan is not None


def test_after_the_end() -> None:
    model, x = small()
    pruner = attach(model, torch.optim.SGD(model.parameters(), 0.1), x, begin=1, end=2)
    pruner.step()
    with pytest.raises(TrainingError, match="after 1 steps, but the schedule prunes until step 2"):
        pruner.finish()
    pruner.step()
    assert not any(pruner.step() for _ in range(5))  # training goes on
    assert pruner.finish() is pruner.plan is graphprune.plan_of(model)
    with pytest.raises(TrainingError, match="after finish"):
        pruner.step()


# ---- checkpoints -------------------------------------------------------------------------------------------------


def loop(steps, path=None, resume=None):
    """Train with a schedule; save in the middle, or go on from there."""
    model, x = small()
    model.insert(6, nn.Dropout(0.2))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    average = torch.optim.swa_utils.AveragedModel(model)
    schedule = graphprune.Schedule(0.6, begin=2, end=12, every=2, budget="macs")
    pruner = schedule.attach(model, optimizer, x, ema=average)
    torch.manual_seed(1)
    first = 0
    if resume is not None:
        saved = torch.load(resume, weights_only=True)
        pruner.load_state_dict(saved["pruner"])
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        first = pruner.count
    for step in range(first, steps):
        train(model, optimizer, x)
        average.update_parameters(model)
        pruner.step()
        if path is not None and step == 6:
            parts = {"model": model, "ema": average, "optimizer": optimizer, "pruner": pruner}
            saved = {name: part.state_dict() for name, part in parts.items()}
            torch.save(saved | {"random": torch.get_rng_state()}, path)
    return model, optimizer, average, pruner


def test_a_resumed_training_is_equal_to_the_last_bit(tmp_path) -> None:
    whole = loop(16, path=tmp_path / "middle.pt")
    resumed = loop(16, resume=tmp_path / "middle.pt")
    saved = torch.load(tmp_path / "middle.pt", weights_only=True)
    assert saved["pruner"]["plan"] and saved["model"]["0.weight"].shape != whole[0][0].weight.shape
    assert same(snapshot(whole[0], whole[1]), snapshot(resumed[0], resumed[1]))
    assert same(dict(whole[2].state_dict()), dict(resumed[2].state_dict()))
    assert whole[3].plan.kept.keys() == resumed[3].plan.kept.keys()
    assert whole[3].plan.report == resumed[3].plan.report
    graphprune.save(resumed[0], tmp_path / "slim.safetensors")
    again = small()[0]
    again.insert(6, nn.Dropout(0.2))
    again = graphprune.load_weights(again, tmp_path / "slim.safetensors").eval()
    x = small()[1]
    assert torch.equal(again(x), whole[0].eval()(x))


def test_wrong_checkpoints_are_refused() -> None:
    model, optimizer, _, pruner = loop(5)
    state, before = pruner.state_dict(), snapshot(model, optimizer)
    with pytest.raises(TrainingError, match="this one is pruned already"):
        pruner.load_state_dict(state)
    fresh, x = small()
    other = attach(fresh, torch.optim.SGD(fresh.parameters(), 0.1), x)
    with pytest.raises(TrainingError, match="belongs to another schedule"):
        other.load_state_dict(state)
    with pytest.raises(TrainingError, match="not what Pruner.state_dict"):
        other.load_state_dict({"count": 3})
    same_schedule = pruner.schedule.attach(fresh, torch.optim.SGD(fresh.parameters(), 0.1), x)
    with pytest.raises(TrainingError, match="belongs to another model"):
        same_schedule.load_state_dict(state)
    assert same(before, snapshot(model, optimizer)) and same_schedule.count == 0


def test_a_norm_that_is_repaired_takes_its_state_along() -> None:
    """The scale of a root-mean-square norm is multiplied when its width shrinks; averages of gradients are divided."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.RMSNorm(16, eps=1e-6), nn.Linear(16, 3)).double()
    x = torch.randn(8, 6).double()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    pruner = attach(model, optimizer, x, begin=3)
    for _ in range(2):
        train(model, optimizer, x)
        pruner.step()
    train(model, optimizer, x)
    kept_before = copy.deepcopy(optimizer.state[model[1].weight])
    assert pruner.step() and pruner.plan.repairs
    share = pruner.plan.repairs["1.weight"][0]
    kept = pruner.plan.kept["1.weight"]
    for key, power in (("exp_avg", 0.5), ("exp_avg_sq", 1.0)):
        wanted = sliced(kept_before[key], kept) / share**power
        assert torch.allclose(optimizer.state[model[1].weight][key], wanted)
    train(model, optimizer, x)


def test_warnings_are_those_of_the_prunings_not_of_the_rehearsal() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3))
    x = torch.randn(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = attach(model, torch.optim.SGD(model.parameters(), 0.1), x)
    with pytest.warns(UserWarning, match="inexact"):
        pruner.step()
    assert F.mse_loss(model(x), torch.zeros(4, 3)).isfinite()
