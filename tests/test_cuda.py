"""Artifacts for GPUs: machine code inside, the same numbers as PyTorch (in an emulation), limits kept, refusals
said."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import emulated_cuda
import graphprune
from graphprune.backends import cubin, cuda_build, cuda_compiler, driver
from graphprune.backends.artifact import Artifact, load
from graphprune.backends.compiler import compile_model
from graphprune.backends.targets import get_target
from graphprune.errors import CompileError, InputError, OptionError, TargetError
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
def compiled(name: str, slim: bool, precision: str) -> tuple[Artifact, tuple[str, ...]]:
    model, example = network(name, slim)
    with emulated_cuda.recorded() as sources:
        artifact = compile_model(model, target="cuda-sm80", example_inputs=example, precision=precision)
    return artifact, tuple(sources)


@pytest.mark.parametrize(
    ("slim", "precision"),
    [(False, "fp32"), (True, "fp32"), (False, "fp16"), (True, "fp16"), (False, "tf32"), (True, "bf16")],
)
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
    assert cubin.architectures(artifact.library) == {arch}
    (code,) = cubin.cubins(artifact.library)
    assert cubin.kernels(code) == sorted(artifact.manifest["cuda"]["kernels"])
    with pytest.raises(CompileError, match=f"machine code for {arch}; sm_86 was to be built"):
        cuda_build.check_machine_code(artifact.library, get_target("cuda-sm86"))


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
    model, example = network("tiny-convolutional", True)
    first, _ = compiled("tiny-convolutional", True, "fp16")
    second = compile_model(model, target="cuda-sm80", example_inputs=example, precision="fp16")
    assert first.library == second.library and first.manifest == second.manifest


def test_a_graph_is_recorded_once_and_follows_its_inputs():
    model, example = network("tiny-transformer", False)
    with emulated_cuda.recorded() as sources:
        artifact = compile_model(model, target="cuda-sm80", example_inputs=example, cuda_graph=True)
    program = emulated_cuda.emulated(artifact, sources, (8, 0))
    for factor in (1.0, -0.5, 2.0):
        with torch.no_grad():
            expected = model(example * factor)
        torch.testing.assert_close(program(example * factor), expected, rtol=1e-4, atol=1e-4)
    assert emulated_cuda.graphs().known, "nothing was recorded"


def test_kernels_stay_within_limits():
    for precision, slim in (("fp32", False), ("fp16", True), ("tf32", False), ("bf16", True)):
        for name in ("tiny-convolutional", "tiny-transformer"):
            artifact, _ = compiled(name, slim, precision)
            for kernel, usage in artifact.manifest["cuda"]["kernels"].items():
                assert usage["registers"] <= 255 and usage["shared"] <= 49152, kernel
                assert usage["spilled"] == 0, kernel


def test_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "compute_capability", lambda: None)
    artifact, _ = compiled("tiny-convolutional", False, "fp32")
    artifact = Artifact(artifact.library, artifact.manifest)
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
    monkeypatch.setattr(driver, "compute_capability", lambda: here)
    assert (driver.missing_gpu("sm_80") == []) == runs
    assert driver.missing_gpu("sm_86") == [] or here != (8, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cuda-sm75", "precision": "bf16"}, "cuda-sm75 has no tensor cores for bf16"),
        ({"target": "cuda-sm80", "precision": "int8"}, "must be one of fp32, tf32, fp16, bf16"),
        ({"target": "cuda-sm80", "tune": 1}, "tune measures kernels on this machine's processor"),
        ({"target": "cuda-sm80", "examine": True}, "examine counts instructions of processors"),
        ({"target": "cuda-sm80", "weights": "separate"}, "cannot be mapped"),
        ({"target": "x86-avx2", "precision": "tf32"}, "must be one of fp32, fp16, bf16"),
        ({"target": "x86-avx2", "cuda_graph": True}, "cuda_graph is for CUDA targets"),
    ],
)
def test_options_that_a_target_lacks(options, message):
    with pytest.raises(OptionError, match=message):
        compile_model(nn.Linear(8, 8), example_inputs=torch.zeros(2, 8), **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_half_precision(dtype):
    torch.manual_seed(0)
    model, example = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24)).to(dtype), torch.randn(17, 24)
    with emulated_cuda.recorded() as sources:
        artifact = compile_model(model, target="cuda-sm80", example_inputs=example.to(dtype))
    assert "cuda_tensor" in {facts["schedule"] for facts in artifact.manifest["kernels"].values()}
    result = emulated_cuda.run(artifact, sources, example.to(dtype))
    with torch.no_grad():
        expected = model.float()(example.to(dtype).float())
    assert result.dtype == dtype
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=tolerance)


def test_weights_beyond_half_are_refused():
    emulated_cuda.compiler()
    model = nn.Linear(8, 8)
    nn.init.constant_(model.weight, 1e6)
    with pytest.raises(CompileError, match="beyond the range of float16.*precision='bf16'"):
        compile_model(model, target="cuda-sm80", example_inputs=torch.zeros(9, 8), precision="fp16")


def test_no_compiler(monkeypatch):
    cuda_compiler.find_compiler.cache_clear()
    for kind in (cuda_compiler.Nvrtc, cuda_compiler.Nvcc):
        monkeypatch.setattr(kind, "find", classmethod(lambda cls: None))
    with pytest.raises(TargetError, match=r"no compiler for CUDA.*graphprune\[cuda\].*nvcc"):
        compile_model(nn.Linear(8, 8), target="cuda-sm80", example_inputs=torch.zeros(2, 8))


@pytest.mark.parametrize("kind", [cuda_compiler.Nvrtc, cuda_compiler.Nvcc])
def test_both_compilers(kind):
    found = kind.find()
    if found is None:
        pytest.skip(f"{kind.__name__} is not installed")
    source = 'extern "C" __global__ void twice(float* x) { __shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x]; \
        __syncthreads(); x[threadIdx.x] = 2 * s[63 - threadIdx.x]; }'
    built = found.build(source, "sm_86")
    assert cubin.architectures(b"before" + built.cubin + b"after") == {"sm_86"}
    assert cubin.kernels(built.cubin) == ["twice"] and built.usage["twice"].shared == 256
    assert built == found.build(source, "sm_86")
    with pytest.raises(CompileError, match="refused the code for sm_86: .*error"):
        found.build(source.replace("s[64]", "s[]]"), "sm_86")


def test_a_kernel_without_threads_is_refused():
    import tvm
    from tvm import te

    from graphprune.backends.cuda_pipeline import cuda_target
    from graphprune.backends.cuda_verify import verify

    data = te.placeholder((64,), name="data")
    function = te.create_prim_func([data, te.compute((64,), lambda i: data[i] + 1.0, name="result")])
    with cuda_target("cuda-sm80"):
        with pytest.raises(CompileError, match="'plain' touches memory of the GPU outside of its threads"):
            verify("plain", function)
        schedule = tvm.s_tir.Schedule(function)
        (loop,) = schedule.get_loops(schedule.get_sblock("result"))
        schedule.bind(loop, "threadIdx.x")
        verify("threads", schedule.mod["main"])
        wide = te.placeholder((2048,), name="wide")
        schedule = tvm.s_tir.Schedule(te.create_prim_func([wide, te.compute((2048,), lambda i: wide[i], name="copy")]))
        schedule.bind(schedule.get_loops(schedule.get_sblock("copy"))[0], "threadIdx.x")
        with pytest.raises(CompileError, match="more threads or shared memory"):
            verify("threads", schedule.mod["main"])


def test_a_missing_barrier_shows(monkeypatch):
    artifact, sources = compiled("tiny-transformer", False, "fp32")
    broken = [re.sub(r"__syncthreads\(\);", "", source) for source in sources]
    with pytest.raises(AssertionError, match="a barrier is missing"):
        emulated_cuda.run(artifact, broken, network("tiny-transformer", False)[1])


def test_numpy_in_numpy_out_and_inputs_are_checked():
    artifact, sources = compiled("tiny-convolutional", False, "fp32")
    program = emulated_cuda.emulated(artifact, list(sources), (8, 6))
    _, example = network("tiny-convolutional", False)
    result = program(example.numpy())
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(result), program(example))
    with pytest.raises(InputError, match="must be float32"):
        program(example.double())
    with pytest.raises(TargetError, match="nsys"):
        program.profile(example)


def test_batches():
    model, example = network("tiny-transformer", False)
    with emulated_cuda.recorded() as sources:
        artifact = compile_model(model, target="cuda-sm80", example_inputs=example, batch_sizes=(1, 4))
    program = emulated_cuda.emulated(artifact, sources, (8, 0))
    data = torch.randn(5, *example.shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(program(data), model(data), rtol=1e-4, atol=1e-4)


def test_another_gpu_and_another_processor():
    emulated_cuda.compiler()
    orin = {"base": "cuda-sm80", "name": "orin", "device": "sm_87"}
    artifact = compile_model(nn.Linear(8, 8), target=orin, example_inputs=torch.zeros(2, 8))
    assert cubin.architectures(artifact.library) == {"sm_87"} and artifact.target == "orin"
    with pytest.raises(TargetError, match="'sm_80'"):
        get_target({**orin, "device": "ampere"})


def test_the_stand_in_is_no_driver():
    """After code was built in this process, torch and we still know that there is no GPU."""
    compiled("tiny-convolutional", False, "fp32")
    driver.compute_capability.cache_clear()
    assert torch.cuda.is_available() == (driver.compute_capability() is not None)


def test_cuda_check_without_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: run benchmarks/cuda_check.py")
    command = [sys.executable, str(BENCHMARKS / "cuda_check.py"), "--run", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "torch finds no GPU" in done.stderr
