"""Tuning: what was measured is taken, remembered, and never makes a result wrong."""

import json

import pytest
import torch
import tvm
from torch import nn

import graphprune
from graphprune.backends import tuning
from graphprune.backends.choices import name_of
from graphprune.backends.compiler import compile_model
from graphprune.backends.import_torch import import_model
from graphprune.backends.measuring import Meter
from graphprune.backends.pipeline import optimize_passes
from graphprune.backends.record import Measured, record_of
from graphprune.backends.targets import get_target
from graphprune.errors import OptionError

TARGETS = ("x86", "x86-avx2")
EXAMPLE = torch.randn(1, 3, 20, 20)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def network():
    """One kernel of every kind that there is a choice for."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 40, 3, stride=2), nn.ReLU(), nn.Conv2d(40, 37, 3, padding=1), nn.ReLU(),
        nn.Conv2d(37, 37, 5, padding=2, groups=37), nn.Hardswish(), nn.Conv2d(37, 64, 1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 70),
    ).eval()  # fmt: skip


class Fake:
    """A measurer that makes one of the candidates of each kernel the fastest, and counts its calls."""

    def __init__(self, favourite=lambda candidate: True, stop_after=None):
        self.favourite, self.stop_after, self.calls = favourite, stop_after, 0

    def __call__(self, first, candidate):
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return Measured(1.0 if self.favourite(candidate) else 3.0, 2.0)


def tune(model=None, target="x86", seconds=1e9, measure=None, **options):
    module = import_model(model or network(), EXAMPLE).module
    return tuning.tune(module, get_target(target), seconds, 1, measure, **options)


def chosen(record, target="x86", model=None):
    """The names of the candidates that a record takes for a model."""
    works = tuning.workloads(import_model(model or network(), EXAMPLE).module, get_target(target))
    return [name_of(record.choose(work.candidates)) for work in works], works


def names_of_kernels(choose, target="x86"):
    passes = tvm.transform.Sequential(optimize_passes(get_target(target), choose))
    return [name.name_hint for name in passes(import_model(network(), EXAMPLE).module).get_global_vars()]


def relative_error(got, model):
    with torch.no_grad():
        expected = model.double()(EXAMPLE.double())
    model.float()
    assert expected.std() > 0
    return float((got.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("place", [1, 4, 9])
def test_every_candidate_is_right(place, target):
    model = network()
    works = tuning.workloads(import_model(model, EXAMPLE).module, get_target(target))
    favourites = {name_of(work.candidates[min(place, len(work.candidates) - 1)]) for work in works}
    fake = Fake(lambda candidate: name_of(candidate) in favourites)
    record, coverage = tune(target=target, measure=fake)
    assert coverage.kernels == coverage.complete == coverage.changed == len(works) >= 6
    assert favourites >= set(chosen(record, target)[0])
    artifact = compile_model(model, target, EXAMPLE, threads=1, tune=0)
    assert artifact.manifest["tuning"] == coverage.to_json()
    assert relative_error(artifact(EXAMPLE), model) < 1e-5


def test_what_was_measured_decides_between_algorithms():
    direct, _ = tune(measure=Fake(lambda candidate: type(candidate).__name__ != "Winograd"))
    assert not any("winograd" in name for name in names_of_kernels(direct.choose))
    other = get_target("x86-avx2")
    module = import_model(network(), EXAMPLE).module
    fake = Fake(lambda candidate: type(candidate).__name__ == "Winograd")
    transformed, _ = tuning.tune(module, other, 1e9, 1, fake)
    assert any("winograd" in name for name in names_of_kernels(transformed.choose, "x86-avx2"))


def test_an_ordinary_compile_does_not_look_at_records():
    before = compile_model(network(), "x86", EXAMPLE, threads=1).library
    fake = Fake()
    tune(measure=fake)
    assert fake.calls > 20
    assert compile_model(network(), "x86", EXAMPLE, threads=1).library == before
    tuned = [compile_model(network(), "x86", EXAMPLE, threads=1, tune=0) for _ in range(2)]
    assert tuned[0].library == tuned[1].library != before


def test_a_second_run_measures_nothing():
    first = Fake()
    _, coverage = tune(measure=first)
    assert coverage.measured == coverage.candidates == first.calls
    second = Fake()
    assert tune(measure=second)[1] == coverage
    assert second.calls == 0


def test_an_interruption_loses_only_what_is_running():
    with pytest.raises(KeyboardInterrupt):
        tune(measure=Fake(stop_after=7))
    assert tune(seconds=0)[1].measured == 7
    rest = Fake()
    _, coverage = tune(measure=rest)
    assert rest.calls == coverage.candidates - 7 and coverage.measured == coverage.candidates


def test_the_budget_ends_measuring():
    seconds = iter(range(1000))
    fake = Fake()
    _, coverage = tune(measure=fake, seconds=4.5, clock=lambda: next(seconds))
    assert fake.calls == coverage.measured == 4 < coverage.candidates
    none = Fake()
    tune(measure=none, seconds=0)
    assert none.calls == 0


def test_damaged_and_foreign_lines_are_passed_over():
    record, coverage = tune(measure=Fake())
    before = chosen(record)[0]
    lines = record.path.read_text().splitlines()
    foreign = json.loads(lines[0]) | {"templates": "another", "seconds": 1e-9}
    other_threads = json.loads(lines[0]) | {"threads": 7, "seconds": 1e-9}
    wrong = [json.loads(lines[0]) | change for change in ({"seconds": "fast"}, {"first": -1.0}, {"first": True})]
    more = ["[]", "null", "{", "\x00", json.dumps({}), *map(json.dumps, [foreign, other_threads, *wrong])]
    record.path.write_bytes("\n".join([*lines, *more]).encode() + b'\n\xff\xfe\n{"templates": "cut of')
    again, same = tune(seconds=0)
    assert same == coverage and chosen(again)[0] == before
    # A line that was cut off does not spoil the one that follows.
    work = chosen(again)[1][0]
    again.add(work.key, work.candidates[0], Measured(1.0, 4.0))
    assert record_of(get_target("x86"), 1).measured(work.key, work.candidates[0]) == Measured(1.0, 4.0)


def test_candidates_that_do_not_work_are_not_taken_and_not_tried_again():
    record, coverage = tune(measure=lambda first, candidate: Measured(None, None))
    assert coverage.changed == 0 and coverage.measured == coverage.candidates
    fake = Fake()
    tune(measure=fake)
    assert fake.calls == 0


def test_a_small_gain_is_no_reason_to_change():
    record, coverage = tune(measure=lambda first, candidate: Measured(0.99, 1.0))
    assert coverage.changed == 0


@pytest.mark.parametrize("target", TARGETS)
def test_candidates_are_measured(target):
    works = tuning.workloads(import_model(network(), EXAMPLE).module, get_target(target))
    with Meter(get_target(target), 1) as meter:
        for work in works:
            measured = meter(work.candidates[0], work.candidates[1])
            assert measured.seconds > 0 and measured.first > 0


def test_a_candidate_that_cannot_be_built_has_no_time(monkeypatch):
    works = tuning.workloads(import_model(network(), EXAMPLE).module, get_target("x86"))

    def broken(*arguments, **options):
        raise RuntimeError("no code for this")

    monkeypatch.setattr(tvm, "compile", broken)
    with Meter(get_target("x86"), 1) as meter:
        assert meter(*works[0].candidates[:2]) == Measured(None, None)


def test_a_real_run():
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 20, 1)).eval()
    artifact = graphprune.compile(model, example_inputs=EXAMPLE, threads=1, tune=3)
    assert 0 < artifact.manifest["tuning"]["measured"] <= artifact.manifest["tuning"]["candidates"]
    assert relative_error(artifact(EXAMPLE), model) < 1e-5


@pytest.mark.parametrize("seconds", [-1, True, "60", float("nan"), [1]])
def test_a_budget_is_a_number_of_seconds(seconds):
    with pytest.raises(OptionError, match="tune must be"):
        graphprune.compile(network(), example_inputs=EXAMPLE, tune=seconds)
