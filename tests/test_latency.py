"""Latency: a clock from measured kernels, its table on disk, and pruning that measures, corrects, and gives up."""

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.backends import latency as measuring
from graphprune.backends.latency import Bench, Table, clock_of
from graphprune.backends.targets import get_target
from graphprune.budget import Options, make_plan
from graphprune.cost import CostModel
from graphprune.errors import BudgetError, LatencyWarning, OptionError, TargetError
from graphprune.latency import Clock, Kernel, latency_of, layers_of, points
from graphprune.passes import prune_to_latency
from helpers import randomise

AVX2 = get_target("x86-avx2")


def net():
    """Dense, strided, pointwise, depthwise and grouped convolutions, and a head."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.Conv2d(64, 48, 1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1, groups=2), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10),
    ]  # fmt: skip
    return randomise(nn.Sequential(*layers)).eval(), torch.randn(1, 3, 16, 16)


def truth(kernel, point):
    """Seconds of a kernel on a machine of our own."""
    inner, outer = point
    if kernel.kind == "depthwise":
        return 1e-6 + 2e-8 * inner * np.prod(kernel.image) / 256
    pixels = kernel.rows * np.prod(kernel.image) / np.prod(kernel.stride)
    return (
        2e-6 + 1e-9 * pixels * (inner + outer) + 1e-10 * pixels * np.prod(kernel.window) * inner * outer / kernel.groups
    )


def clock(tmp_path, analysis, dense=1.0, measure=truth):
    return clock_of(analysis, AVX2, 1, dense, measure, Table(tmp_path / "table.jsonl", 1))


def test_words():
    assert latency_of("2.5 ms", 1.0) == 0.0025 and latency_of("800us", 1.0) == pytest.approx(8e-4)
    assert latency_of("60 %", 0.01) == pytest.approx(0.006) and latency_of("0.1 s", 1.0) == 0.1
    for odd in (2.5, 0.6, "2.5", "fast", "-1 ms", "0 ms", "100 %", None, True):
        with pytest.raises(OptionError, match="with its unit"):
            latency_of(odd, 1.0)


def test_kernels_of_a_model():
    module, x = net()
    kernels = [layer.kernel for layer in layers_of(graphprune.analyze(module, x))]
    assert [kernel.kind for kernel in kernels] == ["conv", "conv", "depthwise", "conv", "conv", "product", "product"]
    assert kernels[1].stride == (2, 2) and kernels[2].image == (8, 8) and kernels[4].groups == 2
    for kernel, own in points(layers_of(graphprune.analyze(module, x)), 8).items():
        assert 1 <= len(own) <= 5
        assert all(
            size % (8 if kernel.groups == 1 else 2) == 0 or size in (3, 10) for point in own for size in point
        ), (kernel, own)


@pytest.mark.parametrize("multiple", [8, 16])
def test_predicted_is_the_sum_over_the_slim_model(tmp_path, multiple):
    """By a machine that we made up: the clock of the dense model tells the time of the slim one, analysed anew."""
    module, x = net()
    analysis = graphprune.analyze(module, x)
    dense = sum(truth(layer.kernel, layer.sizes) for layer in layers_of(analysis))
    found = clock(tmp_path, analysis, dense)
    plan = make_plan(analysis, Options(budget="latency", sparsity=0.4, multiple_of=multiple), found)
    slim = graphprune.analyze(plan.apply(module), x)
    left = sum(truth(layer.kernel, layer.sizes) for layer in layers_of(slim))
    assert plan.report["latency"][0] == pytest.approx(1e9 * dense, rel=1e-6)
    assert plan.report["latency"][1] == pytest.approx(1e9 * left, rel=0.02)
    assert left <= 0.61 * dense

    def slow(kernel, point):
        return truth(kernel, point) * (200 if kernel.kind == "depthwise" else 1)

    slowly = clock(tmp_path / "other", analysis, dense, slow)
    other = make_plan(analysis, Options(budget="latency", sparsity=0.4, multiple_of=multiple), slowly)
    assert other.widths() != plan.widths(), "another machine, another plan"


def test_the_rest_follows_the_activations(tmp_path):
    module, x = net()
    analysis = graphprune.analyze(module, x)
    kernels = sum(truth(layer.kernel, layer.sizes) for layer in layers_of(analysis))
    found = clock(tmp_path, analysis, 3 * kernels)
    assert found.rest == pytest.approx(2e9 * kernels, rel=1e-3)
    model = CostModel.of(analysis, found)
    whole = np.ones(analysis.solution.count, dtype=bool)
    assert model.evaluate("latency", whole) == pytest.approx(3e9 * kernels, rel=1e-6)
    assert model.evaluate("latency", ~analysis.free) < 2e9 * kernels
    assert clock(tmp_path, analysis, kernels / 2).rest == 0


def test_staircase(tmp_path):
    """Between two multiples of the vector a channel is free."""
    module, x = net()
    analysis = graphprune.analyze(module, x)
    found = clock(tmp_path, analysis)
    found = Clock(found.layers, found.curves, 8, 0.0, found.work)
    model, classes = CostModel.of(analysis, found), analysis.leaf_classes["10.weight", 0]
    alive = np.ones(analysis.solution.count, dtype=bool)
    times = []
    for gone in range(10):
        alive[classes[:gone]] = False
        times.append(model.evaluate("latency", alive))
    assert len(set(times[:8])) == 1 and times[8] < times[7] and times[9] == times[8]


def test_measurements_are_kept_and_go_on(tmp_path):
    module, x = net()
    analysis = graphprune.analyze(module, x)
    calls = []

    def interrupted(kernel, point):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append((kernel, point))
        return truth(kernel, point)

    with pytest.raises(KeyboardInterrupt):
        clock(tmp_path, analysis, measure=interrupted)
    with open(tmp_path / "table.jsonl", "a") as file:
        file.write('{"kernel": "half a li')
    again = []
    found = clock(tmp_path, analysis, measure=lambda *what: again.append(what) or truth(*what))
    every = {(kernel, point) for kernel, own in points(layers_of(analysis), 8).items() for point in own}
    assert set(again) | set(calls) == every and not set(again) & set(calls)
    fresh = clock(tmp_path, analysis, measure=None)
    assert all(np.allclose(fresh.curves[kernel], curve) for kernel, curve in found.curves.items())
    assert Table(tmp_path / "table.jsonl", 2).seconds(*calls[0]) is None, "other threads, other times"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that takes `factor` times the predicted share, whatever is compiled for it."""
    state = {"factor": 1.0, "rounds": 0}

    def compiled(model, **_):
        return sum(truth(layer.kernel, layer.sizes) for layer in layers_of(graphprune.analyze(model, net()[1])))

    def seconds(artifacts, threads):
        state["rounds"] += len(artifacts) > 1
        return {name: time if name == "dense" else time * state["factor"] for name, time in artifacts.items()}

    def made(analysis, target, threads, dense):
        return clock_of(analysis, target, threads, dense, truth, Table(tmp_path / "table.jsonl", threads))

    monkeypatch.setattr(prune_to_latency, "compile_model", compiled)
    monkeypatch.setattr(prune_to_latency, "seconds_of", seconds)
    monkeypatch.setattr(prune_to_latency, "clock_of", made)
    return state


@pytest.mark.parametrize("options", [{"latency": "60 %"}, {"budget": "latency", "sparsity": 0.4}])
def test_corrected_by_what_was_measured(machine, options):
    machine["factor"] = 1.2
    module, x = net()
    slim = graphprune.optimize(module, example_inputs=x, target="x86-avx2", threads=1, **options)
    dense, left = graphprune.plan_of(slim).report["measured"]
    assert 0.5 * dense < left <= 0.6 * dense * 1.03
    predicted = graphprune.plan_of(slim).report["latency"]
    assert predicted[1] < 0.55 * predicted[0], "the prediction alone would have stopped earlier"
    assert machine["rounds"] > 1


def test_a_time_in_milliseconds_and_other_budgets(machine):
    module, x = net()
    dense = prune_to_latency.compile_model(module)
    slim = graphprune.optimize(
        module, example_inputs=x, target="x86-avx2", latency=f"{700 * dense:.6f} ms", budget={"params": 0.6}, threads=1
    )
    report = graphprune.plan_of(slim).report
    assert report["measured"][1] <= 0.7 * report["measured"][0] * 1.03
    assert report["params"][1] <= 0.4 * report["params"][0]
    with pytest.raises(BudgetError, match="already"):
        graphprune.optimize(module, example_inputs=x, target="x86-avx2", latency="1 s", threads=1)


def test_onnx_models(tmp_path, monkeypatch):
    """The same by a machine that takes as long as a model has multiply-accumulates."""
    import onnx

    module, x = net()
    path = str(tmp_path / "net.onnx")
    torch.onnx.export(module, (x,), path, dynamo=False)
    monkeypatch.setattr(prune_to_latency, "compile_model", lambda model, **_: graphprune.analyze(model).cost().macs)
    monkeypatch.setattr(prune_to_latency, "seconds_of", lambda programs, _: dict(programs))
    table = Table(tmp_path / "table.jsonl", 1)
    monkeypatch.setattr(prune_to_latency, "clock_of", lambda a, t, n, dense: clock_of(a, t, n, dense, truth, table))
    slim = graphprune.optimize(path, latency="70 %", target="x86-avx2", threads=1)
    assert isinstance(slim, onnx.ModelProto)
    assert graphprune.analyze(slim).cost().macs <= 0.7 * 1.03 * graphprune.analyze(path).cost().macs


@pytest.mark.parametrize("budget", ["macs", ("params", "macs"), {"latency": 0.5}])
def test_a_time_is_the_budget(budget):
    module, x = net()
    with pytest.raises(OptionError, match="besides"):
        graphprune.optimize(module, latency="50 %", budget=budget, example_inputs=x, target="x86-avx2")


def test_what_is_not_faster_comes_back_as_it_was(machine):
    machine["factor"] = 50.0
    module, x = net()
    with pytest.warns(LatencyWarning, match="not faster"):
        same = graphprune.optimize(module, example_inputs=x, target="x86-avx2", latency="60 %", threads=1)
    assert same is module and graphprune.plan_of(same) is None
    with pytest.warns(LatencyWarning, match="were reached"):
        slim = graphprune.optimize(module, example_inputs=x, target="x86-avx2", latency="60 %", threads=1, insist=True)
    assert slim is not module and graphprune.plan_of(slim).kept


def test_targets_that_do_not_run_here():
    module, x = net()
    for name in ("cuda-sm80", "arm-cortex-a72"):
        with pytest.raises(TargetError, match=r"cannot be measured here.*bench slim\.gp --rpc"):
            graphprune.optimize(module, example_inputs=x, latency="50 %", target=name)
    with pytest.raises(OptionError, match="with its unit"):
        graphprune.optimize(module, example_inputs=x, latency=0.5)
    with pytest.raises(OptionError, match="times of a target"):
        graphprune.analyze(module, x).plan(budget="latency")


@pytest.mark.parametrize("channels", [48, 60])
def test_kernels_of_grouped_convolutions_are_measured(channels):
    """Of 8 channels per group, whose first input blocks follow from their number, and of 10, which straddle blocks."""
    kernel = Kernel("conv", 1, (13, 12), (3, 3), (2, 2), 6)
    assert 0 < Bench(get_target("x86-avx2"), 1)(kernel, (channels, channels)) < 1


@pytest.mark.skipif(bool(AVX2.missing_features()), reason="needs AVX2")
def test_on_this_machine(tmp_path, monkeypatch):
    """Kernels, the model and what is left of it are compiled and measured; times are kept for the next time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module = randomise(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))).eval()
    x = torch.randn(32, 64)
    slim = graphprune.optimize(
        module, example_inputs=x, target="x86-avx2", budget="latency", sparsity=0.3, threads=1, insist=True
    )
    dense, left = graphprune.plan_of(slim).report["measured"]
    assert dense > 0 and left > 0 and slim[0].out_features < 256 and slim[0].out_features % 8 == 0
    tables = list((tmp_path / "graphprune" / "latency").glob("x86-avx2-*.jsonl"))
    assert len(tables) == 1 and tables[0].read_text().count("\n") == len(_points(module, x)) > 2
    assert all(measuring.table_of(AVX2, 1).seconds(*what) > 0 for what in _points(module, x))


def _points(module, x):
    wanted = points(layers_of(graphprune.analyze(module, x)), 8)
    return [(kernel, point) for kernel, own in wanted.items() for point in own]
