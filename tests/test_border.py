"""Frameworks stay on their side: in frontends and backends, imported on first use."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def ruff(*arguments: str, code: str = "") -> subprocess.CompletedProcess:
    if find_spec("ruff") is None:
        pytest.skip("ruff is not installed: pip install 'graphprune[lint]'")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251", *arguments]
    return subprocess.run(command, cwd=ROOT, input=code, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("imported", ["graphprune", "graphprune.cli", "graphprune.analysis", "graphprune.plan"])
def test_importing_loads_no_framework(imported: str, tmp_path: Path) -> None:
    frameworks = "{'torch', 'tvm', 'tvm_ffi', 'onnx', 'onnxruntime', 'torchvision'}"
    done = python(f"import sys, {imported}; print(sorted({frameworks} & set(sys.modules)))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_pruning_needs_no_compiler(tmp_path: Path) -> None:
    code = """
import sys, torch, graphprune
sys.modules["tvm"] = sys.modules["tvm_ffi"] = None  # as where they are not installed
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
slim = graphprune.optimize(net, 0.5, example_inputs=torch.randn(1, 4), recover=True, data=[torch.randn(8, 4)])
print(slim[0].out_features)
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_folders_are_no_packages_of_their_own(name: str, tmp_path: Path) -> None:
    """`passes/` and `backends/` install as `graphprune.passes` and `graphprune.backends` only."""
    done = python(f"import {name}", tmp_path)
    assert done.returncode != 0
    assert f"No module named '{name}'" in done.stderr
    assert python(f"import graphprune.{name}", tmp_path).returncode == 0


@pytest.mark.parametrize("framework", ["torch", "onnx", "tvm", "tvm_ffi"])
def test_the_rule_fires_in_the_core_and_only_there(framework: str) -> None:
    code = f"import {framework}\n"
    core = ruff("--stdin-filename", "graphprune/offender.py", "-", code=code)
    assert core.returncode == 1
    assert "TID251" in core.stdout
    backend = ruff("--stdin-filename", "backends/welcome.py", "-", code=code)
    assert backend.returncode == 0, backend.stdout


def test_the_rule_is_kept() -> None:
    done = ruff(".")
    assert done.returncode == 0, done.stdout
