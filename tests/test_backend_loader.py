"""Artifacts run in an environment that has neither torch nor the compiler: numpy, tvm_ffi, and one collected folder."""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from graphprune.backends import runtime
from graphprune.backends.artifact import load
from graphprune.backends.collecting import collect
from graphprune.backends.compiler import compile_model
from graphprune.errors import TargetError

CODE = """
import importlib.util, json, sys
absent = [name for name in ("torch", "tvm", "onnx", "rich", "networkx") if importlib.util.find_spec(name) is None]
import numpy as np
import graphprune
artifact = graphprune.load(sys.argv[1], threads=1)
result = artifact(np.load(sys.argv[2]))
np.save(sys.argv[3], result)
maps = open("/proc/self/maps").read()
messages = []
for attempt in (lambda: graphprune.compile, lambda: artifact.profile(np.load(sys.argv[2]))):
    try:
        attempt()
    except graphprune.GraphPruneError as error:
        messages.append(str(error))
found = {"absent": absent, "file": graphprune.__file__, "compiler": "libtvm_compiler" in maps, "messages": messages}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with copies of numpy and apache-tvm-ffi from this one, and nothing else."""
    folder = tmp_path_factory.mktemp("loader") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(folder), "platbase": str(folder)}))
    for name in ("numpy", "apache-tvm-ffi", "typing-extensions"):
        found = distribution(name)
        for file in found.files:
            if ".." not in file.parts and "tests" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found.locate_file(file), site / file)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 33, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1188, 10))
    path = tmp_path_factory.mktemp("artifact") / "net.gp"
    compile_model(model, "x86", torch.zeros(1, 3, 8, 8), weights="separate").save(path)
    return path


@pytest.mark.parametrize("named", [False, True])
def test_it_runs_without_torch_and_without_the_compiler(environment, path, tmp_path, named):
    collect(tmp_path / "runtime")
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "runtime" / "python")}
    if named:  # the library lies elsewhere, and a variable says where
        shutil.move(tmp_path / "runtime" / "lib", tmp_path / "libraries")
        variables["GRAPHPRUNE_RUNTIME"] = str(tmp_path / "libraries")
    command = [environment, "-c", CODE, path, tmp_path / "x.npy", tmp_path / "y.npy"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=variables, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["absent"] == ["torch", "tvm", "onnx", "rich", "networkx"] and not found["compiler"]
    assert Path(found["file"]).is_relative_to(tmp_path)
    assert [message.partition(" is not in")[0] for message in found["messages"]] == [
        "graphprune.api",
        "graphprune.backends.profile",
    ]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), load(path, threads=1)(x))


def test_a_library_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAPHPRUNE_RUNTIME", str(tmp_path))
    with pytest.raises(TargetError, match="GRAPHPRUNE_RUNTIME names .* which does not hold it"):
        runtime.runtime_library()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtvm_runtime.so").write_bytes(b"")
    assert runtime.runtime_library() == tmp_path / "lib" / "libtvm_runtime.so"
    monkeypatch.delenv("GRAPHPRUNE_RUNTIME")
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="graphprune runtime FOLDER"):
        runtime.runtime_library()
