"""Time per kernel, what is known of kernels beforehand, and warnings about those without a schedule."""

import json
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from tvm import te, tirx

import graphprune
from graphprune.backends import peak as peaks
from graphprune.backends.artifact import load
from graphprune.backends.compiler import compile_model
from graphprune.backends.facts import examine, operations
from graphprune.backends.peak import peak
from graphprune.backends.prediction import Facts, Peak, predict
from graphprune.errors import InputError, SlowKernelWarning
from helpers import import_torchvision


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine whose peak is known: measuring it is tested once."""
    monkeypatch.setattr("graphprune.backends.profile.peak", lambda target, threads: Peak(1e11, 2e10))


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    return torch.randn(1, 3, 20, 20)


@pytest.fixture(scope="module")
def artifact(inputs):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 21, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(21, 21, 3, groups=21),
        *(layer for _ in range(3) for layer in (nn.Conv2d(21, 21, 5, padding=2), nn.ReLU())),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(21, 30), nn.LayerNorm(30), nn.Softmax(-1),
    ).eval()  # fmt: skip
    return compile_model(model, "x86-avx2", inputs, threads=1)


def test_every_kernel_has_a_row(artifact, inputs):
    profile = artifact.profile(inputs, repeats=3)
    rows = {row.description: row for row in profile.kernels}
    assert {row.name for row in profile.kernels} == set(artifact.manifest["kernels"])
    # of each row of 8 results, tiles of 3 compute 9
    shared = rows["convolution 5x5 24->24 8x8 + add + relu"]
    assert shared.calls == 3 and shared.macs == 3 * 25 * 24 * 24 * 8 * 9 and shared.schedule == "convolution"
    assert shared.bytes == 3 * 4 * (2 * 24 * 64 + 25 * 24 * 24 + 24)
    assert rows["depthwise 3x3 24 8x8 + add"].macs == 9 * 24 * 64
    assert rows["max_pool 2x2 24 10x10"].macs == 0 and rows["max_pool 2x2 24 10x10"].peak_share is None
    assert any(name.startswith("layer_norm") for name in rows)
    times = [row.milliseconds for row in profile.kernels]
    assert times == sorted(times, reverse=True) and min(times) > 0 and profile.milliseconds > 0
    assert sum(row.share for row in profile.kernels) == pytest.approx(1)
    assert all(row.predicted > 0 for row in profile.kernels)
    assert shared.peak_share == pytest.approx(shared.macs / shared.milliseconds / 1e8)


def test_targets_of_ones_own_have_profiles() -> None:
    own = {"base": "x86-avx2", "name": "my-board", "accumulators": 10}
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval(), torch.randn(1, 3, 9, 9)
    profile = compile_model(model, own, x).profile(x)
    assert [row for row in profile.kernels if row.macs] and "my-board" in str(profile)


def test_profile_for_people_and_for_programs(artifact, inputs):
    profile = artifact.profile(inputs, repeats=2)
    text = str(profile)
    assert "convolution 5x5 24->24 8x8 + add + relu" in text and "predicted" in text and "x86-avx2, 1 thread" in text
    found = json.loads(profile.to_json())
    assert found["threads"] == 1 and found["peak"] == {"macs": 1e11, "bytes": 2e10}
    assert [row["name"] for row in found["kernels"]] == [row.name for row in profile.kernels]


def test_profile_leaves_no_trace(artifact, inputs):
    before = artifact(inputs)
    calls = []
    with pytest.raises(RuntimeError), artifact.watched(lambda name, first: calls.append(name)):
        artifact(inputs)
        raise RuntimeError
    seen = len(calls)
    assert seen > 0 and torch.equal(artifact(inputs), before) and len(calls) == seen
    artifact.profile(inputs, repeats=1)
    assert len(calls) == seen
    with pytest.raises(InputError, match="repeats"):
        artifact.profile(inputs, repeats=0)
    with pytest.raises(InputError, match="expected 1 input"):
        artifact.profile()


def test_profile_of_a_saved_artifact(artifact, inputs, tmp_path):
    artifact.save(tmp_path / "net.gp")
    again = load(tmp_path / "net.gp", threads=1)
    names = [{row.description for row in a.profile(inputs, repeats=1).kernels} for a in (artifact, again)]
    assert names[0] == names[1]
    del again.manifest["kernels"]  # as older versions wrote it
    profile = again.profile(inputs, repeats=1)
    assert all(row.predicted is None and row.description == row.name for row in profile.kernels)
    assert profile.kernels[0].name in str(profile)


def test_kernels_are_described_by_their_sizes():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 8, 2, 2)).eval()
    found = [
        facts["description"]
        for example, module in ((torch.randn(1, 16, 56, 56), model), (torch.randn(1, 24, 32), Self(attention)))
        for facts in compile_model(module, "x86-avx2", example).manifest["kernels"].values()
    ]
    assert "winograd 3x3 16->16 56x56 + add" in found
    assert any(text.startswith("attention 4 heads 24x32x8") for text in found)
    assert any(text.startswith("linear 24x32x96") for text in found)


class Self(nn.Module):
    """Attention of a tensor to itself."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_names_of_operators():
    assert operations("fused_convolution16_add2_relu8") == ["convolution", "add", "relu"]
    assert operations("fused_layer_norm2_tir_clip1_broadcast_to12") == ["layer_norm", "clip", "broadcast_to"]
    assert operations("adaptive_avg_pool2d1") == ["adaptive_avg_pool2d"]
    assert operations("something_else") == ["something", "else"]


def test_predictions_follow_the_work():
    small = Facts("", macs=10**6, steps=10**6, library_calls=0, bytes=1000, schedule="convolution")
    large = replace(small, macs=10**9, steps=10**9)
    moved = replace(small, macs=0, steps=1000, bytes=10**9, schedule="generic")
    assert predict(small) < predict(large) < predict(replace(large, schedule="generic"))
    assert predict(moved) < predict(replace(moved, library_calls=10**9))
    assert predict(moved, Peak(1e12, 1e9)) == pytest.approx(1, rel=0.01)
    assert predict(large, Peak(1e12, 1e9)) < predict(large, Peak(1e11, 1e9))


def test_peak_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "graphprune" / "peak.json"
    path.parent.mkdir()
    path.write_text("not JSON")
    first = peak("x86-avx2", 1)
    assert first.macs > 1e8 and first.bytes > 1e8 and len(json.loads(path.read_text())) == 1
    monkeypatch.setattr(peaks, "_measure", lambda target, threads: Peak(1.0, 2.0))
    assert peak("x86-avx2", 1) == first and peak("x86-avx2", 2) == Peak(1.0, 2.0)
    assert threading.active_count() < 20 and len(json.loads(path.read_text())) == 2


def test_a_peak_that_cannot_be_measured_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def broken(target, threads):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(peaks, "_measure", broken)
    with pytest.raises(RuntimeError, match="no compiler here"):
        peak("x86-avx2", 1)
    assert not (tmp_path / "graphprune").exists()


class Correlation(nn.Module):
    """A convolution with one input by the other: only constant weights are packed for a schedule."""

    def forward(self, x, weight):
        return functional.conv2d(x, weight, padding=1).relu()


def test_functions_of_the_c_library_are_slow():
    """Functions that models may call have vector forms; a kernel from elsewhere may still call the library."""
    x, y = te.placeholder((64, 512), name="x"), te.placeholder((64, 512), name="y")
    powers = te.compute((64, 512), lambda *i: tirx.sin(tirx.pow(x(*i), y(*i))), name="powers")
    facts = examine(te.create_prim_func([x, y, powers]), "power", "generic")
    assert facts.library_calls == 2 * 64 * 512
    assert predict(facts) > 2 * predict(replace(facts, library_calls=0))


@pytest.mark.parametrize("target", ["x86", "x86-avx2"])
def test_operators_without_a_schedule_are_named_once(target):
    torch.manual_seed(0)
    inputs = torch.randn(1, 16, 32, 32), torch.randn(24, 16, 3, 3)
    with pytest.warns(SlowKernelWarning, match=r"artifact.profile.*\n.*% of the time: conv2d") as caught:
        artifact = graphprune.compile(Correlation(), target, example_inputs=inputs)
    (warning,) = (warning for warning in caught if warning.category is SlowKernelWarning)
    assert warning.filename == __file__
    want = Correlation()(*(tensor.double() for tensor in inputs))
    assert want.std() > 0.1
    torch.testing.assert_close(artifact(*inputs).double(), want, rtol=1e-5, atol=1e-5)


def test_models_with_schedules_do_not_warn():
    torchvision = import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowKernelWarning)
        graphprune.compile(torchvision.models.resnet18().eval(), example_inputs=torch.randn(1, 3, 64, 64))
        # On the generic schedule, but too small to matter.
        graphprune.compile(Correlation(), example_inputs=(torch.randn(1, 1, 6, 6), torch.randn(1, 1, 3, 3)))
