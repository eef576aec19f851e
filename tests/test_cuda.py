"""Artifacts for GPUs: machine code inside, the same numbers as PyTorch (in an emulation), limits kept, refusals
said."""

import functools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import emulated_cuda
import graphprune
from graphprune.backends import cubin, cuda_build, cuda_compiler, gpu
from graphprune.backends.artifact import Artifact, load
from graphprune.backends.compiler import compile_model
from graphprune.backends.targets import get_target
from graphprune.errors import CompileError, TargetError
from helpers import randomise

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Largest error relative to the largest output: half numbers have 11 bits or 8.
TOLERANCES = {"fp32": 2e-5, "tf32": 4e-3, "fp16": 1e-2, "bf16": 8e-2}


@functools.cache
def network(name: str, slim: bool) -> tuple[nn.Module, torch.Tensor]:
    """One of the networks of benchmarks/cuda_check.py, as it is or pruned."""
    sys.path.insert(0, str(BENCHMARKS))
    from cuda_models import build

    model, example = build(name, 2)
    randomise(model)
    if slim:
        model = graphprune.optimize(model, 0.4, example_inputs=example, multiple_of=1)
    return model, example


@functools.cache
def compiled(name: str, slim: bool, precision: str, graph: bool = False) -> tuple[Artifact, tuple[str, ...]]:
    model, example = network(name, slim)
    with emulated_cuda.recorded() as sources:
        artifact = compile_model(
            model, target="cuda-sm80", example_inputs=example, precision=precision, cuda_graph=graph
        )
    return artifact, tuple(sources)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("slim", [False, True])
@pytest.mark.parametrize("name", ["tiny-convolutional", "tiny-transformer"])
def test_agrees_with_torch(name, slim, precision):
    model, example = network(name, slim)
    artifact, sources = compiled(name, slim, precision)
    with torch.no_grad():
        expected = model.double()(example.double())
        model.float()
    result = emulated_cuda.run(artifact, list(sources), example)
    assert result.dtype == torch.float32 and result.shape == expected.shape
    error = float((result - expected).abs().max() / expected.abs().max())
    assert error <= TOLERANCES[precision]
    assert precision == "fp32" or error > 1e-7, "the precision made no difference"


@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_machine_code_is_for_the_target(arch):
    emulated_cuda.compiler()
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    artifact = compile_model(model, target=f"cuda-{arch.replace('_', '')}", example_inputs=torch.zeros(2, 8))
    assert cubin.architectures(artifact._library) == {arch}
    (code,) = cubin.cubins(artifact._library)
    assert cubin.kernels(code) == sorted(artifact.manifest["cuda"]["kernels"])
    with pytest.raises(CompileError, match=f"machine code for {arch}; sm_86 was to be built"):
        cuda_build.check_machine_code(artifact._library, get_target("cuda-sm86"))


def test_source_alone_is_an_error(monkeypatch):
    built = emulated_cuda.compiler().build("__global__ void nothing() {}", "sm_80")

    class Lazy:
        name = "lazy"

        def build(self, source, arch):
            return cuda_compiler.Built(source.encode(), built.usage)

    monkeypatch.setattr(cuda_build, "find_compiler", Lazy)
    with pytest.raises(CompileError, match="lazy built no machine code for sm_80"):
        compile_model(nn.Linear(8, 8), target="cuda-sm80", example_inputs=torch.zeros(2, 8))
    with pytest.raises(CompileError, match="source alone"):
        cuda_build.check_machine_code(b"extern __global__ void kernel()" * 10, get_target("cuda-sm80"))


def test_equal_models_give_equal_bytes():
    emulated_cuda.compiler()
    model, example = network("tiny-convolutional", True)
    first, second = (compile_model(model, target="cuda-sm80", example_inputs=example)._bytes() for _ in range(2))
    assert first == second


def test_kernels_stay_within_limits():
    for precision in TOLERANCES:
        for name in ("tiny-convolutional", "tiny-transformer"):
            artifact, _ = compiled(name, False, precision)
            for kernel, usage in artifact.manifest["cuda"]["kernels"].items():
                assert usage["registers"] <= 255 and usage["shared"] <= 49152, kernel
                assert usage["spilled"] == 0, kernel


def test_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "compute_capability", lambda: None)
    artifact, _ = compiled("tiny-convolutional", False, "fp32")
    artifact = Artifact(artifact._library, artifact.manifest)
    assert not artifact.runs_here
    with pytest.raises(TargetError, match="cannot run here: .*NVIDIA GPU with its driver"):
        artifact(network("tiny-convolutional", False)[1])
    artifact.save(tmp_path / "model.gp")
    with pytest.raises(TargetError, match="compiled for cuda-sm80, but this machine lacks an NVIDIA GPU"):
        load(tmp_path / "model.gp")


@pytest.mark.parametrize(
    ("here", "runs"), [((8, 0), True), ((8, 6), True), ((8, 9), True), ((7, 5), False), ((9, 0), False)]
)
def test_compute_capabilities(monkeypatch, here, runs):
    monkeypatch.setattr(gpu, "compute_capability", lambda: here)
    assert (gpu.missing("sm_80") == []) == runs
    assert gpu.missing("sm_86") == [] or here != (8, 6)
