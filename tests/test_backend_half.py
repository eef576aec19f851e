"""Weights in half precision: exactly the rounded model, stored in half of the bytes; models in half precision."""

import copy
import re
from io import BytesIO

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

import graphprune
from emulation import emulator
from graphprune.backends.compiler import compile_model
from graphprune.backends.import_torch import import_model
from graphprune.backends.measuring import Meter
from graphprune.backends.pipeline import llvm_target, pipeline
from graphprune.backends.precision import HALVES, half_of
from graphprune.backends.targets import get_target
from graphprune.backends.tuning import workloads
from graphprune.errors import CompileError, InputError, OptionError, UnsupportedModelError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


def convolutions():
    """Every template that reads weights: plain and blocked inputs, large weights, groups, depthwise, transposed."""
    return nn.Sequential(
        nn.Conv2d(3, 40, 3, stride=2, padding=1), nn.BatchNorm2d(40), nn.ReLU(),
        nn.Conv2d(40, 37, 3, padding=1), nn.Hardswish(),
        nn.Conv2d(37, 37, 5, padding=2, groups=37), nn.BatchNorm2d(37),
        nn.Conv2d(37, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=2), nn.MaxPool2d(2),
        nn.Conv2d(64, 256, 3, padding=1), nn.BatchNorm2d(256), nn.Conv2d(256, 256, 3, stride=2, padding=1),
        nn.ConvTranspose2d(256, 24, 3, stride=2), nn.Flatten(), nn.Linear(24 * 49, 70),
    )  # fmt: skip


class Words(nn.Module):
    """Tables, norms, products of one row and of many."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(50, 48), nn.LayerNorm(48)
        self.wide, self.narrow, self.head = nn.Linear(48, 200), nn.Linear(200, 48), nn.Linear(48, 50, bias=False)

    def forward(self, ids):
        x = self.table(ids)
        x = x + self.narrow(nn.functional.gelu(self.wide(self.norm(x))))
        return self.head(x), self.wide(x.mean(1))


def volumes():
    return nn.Sequential(nn.Conv3d(2, 20, 3, padding=1), nn.ReLU(), nn.Conv3d(20, 8, 3, stride=2))


def lines():
    return nn.Sequential(nn.Conv1d(6, 40, 5, padding=2), nn.BatchNorm1d(40), nn.ReLU(), nn.Conv1d(40, 24, 3))


NETWORKS = {
    "convolutions": (convolutions, lambda: torch.randn(1, 3, 24, 24)),
    "words": (Words, lambda: torch.randint(0, 50, (2, 9))),
    "volumes": (volumes, lambda: torch.randn(1, 2, 6, 7, 8)),
    "lines": (lines, lambda: torch.randn(2, 6, 30)),
}


def network(name):
    """A network with weights and statistics that matter, and its input."""
    torch.manual_seed(0)
    build, example = NETWORKS[name]
    model = build().eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            module.weight.data.uniform_(0.7, 1.4)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model, example()


def rounded(model, dtype):
    """The model with its weights rounded, everything else as it is."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, WEIGHTED):
            module.weight.data = module.weight.data.to(dtype).float()
    return model


def exactly(model, x):
    """What a model gives in float64."""
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        result = copy.deepcopy(model).double()(x)
    return result if isinstance(result, tuple) else (result,)


def distance(results, wanted):
    """The largest error of all outputs, relative to the largest number of each."""
    results = results if isinstance(results, tuple) else (results,)
    return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(results, wanted, strict=True))


@pytest.mark.parametrize("precision", HALVES)
def test_formats_are_those_of_torch(precision):
    half, dtype = HALVES[precision], DTYPES[precision]
    rng = np.random.default_rng(0)
    numbers = np.concatenate([
        rng.standard_normal(1000), rng.standard_normal(1000) * 1e-6, rng.standard_normal(500) * 1e-40,
        np.arange(2048, 4096), [0.0, -0.0, np.inf, -np.inf, np.nan, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8],
    ]).astype(np.float32)  # fmt: skip
    wanted = torch.from_numpy(numbers).to(dtype).float().numpy()
    np.testing.assert_array_equal(half.widen(half.narrow(numbers)), wanted)
    assert half.holds(wanted) and not half.holds(numbers)
    assert half.largest == torch.finfo(dtype).max


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("name, target", [*((name, "x86") for name in NETWORKS), ("convolutions", "x86-avx2")])
def test_exactly_the_model_with_rounded_weights(name, precision, target):
    model, x = network(name)
    artifact = compile_model(model, target, x, precision=precision)
    result = artifact(x)
    assert distance(result, exactly(rounded(model, DTYPES[precision]), x)) < 1e-5
    # The weights were rounded, indeed, and by no more than the format says.
    cost = distance(result, exactly(model, x))
    assert 2e-5 < cost < {"fp16": 1e-3, "bf16": 1e-2}[precision]
    assert artifact.manifest["precision"] == precision
    assert str(artifact.inputs[0].dtype) == str(x.dtype).removeprefix("torch.")


@pytest.mark.parametrize("precision", HALVES)
def test_arm_converts_in_vectors_too(precision):
    machine = emulator()
    model, x = network("convolutions")
    result = machine.run(compile_model(model, "arm", x, precision=precision), x)[0]
    assert distance(result, exactly(rounded(model, DTYPES[precision]), x)) < 1e-5


def test_half_of_the_bytes():
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    sizes = {name: compile_model(model, "x86", torch.zeros(1, 512), precision=name).size for name in ("fp32", *HALVES)}
    weights = 2 * 512 * 512 * 4
    for name in HALVES:
        assert abs(sizes["fp32"] - sizes[name] - weights / 2) < weights / 50


def test_half_of_the_bytes_behind_a_batch_norm():
    """Its scales do not go into the weights, which would then have more digits than half precision holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(128, 256, 1), nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 256, 1)).eval()
    model[1].running_var.uniform_(0.5, 2)
    x = torch.zeros(1, 128, 4, 4)
    saved = compile_model(model, "x86", x).size - compile_model(model, "x86", x, precision="bf16").size
    weights = (128 * 256 + 256 * 256) * 4
    assert abs(saved - weights / 2) < weights / 20


def test_full_precision_is_the_default_and_rounds_nothing():
    model, x = network("lines")
    artifact = compile_model(model, "x86", x)
    assert artifact.manifest["precision"] == "fp32"
    assert distance(artifact(x), exactly(model, x)) < 1e-6


@pytest.mark.parametrize("target", ["x86-avx512", "x86-avx2"])
@pytest.mark.parametrize("precision", HALVES)
def test_conversions_are_vectors(precision, target):
    import tvm

    model = nn.Sequential(nn.Conv2d(32, 64, 5), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4, 32)).eval()
    module = import_model(model, torch.zeros(1, 32, 6, 6)).module
    executable = tvm.compile(
        pipeline(target, half=half_of(precision))(module), target=llvm_target(target), relax_pipeline=None
    )
    assembly = "".join(part.inspect_source("asm") for part in modules_of(executable.mod))
    wide = {"x86-avx512": "zmm", "x86-avx2": "ymm"}[target]
    operation = {"fp16": "vcvtph2ps", "bf16": "vpmovzxwd"}[precision]
    found = re.findall(rf"{operation}\s+[^\n]*%(\wmm)\d+\s*$", assembly, re.MULTILINE)
    assert found and set(found) == {wide}
    assert not re.search(r"call\w*\s+\S*(h2f|extendhf)", assembly)


def modules_of(module):
    """The parts of a compiled module that hold machine code."""
    found = [module] if module.kind == "llvm" else []
    return found + [part for inner in module.imports for part in modules_of(inner)]


def test_unknown_precision_is_refused():
    for wrong in ("fp8", "half", None, 16):
        with pytest.raises(OptionError, match="fp32, fp16, bf16"):
            compile_model(nn.Linear(3, 3), "x86", torch.zeros(1, 3), precision=wrong)


def test_weights_beyond_the_range_are_refused_by_name():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    model[2].weight.data[3, 4] = 70000.0
    x = torch.randn(2, 8)
    with pytest.raises(CompileError, match=r"'2\.weight'.*70000.*65504.*bf16"):
        compile_model(model, "x86", x, precision="fp16")
    assert (
        distance(compile_model(model, "x86", x, precision="bf16")(x), exactly(rounded(model, torch.bfloat16), x)) < 1e-5
    )
    model[2].weight.data[3, 4] = 3.4e38
    with pytest.raises(CompileError, match=r"'2\.weight'.*precision='fp32'"):
        compile_model(model, "x86", x, precision="bf16")


def test_tuning_measures_kernels_with_half_weights():
    model, x = network("convolutions")
    target = get_target("x86")
    works = workloads(import_model(model, x).module, target, half_of("bf16"))
    kinds = {type(work.candidates[0]).__name__ for work in works}
    assert {"Convolution", "MatMul", "Window"} <= kinds
    with Meter(target, 1) as meter:
        for kind in ("Convolution", "MatMul"):
            first, other = next(w for w in works if type(w.candidates[0]).__name__ == kind).candidates[:2]
            assert first.weights == "uint16"
            assert meter(first, other).seconds


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("name", ["convolutions", "words"])
def test_models_in_half_precision(name, dtype):
    model, x = network(name)
    model = model.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    before = {key: value.clone() for key, value in model.state_dict().items()}
    artifact = compile_model(model, "x86", x)
    results = artifact(x)
    results = results if isinstance(results, tuple) else (results,)
    assert all(result.dtype == dtype for result in results)
    wanted = exactly(model.float(), x.float() if x.is_floating_point() else x)
    # Computed in float32, and rounded once at the end.
    assert (
        distance(results, [w.to(dtype).double() for w in wanted])
        < {"fp16": 1e-3, "bf16": 1e-2}[artifact.manifest["precision"]]
    )
    exact = [(a.double() - b.to(dtype).double()).abs().max() == 0 for a, b in zip(results, wanted, strict=True)]
    share = np.mean([float((a == b.to(dtype)).float().mean()) for a, b in zip(results, wanted, strict=True)])
    assert share > 0.97, (exact, share)
    assert artifact.manifest["precision"] == {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    assert all(torch.equal(value.float(), model.state_dict()[key]) for key, value in before.items())


def test_half_inputs_as_arrays():
    model = nn.Linear(16, 4).eval()
    x = torch.randn(3, 16)
    half = compile_model(copy.deepcopy(model).half(), "x86", x.half())
    result = half(x.half().numpy())
    assert result.dtype == np.float16 and np.allclose(result, half(x.half()).numpy())
    bits = compile_model(copy.deepcopy(model).bfloat16(), "x86", x.bfloat16())
    assert str(bits.inputs[0]) == "bfloat16[3, 16]"
    wanted = bits(x.bfloat16())
    assert wanted.dtype == torch.bfloat16
    array = x.bfloat16().view(torch.uint16).numpy()
    assert np.array_equal(bits(array).view(np.uint16), wanted.view(torch.uint16).numpy())
    with pytest.raises(InputError, match="bfloat16"):
        bits(x)
    with pytest.raises(InputError, match="float16"):
        half(x)


def test_exported_program_in_half_precision():
    model, x = nn.Sequential(nn.Linear(16, 8), nn.GELU()).eval().half(), torch.randn(2, 16).half()
    program = torch.export.export(model, (x,))
    result = compile_model(program, "x86")(x)
    assert torch.allclose(result.float(), model.float()(x.float()), atol=2e-3)


class Casts(nn.Module):
    """Names its own type, as models do that are made for half precision."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("scale", torch.full((8,), 0.5))

    def forward(self, x):
        y = self.linear(x).float().softmax(-1).to(torch.float16)
        return y * self.scale + torch.zeros(8, dtype=torch.float16), torch.ones(8, dtype=torch.float32) * y.float()


def test_a_model_that_names_its_type():
    model, x = Casts().eval().half(), torch.randn(2, 8).half()
    half, single = compile_model(model, "x86", x)(x)
    assert half.dtype == torch.float16 and single.dtype == torch.float32
    wanted = model(x)
    assert torch.allclose(half, wanted[0], atol=1e-3) and torch.allclose(single, wanted[1], atol=1e-3)


def test_asked_precision_comes_before_that_of_the_model():
    model, x = nn.Linear(32, 8).eval().half(), torch.randn(2, 32).half()
    artifact = compile_model(model, "x86", x, precision="bf16")
    assert artifact.manifest["precision"] == "bf16"
    wanted = rounded(model.float(), torch.bfloat16)(x.float())
    assert torch.allclose(artifact(x).float(), wanted, rtol=1e-3, atol=1e-3)


def test_batches_in_half_precision():
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU()).eval().half()
    artifact = compile_model(model, "x86", torch.randn(1, 16).half(), batch_sizes=(1, 4))
    x = torch.randn(7, 16).half()
    assert torch.allclose(artifact(x).float(), model.float()(x.float()), atol=2e-3)
    with pytest.raises(UnsupportedModelError, match="bfloat16.*batch_sizes"):
        compile_model(model.bfloat16(), "x86", torch.randn(1, 16).bfloat16(), batch_sizes=(1, 4))


def onnx_half(kind):
    """An ONNX model in half precision, with a Cast, a Constant, and a clipped convolution."""
    rng = np.random.default_rng(0)
    name = TensorProto.DataType.Name(kind).lower()

    def tensor(label, array):
        return helper.make_tensor(label, kind, array.shape, array.astype(np.float32).reshape(-1))

    weights = [tensor("w", rng.standard_normal((8, 3, 3, 3)) * 0.3), tensor("b", rng.standard_normal(8))]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Constant", [], ["six"], value=tensor("six", np.array(6.0))),
        helper.make_node("Constant", [], ["zero"], value=tensor("zero", np.array(0.0))),
        helper.make_node("Clip", ["c", "zero", "six"], ["r"]),
        helper.make_node("Cast", ["r"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Exp", ["wide"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=kind),
    ]
    ends = [[helper.make_tensor_value_info(n, kind, shape)] for n, shape in (("x", [1, 3, 9, 9]), ("y", [1, 8, 7, 7]))]
    graph = helper.make_graph(nodes, "half", *ends, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), name, weights


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_onnx_models_in_half_precision(kind):
    model, name, weights = onnx_half(kind)
    artifact = compile_model(model, "x86")
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == name
    dtype = getattr(torch, name)
    x = torch.randn(1, 3, 9, 9).to(dtype)
    w, b = (torch.from_numpy(numpy_helper.to_array(t).astype(np.float32)) for t in weights)
    wanted = nn.functional.conv2d(x.float(), w, b).clamp(0, 6).exp()
    result = artifact(x)
    assert result.dtype == dtype
    assert torch.allclose(result.float(), wanted, rtol=4e-3 if kind == TensorProto.BFLOAT16 else 6e-4)


def test_onnx_float_models_with_half_weights():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)).eval()
    x = torch.randn(1, 3, 8, 8)
    buffer = BytesIO()
    torch.onnx.export(model, (x,), buffer, dynamo=False)
    proto = onnx.load_from_string(buffer.getvalue())
    artifact = compile_model(proto, "x86", precision="fp16")
    assert distance(artifact(x), exactly(rounded(model, torch.float16), x)) < 1e-5
    with pytest.raises(CompileError, match="3.weight"):
        model[3].weight.data[0, 0] = 1e5
        torch.onnx.export(model, (x,), buffer := BytesIO(), dynamo=False)
        compile_model(onnx.load_from_string(buffer.getvalue()), "x86", precision="fp16")


def test_from_the_top_and_the_command_line(tmp_path):
    from graphprune.cli import app

    model, x = network("lines")
    assert graphprune.compile(model, example_inputs=x, precision="bf16").manifest["precision"] == "bf16"
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=False)
    out = tmp_path / "model.gp"
    done = CliRunner().invoke(app, ["compile", str(path), "-o", str(out), "--precision", "fp16"])
    assert done.exit_code == 0, done.output
    assert graphprune.load(out).manifest["precision"] == "fp16"
    done = CliRunner().invoke(app, ["compile", str(path), "-o", str(out), "--precision", "fp7"])
    assert done.exit_code != 0 and "fp16" in str(done.exception)
