"""Least squares against numpy, elimination against refits of all that is left, chosen by brute force."""

import itertools
import tracemalloc
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
from calibration import structured
from graphprune import effort, elimination
from graphprune.elimination import RIDGE, elimination_scores
from graphprune.errors import DataError
from graphprune.frontends.torch.lockstep import Walk
from graphprune.reconstruction import Moments, fit
from graphprune.refitting import fit_rows, moments_of
from graphprune.statistics import Products
from helpers import randomise


def problem(seed: int, groups: int = 2, rows: int = 60, features: int = 5, channels: int = 3):
    """Correlated features, targets that depend on them, and weights that are off."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(groups, rows, features)) @ random.normal(size=(groups, features, features)) + 2.0
    y = x @ random.normal(size=(groups, features, channels)) + random.normal(size=(groups, 1, channels)) * 3
    y += 0.3 * random.normal(size=y.shape)
    return x, y, random.normal(size=(groups, features, channels)), random.normal(size=(groups, channels))


def moments(x: np.ndarray, y: np.ndarray, pieces: int = 1) -> Moments:
    found = Moments.zero(x.shape[0], x.shape[2], y.shape[2])
    for part in np.array_split(np.arange(x.shape[1]), pieces):
        found.add(x[:, part], y[:, part])
    return found


def squared(x, y, weight, bias) -> np.ndarray:
    """The mean squared error, (groups, channels), the long way."""
    return np.square(x @ weight + bias[:, None] - y).mean(1)


def test_errors_are_those_of_the_rows():
    x, y, weight, bias = problem(0)
    for pieces in (1, 4):
        np.testing.assert_allclose(moments(x, y, pieces).errors(weight, bias), squared(x, y, weight, bias), rtol=1e-9)


@pytest.mark.parametrize("with_bias", [True, False])
def test_fit_is_least_squares(with_bias, monkeypatch):
    """Without a ridge: what numpy finds, group by group."""
    monkeypatch.setattr("graphprune.reconstruction.RIDGES", (1e-12,))
    x, y, weight, bias = problem(1)
    bias = bias * with_bias
    found = fit(moments(x, y), moments(x, y), weight, bias, with_bias)
    for group in range(2):
        wide = np.hstack([x[group], np.ones((60, 1))]) if with_bias else x[group]
        expected = np.linalg.lstsq(wide, y[group], rcond=None)[0]
        np.testing.assert_allclose(found.weight[group], expected[:5], rtol=1e-5, atol=1e-6)
        if with_bias:
            np.testing.assert_allclose(found.bias[group], expected[5], rtol=1e-5, atol=1e-5)
    assert found.better and found.after < 0.5 * found.before


def test_bias_alone():
    x, y, weight, bias = problem(2)
    found = fit(moments(x, y), moments(x, y), weight, bias, True, solve=False)
    assert np.array_equal(found.weight, weight)
    np.testing.assert_allclose(found.bias, (y - x @ weight).mean(1))


@dataclass
class Table:
    """Rows that are there as arrays, (groups, rows, ...)."""

    x: np.ndarray
    y: np.ndarray
    samples: int

    @property
    def positions(self) -> int:
        return self.x.shape[1]

    def features(self, rows):
        return self.x[:, rows].astype(np.float32)

    def targets(self, rows):
        return self.y[:, rows].astype(np.float32)


@pytest.mark.parametrize("solve", [True, False])
def test_every_fifth_sample_checks_what_the_others_gave(solve, monkeypatch):
    """Three batches of four samples, five rows each: numpy on the rows by hand."""
    monkeypatch.setattr("graphprune.reconstruction.RIDGES", (1e-9,))
    x, y, weight, bias = problem(4)
    tables = [Table(part, goal, 4) for part, goal in zip(np.split(x, 3, 1), np.split(y, 3, 1), strict=True)]
    found = fit_rows(tables, weight, bias, True, solve)
    held = np.arange(60) // 5 % 5 == 4
    assert held.sum() == 10
    expected = np.where(solve, 0.0, weight)
    offset = (y - x @ weight)[:, ~held].mean(1)
    for group in range(2) if solve else ():
        wide = np.hstack([x[group, ~held], np.ones((50, 1))])
        solution = np.linalg.lstsq(wide, y[group, ~held], rcond=None)[0]
        expected[group], offset[group] = solution[:-1], solution[-1]
    before, after = (squared(x[:, held], y[:, held], *one) for one in ((weight, bias), (expected, offset)))
    wins = after < before
    assert wins.sum() >= 5 and (wins.all() or not solve)
    offset = np.where(wins, offset, bias)
    np.testing.assert_allclose(found.weight, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.bias, offset, rtol=1e-3, atol=1e-3)
    spread = y[:, held].var(1)
    assert found.before == pytest.approx((before / spread).mean(), rel=1e-3)
    assert found.after == pytest.approx((np.minimum(before, after) / spread).mean(), rel=1e-2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=5))
def test_samples_are_fitted_on_or_held_out(batches):
    """All rows of a sample; where there are fewer than five samples, row by row."""
    sizes = [samples * each for samples, each in batches]
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    tables = [
        Table(np.zeros((1, rows.size, 0)), 2.0 ** rows[None, :, None], samples)
        for rows, (samples, _) in zip(numbers, batches, strict=True)
    ]
    total = sum(samples for samples, _ in batches)
    unit = np.repeat(np.arange(total), np.repeat(*np.array(batches).T[::-1])) if total >= 5 else np.arange(sum(sizes))
    for moments, rows in zip(moments_of(tables, (1, 0, 1)), (unit % 5 != 4, unit % 5 == 4), strict=True):
        assert moments.rows == rows.sum() and moments.y.item() == (2.0 ** np.flatnonzero(rows)).sum()


def test_a_bias_needs_no_products_of_features():
    """Moments of 3000 features would take 72 MB each."""
    random = np.random.default_rng(0)
    table = Table(random.normal(size=(1, 40, 3000)), random.normal(size=(1, 40, 2)), 40)
    weight, bias = random.normal(size=(1, 3000, 2)), np.zeros((1, 2))
    tracemalloc.start()
    found = fit_rows([table], weight, bias, True, solve=False)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert found.better and found.weight is weight and found.bias.shape == (1, 2)


def test_too_few_rows():
    x, y, weight, bias = problem(5, rows=4)
    assert all(fit_rows(tables, weight, bias, True, True) is None for tables in ([], [Table(x, y, 4)]))


def test_nothing_to_fit():
    x, y, weight, bias = problem(3)
    with pytest.raises(DataError, match="no rows"):
        fit(moments(x, y), Moments.zero(2, 5, 3), weight, bias, True)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 40),
    rank=st.integers(0, 6),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    with_bias=st.booleans(),
    solve=st.booleans(),
)
def test_never_worse_on_what_is_checked(seed, rows, rank, scale, with_bias, solve):
    """Few rows, deficient ranks, dead features, any scale: no channel gets worse on the rows that choose."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(1, rank, 6)) if rank else np.zeros((1, 0, 6))
    x, other = (random.normal(size=(1, n, mix.shape[1])) @ mix * scale for n in (rows, 7))
    y, target = random.normal(size=(1, rows, 4)), random.normal(size=(1, 7, 4))
    weight, bias = random.normal(size=(1, 6, 4)) / scale, random.normal(size=(1, 4)) * with_bias
    found = fit(moments(x, y), moments(other, target), weight, bias, with_bias, solve)
    before, after = squared(other, target, weight, bias), squared(other, target, found.weight, found.bias)
    assert (after <= before * (1 + 1e-6) + 1e-9).all()
    assert found.after <= found.before and np.isfinite(found.weight).all()


# ---- elimination --------------------------------------------------------------------------------------------


def reader(seed: int, channels: int, kernel: int, unit=None) -> tuple[elimination._Reader, np.ndarray, np.ndarray]:
    """A reader of correlated channels, the loaded products of its features, and its weight."""
    random = np.random.default_rng(seed)
    size = channels * kernel
    x = random.normal(size=(200, size)) @ random.normal(size=(size, size))
    second = x.T @ x / 200
    weight = random.normal(size=(1, channels, kernel, 3))
    products = Products(weight, second[None], 1)
    unit = np.arange(channels) if unit is None else unit
    loaded = second + np.eye(size) * (RIDGE * np.trace(second) / size + 1e-12)
    flat = weight.reshape(size, 3)
    return elimination._reader("w", products, 0, unit), loaded, flat / np.sqrt(np.trace(flat.T @ second @ flat))


def refitted(loaded: np.ndarray, weight: np.ndarray, gone: np.ndarray) -> tuple[np.ndarray, float]:
    """The best weights without some features, and the error that is left, by solving for all others anew."""
    left = np.setdiff1d(np.arange(len(weight)), gone)
    best = np.zeros_like(weight)
    best[left] = np.linalg.solve(loaded[np.ix_(left, left)], loaded[left] @ weight)
    apart = weight - best
    return best, float(np.trace(apart.T @ loaded @ apart))


@pytest.mark.parametrize("kernel", [1, 4])
def test_costs_and_drops_are_refits(kernel):
    """All pairs and triples of channels, dropped one after the other or at once."""
    for first, second, third in itertools.permutations(range(4), 3):
        own, loaded, weight = reader(0, 5, kernel)
        features = lambda *channels: np.concatenate([np.arange(c * kernel, (c + 1) * kernel) for c in channels])  # noqa: E731
        total = own.costs(np.array([[first]]))[0]
        np.testing.assert_allclose(total, refitted(loaded, weight, features(first))[1], rtol=1e-6)
        own.drop(np.array([first]))
        best, error = refitted(loaded, weight, features(first, second))
        np.testing.assert_allclose(total + own.costs(np.array([[second]]))[0], error, rtol=1e-6)
        total += own.costs(np.array([[second, third]]))[0]
        own.drop(np.array([second, third]))
        best, error = refitted(loaded, weight, features(first, second, third))
        np.testing.assert_allclose(total, error, rtol=1e-6)
        np.testing.assert_allclose(own.weight, best, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_greedy(seed, monkeypatch):
    """Every step takes the unit without which the refit of all readers is best; units of one and of two channels."""
    unit = np.array([0, 1, 2, 3, 4, 0])
    readers = [reader(seed, 6, 2, unit), reader(seed + 10, 5, 1)]
    monkeypatch.setattr(elimination, "_readers", lambda *_: iter([own for own, _, _ in readers]))
    units = SimpleNamespace(family=np.zeros(5, int), free=np.ones(5, bool), count=5, of_class=np.arange(5))
    order, costs = elimination._eliminated(None, SimpleNamespace(trial=None), units, 0)
    problems = [(reader(seed, 6, 2, unit), 2), (reader(seed + 10, 5, 1), 1)]

    def error(gone: list[int]) -> float:
        total = 0.0
        for (own, loaded, weight), kernel in problems:
            channels = np.flatnonzero(np.isin(own.unit, gone))
            features = (channels[:, None] * kernel + np.arange(kernel)).ravel()
            total += refitted(loaded, weight, features)[1]
        return total

    gone: list[int] = []
    for step, found in enumerate(order[:-1]):
        left = [number for number in range(5) if number not in gone]
        assert found == min(left, key=lambda number: error([*gone, number])), f"step {step}"
        gone.append(int(found))
        if step == 0:
            np.testing.assert_allclose(costs[0], error(gone), rtol=1e-6)
    assert sorted(order) == list(range(5)) and (np.diff(costs) >= 0).all()


def test_what_is_tried_sets_the_scale():
    """Costs up to a point that was tried add up to what came out there."""
    costs = elimination._scaled(np.array([1.0, 1.0, 2.0, 4.0]), {2: 0.3, 3: 0.5})
    np.testing.assert_allclose(np.cumsum(costs), [0.15, 0.3, 0.5, 0.5 + 4 * 0.5 / 4])
    assert elimination._scaled(np.array([1.0, 2.0]), {}).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("sizes", [[64], [16] * 4, [5] * 8])
def test_what_a_trial_may_take_does_not_depend_on_the_size_of_batches(monkeypatch, sizes):
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
    analysis = graphprune.analyze(net, torch.randn(2, 10))
    monkeypatch.setattr(effort, "WORK", 17 * (10 * 20 + 20 * 4))
    statistics = analysis.collect({"products"}, [torch.randn(size, 10) for size in sizes])
    assert sum(len(batch.args[0]) for batch in statistics.trial._batches) == 17


def test_trials_are_runs_of_the_model():
    """The trial with replaced weights is the relative error of a model that has them."""
    model = randomise(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)))
    data = [structured(40, 6)]
    statistics = graphprune.analyze(model, data[0]).collect(("products",), data)
    other = np.random.default_rng(0).normal(size=(1, 9, 4))
    error = statistics.trial({"2.weight": other})
    with torch.no_grad():
        expected = model(data[0])
        found = model[1](model[0](data[0])) @ torch.from_numpy(other[0]).float() + model[2].bias
    np.testing.assert_allclose(error, float((found - expected).square().sum() / expected.square().sum()), rtol=1e-4)
    assert statistics.trial({}) == 0.0
    x = model[1](model[0](data[0])).detach().double().numpy()
    np.testing.assert_allclose(statistics.products["2.weight"].second[0], x.T @ x / 40, rtol=1e-5, atol=1e-6)


def test_scores_tell_what_was_looked_at():
    model = randomise(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)))
    data, told = [structured(40, 6)], []
    analysis = graphprune.analyze(model, data[0])
    statistics = analysis.collect(("products",), data, None, lambda *what: told.append(what))
    first = elimination_scores(analysis, statistics, analysis.free)
    assert elimination_scores(analysis, statistics, analysis.free) is first, "worked out twice"
    assert np.isfinite(first[analysis.free]).all() and first[analysis.free].min() > 0
    assert ("try channels", 0, 1) in told and ("collect statistics", 0, None) in told


# ---- runs in step -------------------------------------------------------------------------------------------


def counting(show):
    for number in range(3):
        show(number)


def test_walks():
    first, second = Walk(counting), Walk(counting)
    assert [(first.advance(), second.advance()) for _ in range(4)] == [(0, 0), (1, 1), (2, 2), (None, None)]
    assert first.advance() is None, "beyond its end"
    first.close(), second.close()


def test_what_a_walk_raises_is_raised_where_it_is_led():
    def failing(show):
        show(1)
        raise ZeroDivisionError("here")

    walk = Walk(failing)
    assert walk.advance() == 1
    with pytest.raises(ZeroDivisionError, match="here"):
        walk.advance()
    walk.close()


def test_a_walk_that_is_closed_cleans_up_and_leaves_no_thread():
    done = []

    def tidy(show):
        try:
            show(1)
            try:
                show(2)
            except Exception:  # what models do
                done.append("swallowed")
        finally:
            done.append("tidy")

    walk = Walk(tidy)
    walk.advance(), walk.advance()
    walk.close()
    assert done == ["tidy"] and not walk._thread.is_alive()
    Walk(tidy).close()
    assert done == ["tidy"], "a walk that was never led does not start"
