"""The demo, with little training: every step runs and every figure is there."""

import io
from pathlib import Path

import pytest
from rich.console import Console

import graphprune
from graphprune import demo
from graphprune.backends.survey import survey


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")
    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(demo, "FINE_TUNING_EPOCHS", 1)
    monkeypatch.setattr(demo, "TURNS", 3)
    printed = io.StringIO()
    figures = demo.run(tmp_path / "out", console=Console(file=printed, width=120))
    for before, after in (figures["params"], *figures["bytes"].values()):
        assert 0 < after < before
    assert figures["params"][1] <= figures["params"][0] / 2
    assert figures["error"] < 1e-9
    assert len(figures["accuracy"]) == 3
    assert all(value > 0 for pair in figures["seconds"].values() for value in pair)
    assert "compiled" in printed.getvalue() and "1 thread" in printed.getvalue()
    made = {path.name for path in (tmp_path / "out").iterdir()}
    models = {f"{name}.{kind}" for name in ("dense", "slim") for kind in ("safetensors", "gp")}
    elsewhere = {machine.file for machine in demo.ELSEWHERE if can_build(machine.target)}
    assert made == models | elsewhere | {"channels.png"}
    for machine in demo.ELSEWHERE:
        path = tmp_path / "out" / machine.file
        said = f"{path} is for" if path.exists() else f"{path} was not made: no "
        assert said in printed.getvalue()
    slim = graphprune.load_weights(demo.DigitNet(), tmp_path / "out" / "slim.safetensors")
    assert sum(parameter.numel() for parameter in slim.parameters()) == figures["params"][1]


def can_build(target: str) -> bool:
    return next(row for row in survey() if row.name == target).builds


def test_seed_decides_everything() -> None:
    """Two trainings with one seed give the same weights."""
    pytest.importorskip("sklearn")
    import torch

    digits = demo.load_digits()
    few = demo.Digits(digits.train_x[:128], digits.train_y[:128], digits.test_x, digits.test_y)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        model = demo.DigitNet()
        demo.train(model, few, 1, 0.1, 3, lambda: None)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-4, atol=1e-5)
