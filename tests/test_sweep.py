"""Sweeps: the grid, what every point says, resuming, failures, executors, and the results."""

import itertools
import json
import signal
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
from graphprune import Sweep, errors, journal
from graphprune.grid import key_of, points
from graphprune.sweep_results import SweepPoint

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
SPARSITIES = (0.3, 0.6)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


WANTED = network()(X).detach()


def deviation(model: nn.Module) -> float:
    """How far the outputs are from those of the dense network."""
    return (model(X) - WANTED).square().mean().item()


class Counted:
    """A score that counts its calls, and stops or fails at one of them."""

    __name__ = __qualname__ = "counted"

    def __init__(self, at: int = 0, raising: BaseException | None = None) -> None:
        self.calls, self.at, self.raising = 0, at, raising

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        if self.calls == self.at and self.raising is not None:
            raise self.raising
        return deviation(model)


def run(*args: object, **options: object) -> Sweep:
    """A sweep of the small network; lower scores are better."""
    given = {"score": deviation, "better": "lower"} | options
    return graphprune.sweep(network(), *args, **given)


# The grid


def test_the_grid_is_every_combination_once() -> None:
    options = {"multiple_of": [1, 4], "keep": ["a", "b"], "exact": True}
    found = points((0.2, 0.4, 0.2), ["params", ("params", "macs")], ("l1", "l2"), options)
    wanted = itertools.product((0.2, 0.4), ("params", ("params", "macs")), ("l1", "l2"), (1, 4))
    told = {(p["sparsity"], p["budget"], p["criterion"], p["multiple_of"]) for p in found}
    assert told == set(wanted) and len(found) == 16
    assert all(p["keep"] == ["a", "b"] and p["exact"] is True for p in found)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"keep": [["a"], []]}, [["a"], []]),
        ({"keep": [("a", "b")]}, [("a", "b")]),
        ({"keep": ["a", "b"]}, [["a", "b"]]),
        ({"policy": "dims"}, ["dims"]),
        ({"policy": [("heads",), ("dims",)]}, [("heads",), ("dims",)]),
        ({"structure": "block", "block": [(16, 1), (8, 1)]}, [(16, 1), (8, 1)]),
        ({"structure": "block", "block": [16, 1]}, [[16, 1]]),
    ],
)
def test_lists_of_options_that_are_lists(options: dict, values: list) -> None:
    name = list(options)[-1]
    assert [point[name] for point in points(0.5, "params", "l2", options)] == values


def test_a_sparsity_that_is_fixed_is_left_out() -> None:
    found = points((0.3, 0.6), [{"params": 0.4}, "macs"], "l2", {})
    assert [point.get("sparsity") for point in found] == [None, 0.3, 0.6]
    assert len(points((0.3, 0.6), "params", "l2", {"structure": ["2:4", "unstructured"]})) == 3
    assert len(points((0.3, 0.6), "params", "l2", {"latency": ["60 %", "40 %"]})) == 2
    assert points(None, "params", "l2", {}) == [{"criterion": "l2", "budget": "params"}]


def test_functions_of_one_name_are_refused() -> None:
    with pytest.raises(errors.OptionError, match=r"criteria= holds two functions of the name .*<lambda>"):
        points(0.5, "params", (lambda axis: None, lambda axis: None), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 0.5}, "sparsity= is called sparsities= here"),
        ({"sparsities": ()}, r"sparsities=\[\] holds no value"),
        ({"criterion": "l2"}, "criterion= is called criteria= here"),
        ({"width": 3}, r"there is no option 'width' \(did you mean 'widths'\?\)"),
        ({"scope": ["global", "everywhere"]}, "scope='everywhere'"),
        ({"sparsities": (0.5, 1.5)}, "sparsity=1.5 must lie between"),
        ({"criteria": ("l2", "l7")}, "l7"),
        ({"better": "more"}, "better='more'"),
        ({"executor": "threads"}, "executor='threads': choose one of serial, processes, ray"),
        ({"executor": "processes", "workers": 0}, "workers=0"),
        ({"executor": "processes", "measure": "x86"}, "beside other work"),
        ({"executor": "ray", "budgets": "latency"}, "beside other work"),
        ({"measure": "z80"}, "z80"),
        ({"data": iter([X])}, "can be read once only"),
        ({"seed": [object()]}, "cannot be an option of a sweep"),
    ],
)
def test_what_cannot_be_meant_is_refused_first(options: dict, message: str, tmp_path: Path) -> None:
    score = Counted()
    with pytest.raises(errors.GraphPruneError, match=message):
        run(score=score, out=tmp_path / "sweep.jsonl", **options)
    assert score.calls == 0 and not any(tmp_path.iterdir())


# Every point


def test_points_are_what_optimize_gives(tmp_path: Path) -> None:
    found = run(SPARSITIES, criteria=("l1", "l2"), budgets=("params", "bytes"), out=tmp_path / "sweep.jsonl")
    assert len(found.points) == 8 and not found.failed and found.dense == 0.0
    for point in found.points:
        slim = graphprune.optimize(network(), **point.options)
        params = sum(p.numel() for p in slim.parameters())
        assert point.score == deviation(slim) > 0
        assert point.costs["params"] == (636, params) and point.costs["bytes"] == (2544, 4 * params)
        assert point.costs["macs"][1] == sum(m.weight.numel() for m in slim.modules() if isinstance(m, nn.Linear))
        assert point.left(point.options["budget"]) <= 1 - point.options["sparsity"]
    assert len({point.score for point in found.points}) > 2
    again = Sweep.load(tmp_path / "sweep.jsonl")
    assert again == found and again.header == found.header


class Batches(list):
    """A list that counts how often it is read from its start."""

    read = 0

    def __iter__(self):
        self.read += 1
        return super().__iter__()


@pytest.mark.parametrize("criterion", ["reconstruction", "wanda"])
def test_data_are_looked_at_once_for_all_points(criterion: str) -> None:
    data, alone = Batches([X]), Batches([X])
    found = run((0.2, 0.4, 0.6), criteria=criterion, budgets=("params", "macs"), data=data)
    graphprune.optimize(network(), 0.4, criterion=criterion, data=alone)
    assert len(found.points) == 6 and not found.failed
    assert data.read == alone.read > 0
    for point in found.points:
        slim = graphprune.optimize(network(), **point.options, data=[X])
        assert point.score == deviation(slim) > 0
    assert len({point.score for point in found.points}) >= 3


def squares(out: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    return out.square().mean()


def first_output(out: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    return out[:, 0].abs().mean()


def test_every_loss_looks_for_itself() -> None:
    data = Batches([X])
    found = run(0.5, criteria=("taylor", "fisher"), data=data, loss=[squares, first_output])
    assert len(found.points) == 4 and data.read == 2  # both criteria look at the gradients of a loss
    for point in found.points:
        loss = squares if "squares" in point.options["loss"] else first_output
        slim = graphprune.optimize(network(), **point.options | {"loss": loss}, data=[X])
        assert point.score == deviation(slim)
    assert len({point.score for point in found.points}) > 1


def test_single_weights_and_channels_in_one_sweep() -> None:
    found = run(0.5, structure=["channel", "unstructured", "2:4"])
    shares = [point.costs["nonzero"] for point in found.points[1:]]
    assert "nonzero" not in found.points[0].costs
    assert found.points[1].costs["params"] == (636, 636) and found.points[1].left("macs") == 1.0
    assert "nonzero" in str(found) and found.quantity == "params"
    assert found.best(nonzero=0.6) in found.points[1:] and found.best(params=0.6) is found.points[0]
    assert all(point in found.points[1:] for point in found.pareto("nonzero"))
    assert run(0.5, structure="unstructured").quantity == "nonzero"
    for point, share in zip(found.points[1:], shares, strict=True):
        slim = graphprune.optimize(network(), **point.options)
        assert share == (636, sum(int(p.count_nonzero()) for p in slim.parameters()))


def test_the_model_is_left_alone_even_by_a_score_that_trains() -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def train(model: nn.Module) -> float:
        for parameter in model.parameters():
            parameter.data.zero_()
        return deviation(model.train())

    found = graphprune.sweep(net, SPARSITIES, score=train, better="lower")
    assert not net.training and all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    # zeros everywhere: one score for all, which is the mean square of what is wanted
    assert {point.score for point in found.points} == {found.dense} == {WANTED.square().mean().item()}


def test_scores_of_an_onnx_path_meet_one_kind_of_model(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "model.onnx"
    torch.onnx.export(network(), (X[:1],), str(path), dynamo=False)
    kinds = []
    found = graphprune.sweep(path, SPARSITIES, score=lambda model: kinds.append(type(model)) or 0.0, multiple_of=1)
    assert kinds == [onnx.ModelProto] * 3
    assert [point.left("params") <= 1 - point.options["sparsity"] for point in found.points] == [True, True]


def test_times_are_measured_beside_the_dense_model() -> None:
    found = run(SPARSITIES, measure="x86", threads=1)
    assert all(point.error is None for point in found.points), found.failed
    assert all(min(point.costs["measured"]) > 0 and point.record["measured_on"] == "x86" for point in found.points)
    assert found.best(measured=1e9).score == min(point.score for point in found.points)


def test_a_float_of_any_library_is_a_score() -> None:
    for kind in (torch.tensor, np.float32, np.array, lambda number: np.array([number])[0]):
        assert run(0.5, score=lambda model, kind=kind: kind(0.25)).points[0].score == 0.25


def test_progress_tells_how_far_it_is(tmp_path: Path) -> None:
    lines = list[str]()
    run(SPARSITIES, out=tmp_path / "a.jsonl", progress=lines.append)
    run((*SPARSITIES, 0.7), out=tmp_path / "a.jsonl", progress=lines.append)
    assert lines == [f"sweep {n} of 2" for n in range(3)] + ["sweep 2 of 3", "sweep 3 of 3"]


# Failures


def test_what_cannot_be_reached_is_recorded(tmp_path: Path) -> None:
    found = run((0.5, 0.999), out=tmp_path / "sweep.jsonl")
    (failed,) = found.failed
    with pytest.raises(errors.BudgetError) as caught:
        graphprune.optimize(network(), 0.999)
    assert failed.error == {"type": "BudgetError", "message": str(caught.value), "stage": "prune", "own": True}
    assert failed.score is None and "0.999: BudgetError: sparsity=0.999 allows 0 of 636" in str(found)
    assert found.best() is found.points[0]
    with pytest.raises(errors.OptionError, match="known is nothing: it failed"):
        failed.left("params")


def test_a_score_that_fails_once_is_recorded_and_tried_again(tmp_path: Path) -> None:
    score = Counted(at=2, raising=ZeroDivisionError("no images"))
    found = run((*SPARSITIES, 0.999), score=score, out=tmp_path / "sweep.jsonl")
    assert [point.error and point.error["type"] for point in found.points] == ["ZeroDivisionError", None, "BudgetError"]
    again = Counted()
    mended = run((*SPARSITIES, 0.999), score=again, out=tmp_path / "sweep.jsonl")
    assert again.calls == 1 and [point.error is None for point in mended.points] == [True, True, False]
    assert mended == Sweep.load(tmp_path / "sweep.jsonl")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "good", torch.zeros(2)])
def test_what_is_no_score_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(errors.SweepError, match="the score function returned"):
        run(score=lambda model: value, out=tmp_path / "sweep.jsonl")
    assert not any(tmp_path.iterdir())
    values = iter([0.5, value])
    (failed,) = run(0.5, score=lambda model: next(values)).failed
    assert failed.error["type"] == "SweepError" and failed.error["stage"] == "score"


def test_a_score_that_fails_on_the_dense_model_stops_the_sweep(tmp_path: Path) -> None:
    score = Counted(at=1, raising=KeyError("images"))
    with pytest.raises(errors.SweepError, match="fails on the model as it was given: KeyError: 'images'"):
        run(score=score, out=tmp_path / "sweep.jsonl")
    assert not any(tmp_path.iterdir())


# Resuming


def test_only_what_is_new_is_computed(tmp_path: Path) -> None:
    out, first, second = tmp_path / "deep" / "sweep.jsonl", Counted(), Counted()
    whole = run((*SPARSITIES, 0.7), criteria=("l1", "l2"))
    run(SPARSITIES, score=first, out=out)
    found = run((*SPARSITIES, 0.7), criteria=("l1", "l2"), score=second, out=out)
    assert (first.calls, second.calls) == (3, 4)
    assert [point.score for point in found.points] == [point.score for point in whole.points]
    assert run((*SPARSITIES, 0.7), criteria=("l1", "l2"), score=second, out=out) == found
    assert second.calls == 4


def test_a_point_without_a_time_is_measured_when_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    assert "measured" not in run(0.5, threads=1, out=out).points[0].costs
    for _ in range(2):  # the second time there is nothing to do
        (point,) = run(0.5, threads=1, out=out, measure="x86").points
        assert "measured" in point.costs and len(journal.read(out)) == 3


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_ctrl_c_loses_nothing_that_was_finished(stop: int, tmp_path: Path) -> None:
    out, score = tmp_path / "sweep.jsonl", Counted(at=stop, raising=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(SPARSITIES, criteria=("l1", "l2"), score=score, out=out)
    assert out.exists() == (stop > 1)
    again = Counted()
    found = run(SPARSITIES, criteria=("l1", "l2"), score=again, out=out)
    assert again.calls == 5 - (stop - 1)
    assert [p.score for p in found.points] == [p.score for p in run(SPARSITIES, criteria=("l1", "l2")).points]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a sweep."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.jsonl"
    run(SPARSITIES, score=Counted(), out=path)
    return path.read_bytes()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_file_that_is_torn_anywhere_is_resumed(
    finished: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(finished)))
    path = tmp_path_factory.mktemp("torn") / "sweep.jsonl"
    path.write_bytes(finished[:cut])
    score = Counted()
    found = run(SPARSITIES, score=score, out=path)
    whole = finished.splitlines()
    # a line is whole with its closing brace, whether or not its end was written
    ends = np.cumsum([len(line) + 1 for line in whole]) - 1
    assert score.calls == 3 - int((ends <= cut).sum())
    assert [(p.options, p.score) for p in found.points] == [
        (line["options"], line["score"]) for line in map(json.loads, whole[1:])
    ]
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert Sweep.load(path) == found


def test_damage_before_the_last_line_is_an_error(finished: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    lines = finished.splitlines(keepends=True)
    for bad in (lines[0] + b'{"options": \n' + lines[2], b"junk\n" + lines[1], lines[0] + b"3\n" + lines[1]):
        path.write_bytes(bad)
        for use in (Sweep.load, lambda path: run(SPARSITIES, out=path)):
            with pytest.raises(errors.FileFormatError, match=r"sweep.jsonl, line \d"):
                use(path)
        assert path.read_bytes() == bad
    for bad in (b"", lines[1], lines[0] + b"{}\n", b'{"format": "graphprune-sweep-1"}\n'):
        path.write_bytes(bad)
        with pytest.raises(errors.FileFormatError, match="sweep.jsonl"):
            Sweep.load(path)
    with pytest.raises(errors.FileFormatError, match="nowhere.jsonl cannot be read"):
        Sweep.load(tmp_path / "nowhere.jsonl")


def test_scores_that_cannot_be_compared_do_not_share_a_file(tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    run(0.5, score=Counted(), out=out)
    before = out.read_bytes()
    trained = network()
    trained[2].weight.data[3, 5] += 1e-6
    for change, message in (
        ({"model": trained}, "another model, or this one with other weights"),
        ({"model": nn.Sequential(*network()[:3], nn.GELU(), network()[4]).eval()}, "another model"),
        ({"score": deviation}, "another score function"),
        ({"better": "higher"}, "another direction"),
        ({"data": [X], "criteria": "taylor"}, "other data"),
    ):
        given = {"model": network(), "score": Counted(), "better": "lower"} | change
        with pytest.raises(errors.SweepError, match=f"belongs to {message}.*Give another file"):
            graphprune.sweep(given.pop("model"), 0.6, out=out, **given)
    assert out.read_bytes() == before


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    with (
        journal.writing(out) as (_, append),
        pytest.raises(errors.SweepError, match=r"another process writes to .*sweep.jsonl"),
    ):
        append({"format": "graphprune-sweep-1"})
        run(0.5, out=out)


SCRIPT = """
import time, torch, graphprune
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
def score(model):
    time.sleep({pause})
    return float(model(torch.ones(1, 6)).sum())
found = graphprune.sweep(net, [number / 20 for number in range(1, 15)], score=score, out="sweep.jsonl")
print(len(found.points))
"""


def test_a_killed_process_is_resumed_by_another(tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    killed = subprocess.Popen([sys.executable, "-c", SCRIPT.format(pause=0.05)], cwd=tmp_path)
    end = time.monotonic() + 60
    while time.monotonic() < end and (not out.exists() or out.read_bytes().count(b"\n") < 4):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = len(Sweep.load(out).points)
    assert 3 <= before < 14
    command = [sys.executable, "-c", SCRIPT.format(pause=0)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "14\n", done.stderr
    assert len(journal.read(out)) == 15  # nothing was computed twice: the other process found the same model


# Executors


def test_processes_give_the_same_points(tmp_path: Path) -> None:
    wanted = run((*SPARSITIES, 0.999), criteria=("l1", "l2"), score=lambda model: deviation(model))
    out = tmp_path / "sweep.jsonl"
    found = run(
        (*SPARSITIES, 0.999),
        criteria=("l1", "l2"),
        score=lambda m: deviation(m),
        executor="processes",
        workers=2,
        out=out,
    )
    assert _essence(found) == _essence(wanted) == _essence(Sweep.load(out), wanted)


def test_a_ray_cluster_gives_the_same_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'graphprune[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))  # its workers import what the score function names
    wanted = run((*SPARSITIES, 0.999), criteria=("l1", "l2"))
    found = run(
        (*SPARSITIES, 0.999),
        criteria=("l1", "l2"),
        executor="ray",
        workers=2,
        out=tmp_path / "sweep.jsonl",
    )
    assert _essence(found) == _essence(wanted)
    assert not ray.is_initialized()  # what was started is stopped


def test_ray_that_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.SweepError, match=r"pip install 'graphprune\[ray\]'"):
        run(0.5, executor="ray")


def test_what_cannot_be_sent_says_so() -> None:
    lock = __import__("threading").Lock()
    with pytest.raises(errors.SweepError, match="cannot be sent to another process"):
        run(0.5, score=lambda model: 0.0 if lock else 1.0, executor="processes", workers=2)


def test_a_score_that_workers_cannot_import_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("graphprune_nowhere")
    exec("def score(model):\n    return 0.5", module.__dict__)
    monkeypatch.setitem(sys.modules, "graphprune_nowhere", module)
    with pytest.raises(errors.SweepError, match=r"cannot be sent.*graphprune_nowhere"):
        run(0.5, score=module.score, executor="processes", workers=2)


def test_a_worker_that_dies_does_not_take_the_others_along(tmp_path: Path) -> None:
    out, parent = tmp_path / "sweep.jsonl", __import__("os").getpid()

    def dies(model: nn.Module) -> float:
        import os

        if os.getpid() != parent and sum(p.numel() for p in model.parameters()) < 200:
            until = time.monotonic() + 120
            while '"sparsity": 0.1' not in out.read_text() and time.monotonic() < until:
                time.sleep(0.01)
            os._exit(1)
        return 0.0

    with pytest.raises(errors.SweepError, match="a process of the sweep was ended from outside"):
        run((0.1, 0.8), score=dies, executor="processes", workers=2, out=out)
    assert [point.options["sparsity"] for point in Sweep.load(out).points] == [0.1]


def _essence(found: Sweep, order: Sweep | None = None) -> list[tuple]:
    """What does not depend on when and where a point was computed, in the order of the grid."""
    known = {key_of(point.options): point for point in found.points}
    keys = [key_of(point.options) for point in (order or found).points]
    return [(key, known[key].score, dict(known[key].costs), known[key].error) for key in keys]


# Results


def _points(rows: list[tuple[float, int]]) -> tuple[SweepPoint, ...]:
    return tuple(
        SweepPoint({"sparsity": number, "seed": 0}, score, {"params": (100, left)}, None, {})
        for number, (score, left) in enumerate(rows)
    )


SCORED = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(1, 12)), min_size=1, max_size=12)


@given(rows=SCORED, better=st.sampled_from(["higher", "lower"]))
def test_the_front_is_what_no_point_beats(rows: list[tuple[float, int]], better: str) -> None:
    sign = 1 if better == "higher" else -1
    found = Sweep(3.0, _points(rows), better)

    def beats(one: tuple[float, int], other: tuple[float, int]) -> bool:
        good, little = sign * one[0] >= sign * other[0], one[1] <= other[1]
        return good and little and one != other

    wanted = sorted({row for row in rows if not any(beats(other, row) for other in rows)}, key=lambda row: row[1])
    assert [(point.score, point.costs["params"][1]) for point in found.pareto()] == wanted


@given(rows=SCORED, better=st.sampled_from(["higher", "lower"]), share=st.integers(1, 12), drop=st.integers(0, 3))
def test_the_best_and_the_smallest(rows: list[tuple[float, int]], better: str, share: int, drop: int) -> None:
    sign = 1 if better == "higher" else -1
    found = Sweep(3.0, _points(rows), better)
    within = [row for row in rows if row[1] <= share]
    if within:
        best = found.best(params=share / 100)
        assert (best.score, best.costs["params"][1]) == max(within, key=lambda row: (sign * row[0], -row[1]))
    else:
        with pytest.raises(errors.BudgetError, match="no point of the sweep leaves at most"):
            found.best(params=share / 100)
    good = [row for row in rows if sign * row[0] >= sign * 3.0 - drop]
    if good:
        smallest = found.smallest("params", drop=drop)
        assert (smallest.costs["params"][1], sign * smallest.score) == min(
            ((left, sign * score) for score, left in good), key=lambda pair: (pair[0], -pair[1])
        )
    else:
        with pytest.raises(errors.BudgetError, match="no point of the sweep is within"):
            found.smallest("params", drop=drop)


def test_unknown_quantities_are_refused() -> None:
    found = run(SPARSITIES)
    for use in (
        found.pareto,
        found.table,
        lambda name: found.best(**{name: 0.5}),
        lambda name: found.plot("a.png", name),
    ):
        with pytest.raises(errors.OptionError, match="'measured' is not known of this point: give measure="):
            use("measured")
        with pytest.raises(errors.OptionError, match="'flops' is not known of this point; known is params, macs"):
            use("flops")
    assert "BudgetError" in str(run(0.999))  # a table of failures alone


def test_the_table_and_the_rows_name_every_point() -> None:
    found = run((0.3, 0.6, 0.999), criteria=("l1", "l2"), keep=[[], ["0"]])
    text = str(found)
    for point in found.points:
        assert found.name(point) in text
    assert {found.name(point) for point in found.points} == {
        "no keep, l1", "no keep, l2", "0, l1", "0, l2",
    }  # fmt: skip
    assert text.count("BudgetError") == len(found.failed) == 4
    rows = found.rows()
    assert [row["score"] for row in rows] == [point.score for point in found.points]
    assert rows[0]["params"] == found.points[0].costs["params"][1] and rows[2]["error"].startswith("sparsity=0.999")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_picture(ending: str, tmp_path: Path) -> None:
    found = run((0.3, 0.6, 0.999), criteria=("l1", "l2"))
    path = found.plot(tmp_path / f"sweep.{ending}", "macs", title="a small network")
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[ending])
    if ending == "svg":
        text = path.read_text()
        assert all(
            f"<!-- {name} -->" in text for name in ("l1", "l2", "dense", "front", "MACs left, %", "a small network")
        )


def test_no_picture_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.OptionError, match="nothing to draw"):
        run(0.999).plot(tmp_path / "sweep.png")
    with pytest.raises(errors.OptionError, match="must end in one of .png, .svg, .pdf"):
        run(0.5).plot(tmp_path / "sweep.jpg")
    assert not any(tmp_path.iterdir())


# The command line

MODULE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))

images = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
wanted = net()(images).detach()
three = 3

def deviation(model):
    return (model(images) - wanted).square().mean()
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `graphprune sweep` in a folder with a module; gives exit code, stdout, stderr."""
    (tmp_path / "sweep_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("warnings.formatwarning", warnings.formatwarning)  # main() changes it
    monkeypatch.delitem(sys.modules, "sweep_models", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        from graphprune.cli import main

        monkeypatch.setattr(sys, "argv", ["graphprune", "sweep", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call


def test_the_command_prints_writes_draws_and_resumes(command, tmp_path: Path) -> None:
    given = ["sweep_models:net", "--score", "sweep_models:deviation", "--lower", "-o", "out.jsonl"]
    given += ["--sparsity", "0.3", "--sparsity", "0.999", "--criterion", "l1", "--criterion", "l2", "--of", "macs"]
    code, out, err = command(*given, "--plot", "out.svg", "--recover", "none", "--recover", "bias", "--keep", "4")
    assert code == 0, err
    assert "no recover, l1" in out and "recover=bias" not in out and "recover=none" not in out
    assert "written to out.jsonl" in out and "drawn in out.svg" in out and "BudgetError" in out
    assert (tmp_path / "out.svg").read_text().startswith("<?xml")
    lines = (tmp_path / "out.jsonl").read_text()
    code, out, err = command(*given, "--recover", "none", "--recover", "bias", "--keep", "4", "--json")
    assert code == 0 and (tmp_path / "out.jsonl").read_text() == lines
    told = json.loads(out)
    found = Sweep.load(tmp_path / "out.jsonl")
    assert told["score"] == found.dense == 0 and told["points"] == [point.record for point in found.points]
    from sweep_models import deviation, net

    for point in found.finished:
        assert point.score == deviation(graphprune.optimize(net().eval(), **point.options)).item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score", "sweep_models"], "'sweep_models' names no function"),
        (["--score", "sweep_models:nothing"], "cannot be imported: AttributeError"),
        (["--score", "sweep_models:three"], "is a int, not a function"),
        (["--score", "nowhere:accuracy"], "cannot be imported: ModuleNotFoundError"),
        (["--score", "sweep_models:deviation", "--criterion", "l7"], "l7"),
        (["--score", "sweep_models:deviation", "--plot", "a.jpg"], "a.jpg must end in one of"),
        (["--score", "sweep_models:deviation", "--of", "flops"], "--of flops: choose one of params"),
    ],
)
def test_the_command_refuses_before_it_works(options: list[str], message: str, command, tmp_path: Path) -> None:
    code, out, err = command("sweep_models:net", "-o", "out.jsonl", *options)
    assert code == 1 and out == "" and message in err
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command_fails_where_no_point_can_be_reached(command) -> None:
    given = ["--score", "sweep_models:deviation", "-o", "out.jsonl", "--sparsity", "0.999"]
    code, out, err = command("sweep_models:net", *given)
    assert code == 4 and "no point could be reached; out.jsonl holds the reasons" in err and "BudgetError" in err
