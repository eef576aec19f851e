"""Ctrl-C in the middle of a command, in a process of its own: nothing is left half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import graphprune
from graphprune.backends import compiler

ROOT = Path(__file__).parents[1]

SLOW = """
import time
from pathlib import Path
import torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        if x.dtype == torch.float64:  # the verification
            Path("running").touch()
            time.sleep(60)
        return self.second(torch.relu(self.first(x)))

def quick():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
"""

LINKER = "#!{python}\nimport pathlib, time\npathlib.Path({marker!r}).touch()\ntime.sleep(60)\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to work in, one for temporary files, and a linker that takes a minute."""
    for name in ("work", "temporary", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "work" / "slow_models.py").write_text(SLOW)
    for name in ("g++", "c++", "clang++", "gcc", "cc", "clang"):
        linker = tmp_path / "bin" / name
        linker.write_text(LINKER.format(python=sys.executable, marker=str(tmp_path / "work" / "running")))
        linker.chmod(0o755)
    return tmp_path


COMMANDS = {
    "optimize": ("optimize", "slow_models:Slow", "-o", "out.safetensors", "-i", "1,8"),
    "compile": ("compile", "slow_models:quick", "-o", "out.gp", "-i", "1,8", "--threads", "1"),
}


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("optimize", signal.SIGINT, 130),
        ("compile", signal.SIGINT, 130),
        ("optimize", signal.SIGTERM, 143),
    ],
)
def test_a_signal_leaves_nothing_behind(place: Path, command: str, number: int, code: int) -> None:
    process = start(place, COMMANDS[command])
    try:
        wait_for(place / "work" / "running", process)
        made = set(os.listdir(place / "temporary")) | {path.name for path in (place / "work").iterdir()}
        # As a terminal does it: to all processes that belong to the command.
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert out == "" and err.splitlines()[-1] == "graphprune: stopped"
    assert "Traceback" not in err
    assert {path.name for path in (place / "work").iterdir()} <= {"slow_models.py", "running", "__pycache__"}
    assert not [name for name in os.listdir(place / "temporary") if "graphprune" in name]
    if command == "compile":  # there was something to clean up
        assert any(name.startswith("graphprune-") for name in made)


def test_an_interrupt_inside_a_compiler_pass_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are called from C++, and the library must not turn Ctrl-C into a failed compilation."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(compiler, "first", interrupted)  # chooses among schedules, inside a pass
        graphprune.compile(net, example_inputs=torch.randn(1, 8), threads=1)
    assert graphprune.compile(net, example_inputs=torch.randn(1, 8), threads=1)  # and the next one works


def start(place: Path, command: tuple[str, ...]) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    environment = os.environ | {
        "PATH": path,
        "TMPDIR": str(place / "temporary"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "graphprune", *command],
        cwd=place / "work",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)
