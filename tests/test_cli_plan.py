"""`graphprune plan` and `graphprune apply`: together they do what `optimize` does, in two steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import graphprune
from command_line import SHAPE, SMALL, fails, parameters_of, small_net
from graphprune.passes import prune_channels

OPTIONS = "--sparsity 0.4 --budget macs --criterion l1 --multiple-of 2 --keep 0.*".split()


def test_plan_then_apply_is_optimize(graphprune_, folder: Path) -> None:
    code, out, err = graphprune_("plan", SMALL, "-o", "plan.json", "-i", SHAPE, *OPTIONS)
    assert code == 0, err
    assert "2.weight" in out and "16 x 8 x 3 x 3" in out and "plan.json" in out
    assert graphprune_("apply", SMALL, "plan.json", "-o", "two.safetensors", "-i", SHAPE)[0] == 0
    assert graphprune_("optimize", SMALL, "-o", "one.safetensors", "-i", SHAPE, *OPTIONS)[0] == 0
    one, two = (graphprune.load_weights(small_net(), folder / f"{name}.safetensors") for name in ("one", "two"))
    assert parameters_of(two) < parameters_of(small_net())
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


def test_what_plan_tells_is_what_the_file_holds(graphprune_, folder: Path) -> None:
    code, out, err = graphprune_("plan", SMALL, "-o", "plan.json", "-i", SHAPE, "--json", *OPTIONS)
    assert code == 0, err
    found, plan = json.loads(out), graphprune.Plan.load(folder / "plan.json")
    kept = {name: [index.size for _, index in sorted(axes.items())] for name, axes in plan.kept.items()}
    assert found["layers"]["2.weight"] == {"before": [16, 8, 3, 3], "after": [kept["2.weight"][0], 8, 3, 3]}
    assert found["layers"]["5.weight"] == {"before": [4, 256], "after": [4, kept["5.weight"][0]]}
    assert set(found["layers"]) == {"2.weight", "5.weight"}  # biases go with their layers
    assert found["exact"] is True and 0 < found["macs"][1] <= 0.6 * found["macs"][0]
    # by hand: convolutions at 6 x 6 and 4 x 4, then the linear layer
    width = kept["2.weight"][0]
    assert found["macs"][1] == 36 * 8 * 27 + 16 * width * 8 * 9 + 4 * 16 * width


def test_apply_equals_the_masked_original(graphprune_, folder: Path) -> None:
    """Computed here, without the verification of the command."""
    assert graphprune_("plan", SMALL, "-o", "plan.json", "-i", SHAPE)[0] == 0
    code, out, err = graphprune_("apply", SMALL, "plan.json", "-o", "slim.pt2", "-i", SHAPE, "--json", "--thorough")
    assert code == 0, err
    assert json.loads(out)["verification"]["runs"] == 3
    plan, masked = graphprune.Plan.load(folder / "plan.json"), small_net().double()
    state = masked.state_dict()
    for name in plan.kept:
        state[name] *= torch.from_numpy(np.broadcast_to(plan.mask(name), state[name].shape).copy())
    slim = torch.export.load(folder / "slim.pt2").module().double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    expected = masked(x)
    torch.testing.assert_close(slim(x), expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(small_net().double()(x), expected, rtol=1e-3)  # something went
    masked.load_state_dict(state | {"0.bias": state["0.bias"] + 1})
    assert not torch.allclose(slim(x), masked(x), rtol=1e-3)


def test_a_plan_goes_from_a_module_to_its_export(graphprune_, folder: Path) -> None:
    torch.onnx.export(small_net(), (torch.randn(1, 3, 8, 8),), folder / "small.onnx", dynamo=False)
    assert graphprune_("plan", SMALL, "-o", "plan.json", "-i", SHAPE)[0] == 0
    code, out, err = graphprune_("apply", "small.onnx", "plan.json", "-o", "slim.onnx", "--json")
    assert code == 0, err
    module = graphprune.Plan.load(folder / "plan.json").apply(small_net())
    assert json.loads(out)["params"] == [parameters_of(small_net()), parameters_of(module)]
    assert graphprune_("verify", "small.onnx", "slim.onnx")[0] == 0


def test_apply_refuses_what_does_not_fit(graphprune_, folder: Path) -> None:
    (folder / "other_models.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 2))"
    )
    (folder / "damaged.json").write_text("{}")
    assert graphprune_("plan", SMALL, "-o", "plan.json", "-i", SHAPE)[0] == 0
    asked = ("-o", "slim.safetensors", "-i", SHAPE)
    fails(graphprune_("apply", "other_models:net", "plan.json", *asked), "another model")
    fails(graphprune_("apply", SMALL, "damaged.json", *asked), "damaged.json")
    fails(graphprune_("apply", SMALL, "absent.json", *asked), "absent.json")
    assert graphprune_("apply", SMALL, "plan.json", "-o", "slim.txt")[0] == 2
    assert not list(folder.glob("slim*"))


def test_a_plan_that_cannot_be_applied_is_not_written(graphprune_, folder: Path, monkeypatch) -> None:
    """A plan is tried on a copy first: here all attempts fail."""
    from graphprune.errors import ApplyError

    def refuse(*_: object) -> None:
        raise ApplyError("a size is written into forward()")

    torch_modules = prune_channels.frontend_of(small_net())
    monkeypatch.setattr(torch_modules, "apply", refuse)
    fails(graphprune_("plan", SMALL, "-o", "plan.json", "-i", SHAPE), "written into forward()")
    assert not (folder / "plan.json").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("-o", "plan.txt"), 2),
        (("-o", "cli_models.py/plan.json"), 2),
        (("-o", "plan.json", "--budget", "weights"), 1),
        (("-o", "plan.json", "--sparsity", "0.9999"), 4),
        (("-o", "plan.json", "--structure", "2:4"), 2),
    ],
)
def test_plans_that_cannot_be(graphprune_, folder: Path, options: tuple[str, ...], code: int) -> None:
    assert graphprune_("plan", SMALL, "-i", SHAPE, *options)[0] == code
    assert not (folder / "plan.json").exists()


def test_no_plan_where_pruning_makes_nothing_faster(graphprune_, folder: Path, monkeypatch) -> None:
    from graphprune.latency import Clock
    from graphprune.passes import prune_to_latency

    monkeypatch.setattr(prune_to_latency, "compile_model", lambda model, **_: None)
    monkeypatch.setattr(prune_to_latency, "clock_of", lambda analysis, *_: Clock.of(analysis, {}, 8, 1.0))
    monkeypatch.setattr("graphprune.latency.layers_of", lambda _: [])
    monkeypatch.setattr(prune_to_latency, "seconds_of", lambda programs, _: dict.fromkeys(programs, 1.0))
    asked = ("plan", SMALL, "-o", "plan.json", "-i", SHAPE, "--target", "x86-avx2", "--latency", "85 %")
    fails(graphprune_(*asked), "not faster", 4)
    assert not (folder / "plan.json").exists()


def test_a_program_is_verified_with_its_plan(graphprune_, folder: Path) -> None:
    assert graphprune_("plan", SMALL, "-o", "plan.json", "-i", SHAPE)[0] == 0
    assert graphprune_("apply", SMALL, "plan.json", "-o", "slim.pt2", "-i", SHAPE)[0] == 0
    asked = ("verify", SMALL, "slim.pt2", "-i", SHAPE)
    code, out, err = graphprune_(*asked, "--plan", "plan.json", "--json")
    assert code == 0 and json.loads(out)["error"] < 1e-9, err
    fails(graphprune_(*asked), "the plan that made it")
    assert graphprune_("plan", SMALL, "-o", "other.json", "-i", SHAPE, "--sparsity", "0.3")[0] == 0
    assert graphprune_(*asked, "--plan", "other.json")[0] in (1, 3)
