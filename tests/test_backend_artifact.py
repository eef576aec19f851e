"""Artifacts: calling, saving, loading in a process without the compiler, and every way a file can be wrong."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.backends import compiler, linker, runtime, targets
from graphprune.backends.artifact import load
from graphprune.backends.compiler import compile_model
from graphprune.errors import (
    CompileError,
    ExampleInputsError,
    FileFormatError,
    InputError,
    TargetError,
    TraceError,
    UnsupportedModelError,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())

    def forward(self, image, scale):
        y = self.body(image) * scale
        return {"features": y, "pooled": (y.mean((2, 3)), None)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    return {"image": torch.randn(1, 3, 8, 8), "scale": torch.rand(1, 5, 1, 1)}


@pytest.fixture(scope="module")
def artifact(model, inputs):
    return compile_model(model, "x86", inputs, metadata={"plan": "none"})


@pytest.fixture(scope="module")
def path(artifact, tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "net.gp"
    artifact.save(path)
    return path


def test_output_structure_names_and_kinds(model, inputs, artifact):
    with torch.no_grad():
        want = model(**inputs)
    got = artifact(inputs["image"], scale=inputs["scale"])
    assert list(got) == ["features", "pooled"] and got["pooled"][1] is None
    torch.testing.assert_close(got["features"], want["features"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got["pooled"][0], want["pooled"][0], rtol=1e-4, atol=1e-5)
    arrays = artifact(*(value.numpy() for value in inputs.values()))
    assert isinstance(arrays["features"], np.ndarray)
    np.testing.assert_array_equal(arrays["features"], got["features"].numpy())
    assert [spec.name for spec in artifact.inputs] == ["image", "scale"]
    assert artifact.outputs[0].name == "features" and artifact.outputs[0].shape == (1, 5, 6, 6)
    assert artifact.manifest["source"] == {"plan": "none"} and artifact.target in repr(artifact)


def test_inputs_in_any_memory_layout(inputs, artifact):
    want = artifact(**inputs)["features"]
    image = inputs["image"].numpy()
    room = np.empty(image.size + 1, np.float32)[1:].reshape(image.shape)
    room[...] = image
    read_only = image.copy()
    read_only.flags.writeable = False
    transposed = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for variant in (room, read_only, transposed):
        got = artifact(variant, inputs["scale"].numpy())["features"]
        np.testing.assert_array_equal(got, want.numpy())
    gradient = inputs["image"].clone().requires_grad_()
    assert torch.equal(artifact(gradient, inputs["scale"])["features"], want)


def test_results_are_not_overwritten_by_the_next_call(inputs, artifact):
    first = artifact(**inputs)["features"]
    kept = first.clone()
    artifact(inputs["image"] * 2, inputs["scale"])
    assert torch.equal(first, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image, scale: ((image,), {}), "expected 2 input"),
        (lambda image, scale: ((image, scale, scale), {}), "expected 2 input"),
        (lambda image, scale: ((image,), {"scales": scale}), "scales"),
        (lambda image, scale: ((image, scale), {"scale": scale}), "expected 2 input"),
        (lambda image, scale: ((image[:, :, 1:], scale), {}), r"'image' must be float32\[1, 3, 8, 8\], got"),
        (lambda image, scale: ((image, scale.double()), {}), "'scale' must be float32.* got float64"),
        (lambda image, scale: ((image, [1.0]), {}), "'scale' must be a tensor"),
    ],
)
def test_wrong_inputs(inputs, artifact, change, message):
    args, kwargs = change(**inputs)
    with pytest.raises(InputError, match=message):
        artifact(*args, **kwargs)


def test_same_model_same_bytes(model, inputs, artifact):
    again = compile_model(model, "x86", inputs, metadata={"plan": "none"})
    assert again.manifest == artifact.manifest and again._members == artifact._members


def test_the_fingerprint_is_that_of_the_numbers_and_the_structure(model, inputs, artifact):
    found = artifact.manifest["fingerprint"]
    changed = copy.deepcopy(model)
    changed.body[0].weight.data[0, 0, 0, 0] += 1e-3
    assert compile_model(changed, "x86", inputs).manifest["fingerprint"] != found
    other = copy.deepcopy(model)
    other.body[2] = nn.Identity()
    assert compile_model(other, "x86", inputs).manifest["fingerprint"] != found
    assert compile_model(model, "x86-avx2", inputs).manifest["fingerprint"] == found


def test_latency_is_stored_when_it_was_measured(model, inputs, tmp_path):
    artifact = compile_model(model, "x86", inputs, threads=1)
    assert "latency" not in artifact.manifest
    found = artifact.measure(**inputs, repeats=5)
    assert found["threads"] == 1 and found["repeats"] == 5 and found["shapes"] == [[1, 3, 8, 8], [1, 5, 1, 1]]
    assert 0 < found["fastest"] <= found["milliseconds"]
    artifact.save(tmp_path / "timed.gp")
    assert load(tmp_path / "timed.gp").manifest["latency"] == found
    with pytest.raises(InputError, match="repeats"):
        artifact.measure(**inputs, repeats=0)


def test_the_plan_of_a_pruned_model_travels(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(128, 2))
    x = torch.randn(1, 3, 8, 8)
    slim = graphprune.optimize(model, 0.4, example_inputs=x)
    graphprune.compile(slim, example_inputs=x).save(tmp_path / "slim.gp")
    plan = load(tmp_path / "slim.gp").plan
    assert plan is not None and plan.to_json() == graphprune.plan_of(slim).to_json()
    torch.testing.assert_close(plan.apply(model)(x), slim(x))
    assert graphprune.compile(model, example_inputs=x).plan is None


def test_loads_without_the_compiler(path, inputs, artifact, tmp_path):
    np.savez(tmp_path / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    code = """
import sys
import numpy as np
from graphprune.backends.artifact import load
artifact = load(sys.argv[1], threads=1)
result = artifact(**np.load(sys.argv[2]))
assert "tvm" not in sys.modules
import tvm
again = artifact(**np.load(sys.argv[2]))
assert (result["features"] == again["features"]).all() and artifact.threads == 1
np.save(sys.argv[3], result["features"])
"""
    out = tmp_path / "out.npy"
    subprocess.run([sys.executable, "-c", code, path, tmp_path / "inputs.npz", out], check=True)
    np.testing.assert_array_equal(np.load(out), artifact(**inputs)["features"].numpy())
    assert path.stat().st_size == artifact.size


def test_damaged_files(path, tmp_path):
    data = path.read_bytes()
    wrong = tmp_path / "wrong.gp"
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for content in (b"", b"text", data[: len(data) // 2], bytes(flipped)):
        wrong.write_bytes(content)
        with pytest.raises(FileFormatError, match="compile the model again"):
            load(wrong)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.gp")


def test_other_processors(path, monkeypatch):
    def loaded(library):
        raise AssertionError("code was loaded")

    monkeypatch.setattr(runtime, "_load", loaded)
    with pytest.raises(AssertionError):
        load(path)
    monkeypatch.setattr(targets, "host_features", lambda: frozenset({"sse2"}))
    with pytest.raises(TargetError, match="lacks .*avx2"):
        load(path)
    monkeypatch.setattr(targets, "host_architecture", lambda: "aarch64")
    with pytest.raises(TargetError, match="lacks x86_64 instructions"):
        load(path)


def test_model_keeps_its_mode():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2).eval(), nn.Dropout(0.5)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    got = compile_model(model, "x86", torch.randn(1, 1, 4, 4))(torch.ones(1, 1, 4, 4))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(got, model.eval()(torch.ones(1, 1, 4, 4)))


def test_exported_program_needs_no_examples(model, inputs, artifact):
    program = torch.export.export(model, (), inputs)
    assert torch.equal(compile_model(program)(**inputs)["features"], artifact(**inputs)["features"])


def test_models_that_cannot_be_compiled():
    with pytest.raises(UnsupportedModelError, match="int"):
        compile_model(3)
    with pytest.raises(ExampleInputsError):
        compile_model(nn.Linear(2, 2))
    with pytest.raises(TraceError, match="Linear"):
        compile_model(nn.Linear(2, 2), "x86", torch.zeros(1, 3))
    dynamic = {"input": {0: torch.export.Dim("batch", max=8)}}
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(3, 2),), dynamic_shapes=dynamic)
    with pytest.raises(UnsupportedModelError, match="dynamic shape"):
        compile_model(program)


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).abs()


def test_unknown_operator_is_named():
    with pytest.raises(CompileError, match="fft"):
        compile_model(Fourier(), "x86", torch.randn(4, 8))


def test_linker_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompileError, match="pip install ziglang"):
        linker.link_command()
    monkeypatch.undo()
    monkeypatch.setattr(compiler, "linker", lambda triple: linker_that_fails())
    with pytest.raises(CompileError, match="linking failed"):
        compile_model(nn.Linear(2, 2), "x86", torch.zeros(1, 2))


def linker_that_fails():
    return linker.make_linker([sys.executable, "-c", "raise SystemExit('no space left')"])


def test_linking_with_zig_alone(monkeypatch, tmp_path):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert linker.link_command()[1:3] == ["-m", "ziglang"]
    model, x = nn.Linear(2, 2), torch.randn(1, 2)
    torch.testing.assert_close(compile_model(model, "x86", x)(x), model(x))


def test_threads(model, inputs, path, artifact):
    for threads in (1, 2):
        loaded = load(path, threads=threads)
        assert loaded.threads == threads
        assert torch.equal(loaded(**inputs)["features"], artifact(**inputs)["features"])
    with pytest.raises(InputError, match="at least 1"):
        load(path, threads=0)
