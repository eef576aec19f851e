"""The C interface: built from the folder that `graphprune runtime` makes, it computes and refuses what Python does."""

import json
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import emulation
from graphprune.backends import container
from graphprune.backends.artifact import load
from graphprune.backends.batches import cover
from graphprune.backends.collecting import collect, cpp_folder
from graphprune.backends.compiler import compile_model
from graphprune.errors import FileFormatError, OptionError, TargetError
from test_backend_container import repacked

ROOT = Path(__file__).parents[1]
MISSING = [name for name in ("cmake", "g++", "gcc") if not shutil.which(name)]
needs_compilers = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


class Net(nn.Module):
    """Two inputs of two element types, nested outputs."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 300), nn.Linear(300, 70)

    def forward(self, tokens, scale):
        y = self.head(self.table(tokens)) * scale
        return {"scores": y, "more": (y > 0, tokens + 1)}


def image_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 33, 3), nn.ReLU(), nn.Flatten(), nn.Linear(33 * 100, 10))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cpp")


@pytest.fixture(scope="module")
def runtime(folder):
    collect(folder / "runtime")
    return folder / "runtime"


@pytest.fixture(scope="module")
def built(folder, runtime):
    """The example and the plain C program."""
    build = folder / "build"
    built = build / "graphprune"
    options = [f"-DGRAPHPRUNE_RUNTIME={runtime}"]
    for command in (
        ["cmake", "-S", ROOT / "examples" / "cpp", "-B", build, *options],
        ["cmake", "--build", build, "--parallel", "2"],
        ["gcc", *"-std=c11 -Wall -Wextra -Werror -pedantic -pthread".split(), "-I", runtime / "include",
         ROOT / "tests" / "caller.c", "-o", build / "caller", "-L", built, "-lgraphprune", f"-Wl,-rpath,{built}"],
    ):  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build


@pytest.fixture(scope="module")
def paths(folder):
    """One artifact in every form, by name."""
    x = torch.zeros(1, 3, 12, 12)
    found = {}
    for weights in ("embedded", "separate"):
        artifact = compile_model(image_network(), "x86", x, weights=weights)
        for kind in (False, True):
            found[f"{weights}-{'folder' if kind else 'file'}"] = path = folder / f"{weights}{kind}.gp"
            artifact.save(path, folder=kind)
    return found


def call(built, cwd, *arguments, program="caller"):
    command = [str(built / program), *map(str, arguments)]
    # As in a process of a user: no variables of the test environment that name libraries.
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", "TMPDIR")}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


@needs_compilers
@pytest.mark.parametrize("form", ["embedded-file", "embedded-folder", "separate-file", "separate-folder"])
def test_the_example_prints_what_python_computes(built, paths, tmp_path, form):
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12), np.float32)
    x.tofile(tmp_path / "input.bin")
    for threads in (1, 2):
        done = call(built, tmp_path, paths[form], "input.bin", threads, program="classify")
        assert done.returncode == 0, done.stderr
        printed = np.array(done.stdout.split(), np.float32)
        np.testing.assert_array_equal(printed, load(paths[form], threads=threads)(x)[0])


@needs_compilers
def test_the_example_says_what_is_wrong(built, paths, tmp_path):
    (tmp_path / "short.bin").write_bytes(b"1234")
    done = call(built, tmp_path, paths["embedded-file"], "short.bin", program="classify")
    assert done.returncode == 1 and "does not hold one input" in done.stderr
    done = call(built, tmp_path, "absent.gp", "short.bin", program="classify")
    assert done.returncode == 1 and "absent.gp cannot be read: No such file" in done.stderr


@needs_compilers
def test_plain_c_with_several_inputs_and_outputs(built, tmp_path):
    tokens, scale = torch.randint(0, 11, (2, 5)), torch.rand(2, 5, 1)
    artifact = compile_model(Net().eval(), "x86", (tokens, scale), weights="separate")
    artifact.save(tmp_path / "net.gp")
    (tmp_path / "tokens.bin").write_bytes(tokens.numpy().tobytes())
    (tmp_path / "scale.bin").write_bytes(scale.numpy().tobytes())
    done = call(built, tmp_path, "net.gp", 1, 1, "tokens.bin", "scale.bin")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["input tokens int64 0 80 2 5", "input scale float32 0 40 2 5 1"]
    assert [line.split()[2:] for line in lines[2:]] == [
        ["float32", "0", str(2 * 5 * 70 * 4), "2", "5", "70"],
        ["bool", "0", str(2 * 5 * 70), "2", "5", "70"],
        ["int64", "0", "80", "2", "5"],
    ]
    want = artifact(tokens.numpy(), scale.numpy())
    for index, result in enumerate((want["scores"], *want["more"])):
        assert (tmp_path / f"output{index}.bin").read_bytes() == result.tobytes()


@needs_compilers
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_any_number_of_samples(built, tmp_path_factory, count):
    path = tmp_path_factory.getbasetemp() / "batches.gp"
    if not path.exists():
        compile_model(image_network(), "x86", torch.zeros(1, 3, 12, 12), batch_sizes=(1, 3)).save(path)
    x = np.random.default_rng(count).standard_normal((count, 3, 12, 12), np.float32)
    x.tofile(path.parent / "many.bin")
    done = call(built, path.parent, path, 1, count, "many.bin")
    assert done.returncode == 0, done.stderr
    assert (path.parent / "output0.bin").read_bytes() == load(path, threads=1)(x).tobytes()


@needs_compilers
def test_pieces_are_those_of_python(built, tmp_path, runtime):
    source = """
#include "batches.h"
#include <cstdio>
int main() {
  const std::vector<std::vector<int64_t>> all = {{1}, {7}, {1, 4}, {4, 16}, {1, 4, 16}, {3, 5, 8}};
  for (const auto& sizes : all)
    for (int64_t count = 1; count < 70; ++count) {
      for (int64_t piece : graphprune::Cover(count, sizes)) std::printf("%d ", int(piece));
      std::printf("\\n");
    }
}
"""
    (tmp_path / "cover.cc").write_text(source)
    program = tmp_path / "cover"
    command = [
        "g++",
        "-std=c++17",
        "-I",
        runtime / "src",
        tmp_path / "cover.cc",
        runtime / "src" / "batches.cc",
        "-o",
        program,
    ]
    subprocess.run(list(map(str, command)), check=True)
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = [
        cover(count, sizes) for sizes in ((1,), (7,), (1, 4), (4, 16), (1, 4, 16), (3, 5, 8)) for count in range(1, 70)
    ]
    assert [tuple(map(int, line.split())) for line in printed] == wanted


@needs_compilers
def test_checksums(tmp_path, runtime):
    """With and without the instructions that a processor has for them."""
    source = """
#include "sha256.cc"
#include <cstdio>
#include <vector>
#ifdef PLAIN
namespace graphprune {
std::vector<std::string> MissingHere(const std::string&, const std::vector<std::string>& all) { return all; }
}
#endif
int main() {
  std::vector<unsigned char> data(70000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = i * i % 251;
  for (size_t size = 0; size < 300; ++size) std::printf("%s\\n", graphprune::Sha256(data.data() + size, size).c_str());
  std::printf("%s\\n", graphprune::Sha256(data.data(), data.size()).c_str());
}
"""
    data = bytes(i * i % 251 for i in range(70000))
    wanted = [*(sha256(data[size : 2 * size]).hexdigest() for size in range(300)), sha256(data).hexdigest()]
    (tmp_path / "sums.cc").write_text(source)
    # In one of two programs nothing is there that this machine has.
    for name, more in (("fast", [runtime / "src" / "processor.cc"]), ("plain", ["-DPLAIN"])):
        command = [
            "g++",
            "-std=c++17",
            "-O1",
            "-I",
            runtime / "src",
            tmp_path / "sums.cc",
            *more,
            "-o",
            tmp_path / name,
        ]
        subprocess.run(list(map(str, command)), check=True)
        printed = subprocess.run([str(tmp_path / name)], capture_output=True, text=True, check=True).stdout
        assert printed.split() == wanted


@needs_compilers
def test_wrong_arguments(built, paths, tmp_path):
    assert call(built, tmp_path).returncode == 0
    done = call(built, tmp_path, paths["embedded-file"], 1, 2)
    assert done.stderr.startswith("3 ") and "samples must be 1, not 2" in done.stderr
    assert "at least 1" in call(built, tmp_path, paths["embedded-file"], 1, 0).stderr


@needs_compilers
def test_many_threads(built, paths, tmp_path):
    done = call(built, tmp_path, "--stress", 8, 60, *paths.values())
    assert (done.returncode, done.stdout) == (0, "0 wrong\n"), done.stderr


@needs_compilers
@pytest.mark.parametrize("form", ["separate-file", "separate-folder"])
def test_damage_is_refused_as_in_python(built, paths, tmp_path, form):
    wrong, random = tmp_path / "wrong.gp", np.random.default_rng(0)

    def refused():
        with pytest.raises(FileFormatError):
            load(wrong)
        done = call(built, tmp_path, wrong, 1, 1)
        assert done.returncode == 1 and done.stderr.startswith("1 "), (done.returncode, done.stderr)
        return done.stderr

    if form == "separate-file":
        content = paths[form].read_bytes()
        ends = [0, 8, 14, 20, 27, 35, 60, *range(-290, 0, 7)]
        for place in [*ends, *random.integers(0, len(content), 30)]:
            changed = bytearray(content)
            changed[place] ^= 0x11
            wrong.write_bytes(changed)
            refused()
        for length in [0, 1, 21, 22, 100, *random.integers(0, len(content), 10), len(content) - 1]:
            wrong.write_bytes(content[:length])
            refused()
        wrong.write_bytes(content + b"\0")
        refused()
        return
    shutil.copytree(paths[form], wrong)
    for name in sorted(os.listdir(wrong)):
        content = (wrong / name).read_bytes()
        for changed in (content[:-1], content + b"\n", bytes([content[0] ^ 1]) + content[1:], b""):
            (wrong / name).write_bytes(changed)
            refused()
        (wrong / name).unlink()
        refused()
        (wrong / name).symlink_to(paths[form] / name)
        assert "plain file" in refused() or "symbolic links" in refused()
        (wrong / name).unlink()
        (wrong / name).write_bytes(content)
    (wrong / "more.txt").write_text("")
    assert 'holds "more.txt"' in refused()
    (wrong / "more.txt").rename(wrong / "m\N{LATIN SMALL LETTER O WITH DIAERESIS}re\n")
    assert "whose name no artifact has" in refused()


@needs_compilers
def test_what_others_wrote_is_refused(built, paths, tmp_path):
    path, wrong = paths["separate-file"], tmp_path / "wrong.gp"

    def refused(change=None, **manifest):
        repacked(path, wrong, change, **manifest)
        done = call(built, tmp_path, wrong, 1, 1)
        assert done.returncode == 1
        return done.stderr

    tools = {"graphprune": "7.5.0"}
    assert "format 99, and this version of GraphPrune reads 2: use graphprune 7.5.0 or newer" in refused(
        format_version=99, tools=tools
    )
    assert "format 1, " in refused(format_version=1)
    assert "is not an artifact" in refused(format="zip")
    assert 'lacks "inputs"' in refused(without=["inputs"])
    assert "wrong kind" in refused(inputs={})
    with container.opened(path) as store:
        target = json.loads(store.read("manifest.json"))["target"]
    message = refused(target={**target, "features": ["avx2", "warp_drive"]})
    assert message.startswith("2 ") and "this processor lacks warp_drive" in message
    assert "riscv64 instructions" in refused(target={**target, "architecture": "riscv64"})
    assert "unknown weights" in refused(lambda m, files: m["weights"]["functions"].update(main=[99]))
    assert "outside of weights.bin" in refused(lambda m, files: m["weights"]["tensors"][0].update(offset=1 << 40))
    nested = b'{"a":' * 200_000
    container.write_file(wrong, {"manifest.json": nested, "library.so": b""})
    assert "too large" in call(built, tmp_path, wrong, 1, 1).stderr


@needs_compilers
def test_a_pipe_is_refused(built, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a plain file" in call(built, tmp_path, "pipe", 1, 1).stderr


@needs_compilers
def test_nothing_is_left_in_the_temporary_folder(built, paths, tmp_path):
    command = [str(built / "caller"), str(paths["embedded-file"]), "1", "1"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    subprocess.run(
        command, cwd=tmp_path, check=True, env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.DEVNULL
    )
    assert not list(temporary.iterdir())
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "TMPDIR": "/absent"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "TMPDIR" in done.stderr


def test_the_collected_folder(runtime, tmp_path):
    found = {str(path.relative_to(runtime)) for path in runtime.rglob("*") if path.is_file()}
    assert {
        "lib/libtvm_runtime.so",
        "lib/libtvm_ffi.so",
        "include/graphprune.h",
        "CMakeLists.txt",
        "README.md",
    } <= found
    assert {f"src/{path.name}" for path in cpp_folder().glob("*.cc")} <= found
    with pytest.raises(OptionError, match="exists"):
        collect(runtime)


def test_libraries_of_another_kind_of_machine(tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    (others / "libtvm_runtime.so").write_bytes(b"one")
    with pytest.raises(TargetError, match=r"others/libtvm_ffi\.so is missing"):
        collect(tmp_path / "out", others)
    assert not (tmp_path / "out").exists()
    (others / "libtvm_ffi.so").write_bytes(b"two")
    collect(tmp_path / "out", others)
    assert (tmp_path / "out" / "lib" / "libtvm_ffi.so").read_bytes() == b"two"


class Raised(nn.Module):
    def forward(self, x):
        return x.to(torch.int32) + 1


@needs_compilers
def test_bits_of_bfloat16_travel_as_whole_numbers(built, tmp_path):
    bits = torch.arange(40).to(torch.uint16).reshape(1, 40)
    artifact = compile_model(Raised(), "x86", bits)
    artifact.save(tmp_path / "whole.gp")
    (tmp_path / "bits.bin").write_bytes(bits.numpy().tobytes())

    def named(manifest, members):
        manifest["inputs"][0]["dtype"] = "bfloat16"

    for path in ("whole.gp", repacked(tmp_path / "whole.gp", tmp_path / "named.gp", named)):
        done = call(built, tmp_path, path, 1, 1, "bits.bin")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "output0.bin").read_bytes() == artifact(bits.numpy()).tobytes()
        (tmp_path / "output0.bin").unlink()
    assert "bfloat16 0 80 1 40" in done.stdout


@needs_compilers
@pytest.mark.parametrize("weights", ["embedded", "separate"])
def test_it_runs_on_arm(folder, tmp_path, weights):
    """The same sources, built for another architecture, under an emulator."""
    qemu = emulation.emulator().qemu
    runtime, build = folder / "runtime-arm", folder / "build-arm"
    if not runtime.exists():
        collect(runtime, emulation.FOLDER)
        source, compiler = ROOT / "examples" / "cpp", emulation.SYSTEM.compilers[0]
        system = [f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
        for command in (
            ["cmake", "-S", source, "-B", build, f"-DGRAPHPRUNE_RUNTIME={runtime}", *system],
            ["cmake", "--build", build, "--parallel", "2"],
        ):
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    artifact = compile_model(image_network(), "arm", torch.zeros(1, 3, 12, 12), weights=weights)
    artifact.save(tmp_path / "arm.gp")
    x = torch.randn(1, 3, 12, 12)
    x.numpy().tofile(tmp_path / "input.bin")

    def classify(path):
        command = [qemu, "-L", emulation.SYSROOT, build / "classify", path, tmp_path / "input.bin"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True)

    done = classify(tmp_path / "arm.gp")
    assert done.returncode == 0, done.stderr
    printed = torch.tensor([float(word) for word in done.stdout.split()])
    torch.testing.assert_close(printed[None], image_network()(x), rtol=1e-4, atol=1e-5)
    target = {**artifact.manifest["target"], "features": ["asimd", "warp_drive"]}
    done = classify(repacked(tmp_path / "arm.gp", tmp_path / "other.gp", target=target))
    assert done.returncode == 1 and "this processor lacks warp_drive" in done.stderr
    done = classify(repacked(tmp_path / "arm.gp", tmp_path / "x86.gp", target={**target, "architecture": "x86_64"}))
    assert done.returncode == 1 and "lacks x86_64 instructions" in done.stderr
