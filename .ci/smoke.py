"""What an installed GraphPrune must be able to do, away from its repository: `python smoke.py`."""

import os
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import graphprune
from graphprune import cli

MODELS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
"""


def in_python() -> None:
    """Prune, verify, compile and run."""
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    x = torch.randn(1, 8)
    slim = graphprune.optimize(net, 0.5, example_inputs=x)
    assert sum(p.numel() for p in slim.parameters()) <= sum(p.numel() for p in net.parameters()) / 2
    assert graphprune.verify(net, slim, example_inputs=x).error < 1e-9
    scores = graphprune.compile(slim, example_inputs=x, threads=1)(x)
    torch.testing.assert_close(torch.as_tensor(scores), slim(x), rtol=1e-4, atol=1e-5)


def on_the_command_line(folder: Path) -> None:
    """The same by commands, in a folder with nothing but a model in it."""
    (folder / "models.py").write_text(MODELS)
    os.chdir(folder)
    shape = "-i 1,3,8,8"
    for line in (
        f"plan models:net -o plan.json {shape}",
        f"apply models:net plan.json -o slim.safetensors {shape}",
        f"compile models:net --weights slim.safetensors -o slim.gp --threads 1 {shape}",
        "inspect slim.gp",
        "targets",
        "runtime deploy",
    ):
        sys.argv = ["graphprune", *line.split()]
        try:
            cli.main()
        except SystemExit as done:
            assert not done.code, line
    assert (folder / "slim.gp").stat().st_size > 1000
    assert (folder / "deploy" / "include" / "graphprune.h").is_file()


if __name__ == "__main__":
    in_python()
    with tempfile.TemporaryDirectory() as made:
        on_the_command_line(Path(made))
    print(f"graphprune {graphprune.__version__} works, from {Path(cli.__file__).parents[1]}")
