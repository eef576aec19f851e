"""Weights beside the code: the same results, stored once, mapped instead of copied."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from graphprune.backends import weights
from graphprune.backends.artifact import load
from graphprune.backends.compiler import compile_model
from graphprune.errors import OptionError
from helpers import randomise


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(40, 51, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(51, 300), nn.GELU(), nn.Linear(300, 7),
    )  # fmt: skip
    return randomise(model.eval())


X = torch.linspace(-1, 1, 3 * 12 * 12).reshape(1, 3, 12, 12)


@pytest.fixture(scope="module")
def both():
    return {kind: compile_model(network(), "x86", X, weights=kind) for kind in ("embedded", "separate")}


def test_the_results_are_the_same_bit_by_bit(both):
    embedded, separate = both["embedded"], both["separate"]
    assert torch.equal(embedded(X), separate(X))
    torch.testing.assert_close(separate(X), network()(X), rtol=1e-4, atol=1e-5)
    sizes = {kind: {name: len(data) for name, data in artifact._members.items()} for kind, artifact in both.items()}
    moved = sizes["embedded"]["library.so"] - sizes["separate"]["library.so"]
    assert 0.9 * moved < sizes["separate"]["weights.bin"] < 1.1 * moved
    total = sum(parameter.numel() * 4 for parameter in network().parameters())
    assert sizes["separate"]["weights.bin"] > 0.8 * total
    assert embedded.manifest["fingerprint"] == separate.manifest["fingerprint"]


def test_a_loaded_file_gives_the_same(both, tmp_path):
    for folder in (False, True):
        both["separate"].save(tmp_path / f"net{folder}", folder=folder)
        assert torch.equal(load(tmp_path / f"net{folder}")(X), both["embedded"](X))


def test_batch_sizes_share_their_weights(both):
    artifact = compile_model(network(), "x86", X, weights="separate", batch_sizes=(1, 4))
    assert set(artifact.manifest["weights"]["functions"]) == {"main_1", "main_4"}
    assert len(artifact._members["weights.bin"]) < 1.7 * len(both["separate"]._members["weights.bin"])
    many = torch.randn(7, 3, 12, 12)
    torch.testing.assert_close(artifact(many), network()(many), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(both, precision):
    halves = {kind: compile_model(network(), "x86", X, weights=kind, precision=precision) for kind in both}
    assert torch.equal(halves["embedded"](X), halves["separate"](X))
    assert len(halves["separate"]._members["weights.bin"]) < 0.6 * len(both["separate"]._members["weights.bin"])


def test_a_model_without_large_weights():
    artifact = compile_model(nn.Linear(2, 2), "x86", torch.zeros(1, 2), weights="separate")
    assert artifact.manifest["weights"] == {"functions": {}, "tensors": []}
    assert artifact(torch.ones(1, 2)).shape == (1, 2)


def test_other_words_are_refused():
    with pytest.raises(OptionError, match="'embedded' or 'separate', not 'apart'"):
        compile_model(nn.Linear(2, 2), "x86", torch.zeros(1, 2), weights="apart")
    device = {"base": "x86-avx2", "name": "board", "device": "sm_80"}
    with pytest.raises(OptionError, match="board lie on its device"):
        compile_model(nn.Linear(2, 2), device, torch.zeros(1, 2), weights="separate")


def test_weights_lie_in_the_file(tmp_path):
    """A process that loads an artifact maps its weights: they are no memory of its own."""
    wide = compile_model(nn.Linear(2048, 4096, bias=False), "x86", torch.zeros(1, 2048), weights="separate")
    wide.save(tmp_path / "wide.gp")
    code = """
import json, sys
import numpy as np
from graphprune.backends.artifact import load
artifact = load(sys.argv[1], threads=1)
artifact(np.ones((1, 2048), np.float32))
found, inside = {"size": 0, "private": 0}, False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        inside = line.rstrip().endswith("wide.gp")
    elif inside and line.startswith("Size:"):
        found["size"] += int(line.split()[1])
    elif inside and line.startswith("Private_Dirty:"):
        found["private"] += int(line.split()[1])
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "wide.gp"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["size"] * 1024 >= 2048 * 4096 * 4 and found["private"] == 0


def test_the_layout_is_aligned_and_whole():
    tensors = [np.arange(5, dtype=np.int8), np.ones((3, 7), np.float32), np.zeros((0, 2), np.float16)]
    table, data = weights.layout(tensors, {"main": [1, 0]})
    assert all(entry["offset"] % 64 == 0 for entry in table["tensors"]) and table["functions"] == {"main": [1, 0]}
    for tensor, found in zip(tensors, weights.arrays(table, data), strict=True):
        np.testing.assert_array_equal(found, tensor)
        assert found.dtype == tensor.dtype and found.ctypes.data % 64 == 0
