"""What the tests of the command line share: a module of models, and the command line run in this process."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

from graphprune.cli import main

MODELS = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))

ready = small()
number = 3

def broken():
    raise RuntimeError("no weights here")
"""
SMALL, SHAPE = "cli_models:small", "1,3,8,8"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a module of models."""
    (tmp_path / "cli_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "cli_models", raising=False)
    return tmp_path


@pytest.fixture
def graphprune_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command line; gives exit code, stdout, stderr."""

    monkeypatch.setattr("warnings.formatwarning", warnings.formatwarning)  # main() changes it

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["graphprune", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return run


def fails(outcome: tuple[int, str, str], said: str, code: int = 1) -> None:
    """One clear line on stderr and nothing else; the exit code."""
    found, out, err = outcome
    assert found == code, err
    assert out == ""
    assert "Traceback" not in err
    (line,) = (line for line in err.splitlines() if line.startswith("graphprune: "))
    assert said in line


def small_net() -> torch.nn.Module:
    namespace: dict = {}
    exec(MODELS, namespace)
    return namespace["small"]()


def parameters_of(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
