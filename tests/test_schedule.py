"""Schedules: when and how much, and what is refused before a training begins."""

import inspect
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
import graphprune.api
from graphprune.errors import BudgetError, NothingToPruneError, OptionError, TrainingError, UnsupportedModelError
from graphprune.schedule import CURVES, relative_goals

WHOLE = st.integers(1, 40)


@pytest.mark.parametrize("kind", CURVES)
@settings(deadline=None)
@given(begin=WHOLE, length=st.integers(0, 60), every=WHOLE, start=st.floats(0, 0.4), final=st.floats(0.45, 0.95))
def test_sparsity_grows_from_start_to_the_end(kind, begin, length, every, start, final) -> None:
    schedule = graphprune.Schedule(final, begin=begin, end=begin + length, every=every, kind=kind, start=start)
    due = [step for step in range(1, begin + length + 20) if schedule.is_due(step)]
    assert due == sorted({*range(begin, begin + length + 1, every), begin + length})
    seen = [schedule.sparsity_at(step) for step in range(begin + length + 20)]
    assert seen == sorted(seen)
    assert all(sparsity == 0 for sparsity in seen[:begin])
    assert all(math.isclose(sparsity, final) for sparsity in seen[begin + length :])
    for step in range(begin, begin + length):  # between two prunings nothing changes
        if not schedule.is_due(step):
            assert seen[step] == seen[step - 1]


def test_curves_are_those_of_their_papers() -> None:
    steps = dict(begin=100, end=1100, every=1)
    at = {kind: graphprune.Schedule(0.8, kind=kind, start=0.2, **steps).sparsity_at(350) for kind in CURVES}
    assert math.isclose(at["cubic"], 0.8 + (0.2 - 0.8) * (1 - 250 / 1000) ** 3)  # Zhu and Gupta, equation 1
    assert math.isclose(at["linear"], 0.2 + 0.6 * 0.25)
    assert math.isclose(at["cosine"], 0.8 + (0.2 - 0.8) * 0.5 * (1 + math.cos(math.pi * 0.25)))
    assert at["one-shot"] == 0.8
    own = graphprune.Schedule(0.8, kind=lambda share: share**2, **steps)
    assert math.isclose(own.sparsity_at(600), 0.8 * 0.25)


@settings(deadline=None)
@given(then=st.integers(10, 10**12), goal=st.floats(0.01, 0.99), left=st.floats(0.05, 1))
def test_goals_of_the_model_as_it_is_leave_what_those_of_the_original_do(then, goal, left) -> None:
    now = max(1, int(then * left))
    limit = math.floor(then * (1 - goal) + 1e-9)
    found = relative_goals({"macs": goal}, {"macs": [then, now]})
    if now <= limit:
        assert found == {}
    else:
        assert math.floor(now * (1 - found["macs"]) + 1e-9) == limit
    milliseconds = relative_goals({"latency": goal}, {"latency": [1e-3 * then, 1e-3 * now]})
    for share in milliseconds.values():
        assert math.isclose(now * (1 - share), then * (1 - goal), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (OptionError, "end=3 lies before begin=5", dict(begin=5, end=3)),
        (OptionError, "end=None must be", dict(begin=5)),
        (OptionError, "begin=0 must be", dict(begin=0, end=3)),
        (OptionError, "every=0 must be", dict(end=3, every=0)),
        (OptionError, "every=2.0 must be", dict(end=3, every=2.0)),
        (OptionError, "kind='square': choose one of one-shot", dict(end=3, kind="square")),
        (OptionError, "'spartsity' is no option", dict(end=3, spartsity=0.5)),
        (OptionError, "'example_inputs' is no option", dict(end=3, example_inputs=1)),
        (OptionError, "'structure' is no option", dict(end=3, structure="2:4")),
        (OptionError, "cannot follow budget='latency'", dict(end=3, budget=("macs", "latency"))),
        (OptionError, "data is an iterator", dict(end=3, data=iter([]))),
        (OptionError, "widths as a share would be a share of what is left", dict(end=3, widths={"0": (0.5, None)})),
        (OptionError, "min_width as a share would be", dict(end=3, min_width=0.5)),
        (BudgetError, "from sparsity 0.0 to 1.5 of the params", dict(end=3, sparsity=1.5)),
        (BudgetError, "from sparsity 0.0 to '0.5'", dict(end=3, sparsity="0.5")),
        (BudgetError, "from sparsity 0.6 to 0.5 of the macs", dict(end=3, start=0.6, budget="macs")),
    ],
)
def test_bad_schedules(error, words, options, monkeypatch) -> None:
    every = {*inspect.signature(graphprune.api.optimize).parameters, "data", "widths", "min_width"}
    named = SimpleNamespace(parameters=sorted(every - {"structure"}))  # also where `optimize` does not have them
    monkeypatch.setattr("graphprune.schedule.inspect", SimpleNamespace(signature=lambda _: named))
    with pytest.raises(error) as caught:
        graphprune.Schedule(**options)
    assert words in str(caught.value)


def mlp() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)), torch.randn(4, 6)


class WrittenIn(nn.Module):
    """Its width is written into its forward(), so that pruning makes another program of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 8, 36).mean(2))


def attach_to(net, x, optimizer=None, **options):
    schedule = graphprune.Schedule(**{"begin": 2, "end": 4, **options})
    return schedule.attach(net, optimizer or torch.optim.SGD(net.parameters(), 0.1), x)


def test_refused_before_the_training_begins() -> None:
    net, x = mlp()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(BudgetError, match="at least .* must stay"):
        attach_to(net, x, sparsity=0.99)
    with pytest.raises(NothingToPruneError):
        attach_to(net, x, keep=["*"])
    with pytest.raises(OptionError, match="keep='9' matches no parameter"):
        attach_to(net, x, keep=["9"])
    with pytest.raises(UnsupportedModelError, match="is not supported"):
        graphprune.Schedule(end=3).attach(object(), None)
    with pytest.raises(UnsupportedModelError, match="attach a schedule to a module"):
        graphprune.Schedule(end=3).attach(net.state_dict(), None)
    with pytest.raises(UnsupportedModelError, match="lazy parameters without sizes"):
        attach_to(nn.Sequential(nn.LazyLinear(4)), x, torch.optim.SGD(net.parameters(), 0.1))
    with pytest.raises(TrainingError, match="is no optimizer"):
        attach_to(net, x, optimizer="adam")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_model_that_becomes_another_program_is_refused() -> None:
    torch.manual_seed(0)
    net, x = WrittenIn(), torch.randn(2, 3, 8, 8)
    assert isinstance(graphprune.optimize(net, 0.4, example_inputs=x), torch.fx.GraphModule)
    with pytest.raises(
        TrainingError, match="WrittenIn cannot be pruned in place: sizes are written into forward.*optimize first"
    ):
        attach_to(net, x)
    with pytest.raises(TrainingError, match="attach the schedule to the module that it was made from"):
        attach_to(torch.fx.symbolic_trace(net), x)


def test_instances_with_a_forward_of_their_own_are_refused() -> None:
    net, x = mlp()
    net[0].forward = lambda x: torch.zeros(len(x), 16)
    with pytest.raises(TrainingError, match="0 has a forward\\(\\) of its own on the instance"):
        attach_to(net, x)


def test_optimizers_of_other_models_are_refused() -> None:
    (net, x), (other, _) = mlp(), mlp()
    with pytest.raises(TrainingError, match="does not hold the parameters of Sequential .first: 0.weight"):
        attach_to(net, x, torch.optim.SGD(other.parameters(), 0.1))
    with pytest.raises(TrainingError, match="does not hold 4 of 6 trained parameters .* .first: 0.weight"):
        attach_to(net, x, torch.optim.SGD(net[4].parameters(), 0.1))
    old = torch.optim.SGD(net.parameters(), 0.1)
    net[4] = nn.Linear(12, 3)
    with pytest.raises(TrainingError, match="does not hold 2 of 6 .* .first: 4.weight"):
        attach_to(net, x, old)
    both = [torch.optim.SGD(part.parameters(), 0.1) for part in (net[0], net[2])]
    net[4].requires_grad_(False)
    attach_to(net, x, both)


class Outer(torch.optim.Optimizer):
    """Does its steps with an optimizer that it holds, as ZeroRedundancyOptimizer does."""

    def __init__(self, parameters) -> None:
        parameters = list(parameters)
        super().__init__(parameters, {})
        self.inner = torch.optim.AdamW(parameters)


def test_state_in_another_optimizer_is_refused() -> None:
    net, x = mlp()
    with pytest.raises(TrainingError, match="Outer keeps its state in another optimizer, which it holds as .inner"):
        attach_to(net, x, Outer(net.parameters()))
    shared = Outer(net.parameters())
    shared.state = shared.inner.state
    attach_to(net, x, shared)


def test_state_that_is_not_known_is_refused() -> None:
    net, x = mlp()
    for kind, words in (
        (torch.optim.LBFGS, "LBFGS keeps"),
        (torch.optim.Adafactor, "Adafactor keeps row_var of shape"),
    ):
        optimizer = kind(net.parameters())

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            return loss

        pruner = attach_to(net, x, optimizer)  # no state yet
        optimizer.step(closure)
        with pytest.raises(TrainingError, match=words):
            pruner.step()
        with pytest.raises(TrainingError, match=words):
            attach_to(net, x, optimizer)
