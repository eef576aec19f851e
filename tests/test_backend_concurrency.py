"""Several threads load and call artifacts at the same time; results outlive what made them."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm_ffi
from torch import nn

from graphprune.backends.artifact import load
from graphprune.backends.compiler import compile_model


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Two different artifacts."""
    folder = tmp_path_factory.mktemp("concurrency")
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 32, 3))
    compile_model(convolution, "x86", torch.zeros(1, 3, 16, 16)).save(folder / "embedded.gp")
    compile_model(convolution, "x86", torch.zeros(1, 3, 16, 16), weights="separate").save(folder / "separate.gp")
    batches = nn.Sequential(nn.Flatten(), nn.Linear(768, 300), nn.Tanh(), nn.Linear(300, 11))
    compile_model(batches, "x86", torch.zeros(1, 3, 16, 16), batch_sizes=(1, 3)).save(folder / "batches.gp")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("threads", [1, 2])
def test_many_threads_load_and_call_at_once(paths, threads):
    inputs = [np.random.default_rng(seed).standard_normal((1, 3, 16, 16), np.float32) for seed in range(8)]
    shared = [load(path, threads=threads) for path in paths]
    wanted = [[artifact(x) for x in inputs] for artifact in shared]
    barrier = threading.Barrier(8)

    def work(seed):
        order = np.random.default_rng(seed)
        barrier.wait()
        wrong = 0
        for turn in range(60):
            which, x = order.integers(len(paths)), order.integers(len(inputs))
            artifact = load(paths[which], threads=threads) if turn % 10 == seed else shared[which]
            wrong += not np.array_equal(artifact(inputs[x]), wanted[which][x])
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [0] * 8


def test_calls_of_one_artifact_overlap(paths):
    """While one call is inside a kernel, another one begins and ends."""
    artifact = load(paths[2], threads=1)
    x = np.zeros((1, 3, 16, 16), np.float32)
    finished = threading.Event()
    seen = []

    def other():
        artifact(x)
        finished.set()

    def watch(name, before):
        if not seen:
            thread = threading.Thread(target=other)
            thread.start()
            seen.append(finished.wait(30))
            thread.join()

    with artifact.watched(watch):
        artifact(x)
    assert seen == [True]


def test_another_thread_is_not_watched(paths):
    artifact = load(paths[2], threads=1)
    x, names = np.zeros((1, 3, 16, 16), np.float32), []
    with artifact.watched(lambda name, before: names.append(name)):
        thread = threading.Thread(target=artifact, args=(x,))
        thread.start()
        thread.join()
        assert not names
        artifact(x)
        assert names
        names.clear()
    artifact(x)
    assert not names


@pytest.mark.parametrize("kind", ["numpy", "torch", "dlpack"])
def test_results_stay_when_the_artifact_is_gone(paths, kind):
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
    given = {"numpy": x, "torch": torch.from_numpy(x), "dlpack": tvm_ffi.from_dlpack(x)}[kind]
    for path in paths:
        artifact = load(path)
        result = artifact(given)
        assert isinstance(result, {"numpy": np.ndarray, "torch": torch.Tensor, "dlpack": tvm_ffi.Tensor}[kind])
        first = np.array(np.from_dlpack(result))
        artifact(np.zeros_like(x))
        del artifact
        gc.collect()
        load(path)(np.ones_like(x))  # may get the same memory
        np.testing.assert_array_equal(np.from_dlpack(result), first)


def test_results_are_the_callers(paths):
    """What is done to a result changes no later one."""
    artifact = load(paths[0])
    x = np.ones((1, 3, 16, 16), np.float32)
    first = artifact(x)
    kept = first.copy()
    first[...] = np.nan
    np.testing.assert_array_equal(artifact(x), kept)


class Constants(nn.Module):
    """Returns a buffer as it is, and an input as it is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(3000.0).reshape(30, 100))

    def forward(self, x):
        return x + 1, self.table, x


@pytest.mark.parametrize("weights", ["embedded", "separate"])
def test_constants_that_are_returned_are_the_callers_too(weights):
    artifact = compile_model(Constants(), "x86", torch.zeros(1, 4), weights=weights)
    x = np.ones((1, 4), np.float32)
    first = artifact(x)
    first[1][...] = np.nan
    first[0][...] = np.nan
    again = artifact(x)
    np.testing.assert_array_equal(again[1], np.arange(3000.0, dtype=np.float32).reshape(30, 100))
    np.testing.assert_array_equal(again[0], np.full((1, 4), 2, np.float32))


def libraries():
    return sum("/library.so" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_artifacts_that_are_gone_are_unloaded(paths):
    x = np.ones((1, 3, 16, 16), np.float32)
    load(paths[0])(x)
    gc.collect()
    before = libraries()
    for _ in range(5):
        result = load(paths[0])(x)
    gc.collect()
    assert libraries() == before
    assert np.isfinite(result).all()


@pytest.mark.parametrize("folder", [False, True])
def test_loading_while_it_is_replaced(tmp_path, folder):
    x = np.ones((1, 64), np.float32)
    both = [compile_model(nn.Linear(64, 64), "x86", torch.zeros(1, 64), weights="separate") for _ in range(2)]
    wanted = [artifact(x).tobytes() for artifact in both]
    assert wanted[0] != wanted[1]
    place, stop = tmp_path / "model", threading.Event()
    both[0].save(place, folder=folder)

    def replace():
        turn = 0
        while not stop.is_set():
            turn += 1
            both[turn % 2].save(place, folder=folder)

    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(replace)
        try:
            found = {wanted.index(load(place, threads=1)(x).tobytes()) for _ in range(200)}
        finally:
            stop.set()
        saving.result()
    assert found == {0, 1}
