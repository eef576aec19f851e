"""The command line, run in this process: what it prints, what it writes, how it fails."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import graphprune
from command_line import SHAPE, SMALL, fails, parameters_of, small_net
from graphprune.backends import peers
from graphprune.backends.targets import TARGETS, get_target


def test_version_and_help(graphprune_) -> None:
    assert graphprune_("--version") == (0, f"graphprune {graphprune.__version__}\n", "")
    code, out, _ = graphprune_("optimize", "--help")
    assert code == 0
    assert "Example" in out and "--sparsity" in out


def test_explain(graphprune_, folder: Path) -> None:
    code, out, _ = graphprune_("explain", SMALL, "-i", SHAPE, "--dot", "g.dot", "--graphml", "g.graphml")
    assert code == 0
    assert "2.weight" in out
    assert "graph" in (folder / "g.dot").read_text()
    assert "<graphml" in (folder / "g.graphml").read_text()
    code, out, _ = graphprune_("explain", SMALL, "-i", SHAPE, "--json")
    found = json.loads(out)
    assert found["params"] == sum(p.numel() for p in small_net().parameters())
    assert {row["status"] for row in found["groups"]} == {"free", "locked"}


def test_optimize_writes_weights_that_load(graphprune_, folder: Path) -> None:
    code, out, err = graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE)
    assert code == 0, err
    assert "parameters" in out and "pruned equals masked" in out
    slim = graphprune.load_weights(small_net(), folder / "slim.safetensors")
    assert parameters_of(slim) <= parameters_of(small_net()) / 2
    assert slim(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_optimize_options_reach_the_plan(graphprune_, folder: Path) -> None:
    options = "--sparsity 0.3 --budget macs --criterion l1 --scope layer --multiple-of 2 --keep 0.*".split()
    code, out, err = graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE, "--json", *options)
    assert code == 0, err
    found = json.loads(out)
    assert 0 < found["macs"][1] <= 0.7 * found["macs"][0]
    assert found["verification"]["error"] < 1e-4
    slim = graphprune.load_weights(small_net(), folder / "slim.safetensors")
    assert slim[0].out_channels == 8
    assert slim[2].out_channels < 16 and slim[2].out_channels % 2 == 0


def test_programs_in_and_out(graphprune_, folder: Path) -> None:
    code, _, err = graphprune_("optimize", "cli_models:ready", "-o", "slim.pt2", "-i", SHAPE)
    assert code == 0, err
    once = torch.export.load(folder / "slim.pt2")
    code, _, err = graphprune_("optimize", "slim.pt2", "-o", "slimmer.pt2", "--sparsity", "0.3", "-i", SHAPE)
    assert code == 0, err
    twice = torch.export.load(folder / "slimmer.pt2").module()
    assert parameters_of(twice) < parameters_of(once.module()) < parameters_of(small_net())
    assert twice(torch.randn(1, 3, 8, 8)).shape == (1, 4)
    fails(graphprune_("optimize", "slim.pt2", "-o", "slimmer.safetensors"), "slimmer.pt2")


def test_verify_accepts_what_optimize_wrote_and_nothing_else(graphprune_, folder: Path) -> None:
    graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE)
    code, out, err = graphprune_("verify", SMALL, "slim.safetensors", "-i", SHAPE, "--thorough", "--json")
    assert code == 0, err
    assert json.loads(out)["error"] < 1e-9
    slim = graphprune.load_weights(small_net(), folder / "slim.safetensors")
    with torch.no_grad():
        slim[2].weight[0] += 0.1
    graphprune.save(slim, folder / "tampered.safetensors")
    code, _, err = graphprune_("verify", SMALL, "tampered.safetensors", "-i", SHAPE)
    assert code == 3
    assert err.startswith("graphprune: ")


def test_weights_are_loaded_first(graphprune_, folder: Path) -> None:
    model = small_net()
    with torch.no_grad():
        model[0].weight[::2] = 0  # nothing comes out of every second channel: these go first
        model[0].bias[::2] = 0
        model[2].weight[:, ::2] = 0
    torch.save(model.state_dict(), folder / "weights.pt")
    command = ("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE, "--sparsity", "0.1")
    code, _, err = graphprune_(*command, "--weights", "weights.pt")
    assert code == 0, err
    slim = graphprune.load_weights(small_net(), folder / "slim.safetensors")
    kept = graphprune.plan_of(slim).kept["0.weight"][0].tolist()
    assert len(kept) < 8
    assert {1, 3, 5, 7} <= set(kept)


def test_compile(graphprune_, folder: Path) -> None:
    graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE)
    code, out, err = graphprune_("compile", SMALL, "-o", "slim.gp", "--weights", "slim.safetensors", "-i", SHAPE)
    assert code == 0, err
    assert "slim.gp" in out
    x = torch.randn(1, 3, 8, 8)
    slim = graphprune.load_weights(small_net(), folder / "slim.safetensors").eval()
    torch.testing.assert_close(torch.as_tensor(graphprune.load(folder / "slim.gp")(x)), slim(x), rtol=1e-4, atol=1e-5)


def test_compile_says_how_far_tuning_got(
    graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    code, out, err = graphprune_("compile", SMALL, "-o", "tuned.gp", "-i", SHAPE, "--threads", "1", "--tune", "0")
    assert code == 0, err
    assert "tuned 0 of" in out and "0 of" in out.split(";")[1]
    code, out, err = graphprune_(
        "compile", SMALL, "-o", "tuned.gp", "-i", SHAPE, "--threads", "1", "--tune", "2", "--json"
    )
    assert code == 0, err
    tuning = json.loads(out)["tuning"]
    assert 0 < tuning["measured"] <= tuning["candidates"]
    code, _, err = graphprune_("compile", SMALL, "-o", "tuned.gp", "-i", SHAPE, "--tune", "-1")
    assert code == 1 and "tune must be" in err


def test_bench_compares_dense_and_slim_with_other_runtimes(
    graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    options = ("-i", SHAPE, *"--repeats 2 --sparsity 0.4 --budget params --multiple-of 2".split())
    before = sorted(folder.iterdir())
    code, out, err = graphprune_("bench", SMALL, *options, "--json", "--profile")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["seconds"]) == {"dense", "slim"} and found["threads"] == 1
    for seconds in found["seconds"].values():
        assert set(seconds) == {"artifact", "ONNX Runtime", "PyTorch"} and min(seconds.values()) > 0
    assert found["params"][0] == parameters_of(small_net()) and 0 < found["params"][1] <= 0.6 * found["params"][0]
    assert 0 < found["macs"][1] < found["macs"][0] and 0 < max(found["difference"].values()) < 1e-5
    for profile in found["profiles"].values():
        assert any("convolution" in row["description"] for row in profile["kernels"])
    code, out, err = graphprune_("bench", SMALL, *options)
    assert code == 0, err
    assert "dense / slim" in out and "ONNX Runtime" in out and "1 thread" in out
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_bench_of_an_onnx_model(graphprune_, folder: Path) -> None:
    torch.onnx.export(small_net(), (torch.randn(1, 3, 8, 8),), folder / "small.onnx", dynamo=False)
    options = "--repeats 1 --threads 2 --multiple-of 1 --json".split()
    code, out, err = graphprune_("bench", "small.onnx", *options)
    assert code == 0, err
    found = json.loads(out)
    assert set(found["seconds"]["slim"]) == {"artifact", "ONNX Runtime"} and found["threads"] == 2
    assert found["macs"][1] <= 0.5 * found["macs"][0] and max(found["difference"].values()) < 1e-5
    fails(graphprune_("bench", "absent.onnx"), "absent.onnx")
    fails(graphprune_("bench", "small.onnx", "--sparsity", "1.5"), "1.5", 4)


def test_targets_are_listed_with_what_is_missing(graphprune_, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = graphprune_("targets", "--json")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["targets"]}
    assert set(rows) == set(TARGETS)
    assert any(row["runs"] and row["builds"] for row in rows.values())
    assert rows["arm-cortex-a72"]["alignment"] == 4 and "Raspberry Pi 4" in rows["arm-cortex-a72"]["purpose"]
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = graphprune_("targets")
    assert code == 0, err
    assert all(name in out for name in TARGETS)
    assert "g++-aarch64-linux-gnu" in out and "lacks" in out


def test_an_artifact_is_inspected_and_measured(graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    code, _, err = graphprune_("compile", SMALL, "-o", "small.gp", "-i", SHAPE, "--examine")
    assert code == 0, err
    code, out, err = graphprune_("inspect", "small.gp", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["runs_here"] and found["inputs"][0]["shape"] == [1, 3, 8, 8]
    assert any(loop["products"] for loop in found["code"].values())
    code, out, _ = graphprune_("inspect", "small.gp")
    assert code == 0 and "multiply-add" in out and "float32[1, 3, 8, 8]" in out
    code, out, err = graphprune_("bench", "small.gp", "--repeats", "2", "--json")
    assert code == 0, err
    assert json.loads(out)["seconds"]["median"] > 0
    code, out, _ = graphprune_("bench", "small.gp", "--repeats", "2")
    assert code == 0 and "median" in out
    fails(graphprune_("bench", "small.gp", "--sparsity", "0.3"), "--sparsity is for models")
    fails(graphprune_("bench", "small.gp", "--rpc", "nowhere"), "an address looks like")
    fails(graphprune_("bench", SMALL, "-i", SHAPE, "--rpc", "pi:9090"), "compile the model first")
    fails(graphprune_("inspect", "absent.gp"), "absent.gp")


def test_bench_with_torch_compile(graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    eager = peers.eager

    def compiled(model: torch.nn.Module, inputs: tuple, freezing: bool):
        made.append(freezing)
        return eager(model, inputs)

    monkeypatch.setattr(peers, "inductor", compiled)  # the compiler takes its time
    code, out, err = graphprune_("bench", SMALL, "-i", SHAPE, "--repeats", "1", "--multiple-of", "4", "--inductor")
    assert code == 0, err
    assert len(made) == 2 and "torch.compile" in out


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nonsense", "package.module:callable"),
        ("no_such_module:net", "no_such_module"),
        ("cli_models:absent", "absent"),
        ("cli_models:number", "int"),
        ("cli_models:broken", "no weights here"),
        ("os:getcwd", "str"),
        ("absent.pt2", "absent.pt2"),
        ("damaged.pt2", "damaged.pt2"),
    ],
)
def test_a_wrong_model_is_one_clear_line(graphprune_, folder: Path, model: str, said: str) -> None:
    (folder / "damaged.pt2").write_bytes(b"not a program")
    fails(graphprune_("optimize", model, "-o", "slim.safetensors"), said)
    assert not (folder / "slim.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-i", "1,3,x"), "1,3,x"),
        (("-i", "1,3,8,8:float33"), "float33"),
        (("-i", "1,5,8,8"), ""),
        (("-i", SHAPE, "--sparsity", "1.5"), "must lie between 0 and 1"),
        (("-i", SHAPE, "--sparsity", "0.9999"), "What stands in the way"),
        (("-i", SHAPE, "--criterion", "magic"), "magic"),
        (("-i", SHAPE, "--weights", "absent.pt"), "absent.pt"),
        (("-i", SHAPE, "--weights", "cli_models.py"), "cli_models.py"),
    ],
)
def test_wrong_options_are_one_clear_line(graphprune_, folder: Path, options: tuple[str, ...], said: str) -> None:
    fails(graphprune_("optimize", SMALL, "-o", "slim.safetensors", *options), said, 4 if "--sparsity" in options else 1)
    assert not (folder / "slim.safetensors").exists()


def test_budgets_and_bounds_reach_the_plan(graphprune_, folder: Path) -> None:
    options = "--budget params=0.4 --budget macs --sparsity 0.3 --width 0=:6 --width 2.*=10: --min-width 3".split()
    code, out, err = graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE, "--json", *options)
    assert code == 0, err
    found = json.loads(out)
    assert found["params"][1] <= 0.6 * found["params"][0] and found["macs"][1] <= 0.7 * found["macs"][0]
    assert {"bytes", "memory"} < set(found) and "latency" not in found
    slim = graphprune.load_weights(small_net(), folder / "slim.safetensors")
    assert slim[0].out_channels <= 6 and slim[2].out_channels >= 10
    code, out, err = graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE, "--budget", "memory")
    assert code == 0 and "peak memory of activations" in out, err


def test_latency_on_the_command_line(graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a machine on which no pruned model is faster, and one on which all are."""
    from graphprune.latency import Clock
    from graphprune.passes import prune_to_latency

    monkeypatch.setattr(prune_to_latency, "compile_model", lambda model, **_: None)
    monkeypatch.setattr(prune_to_latency, "clock_of", lambda analysis, *_: Clock.of(analysis, {}, 8, 1.0))
    monkeypatch.setattr("graphprune.latency.layers_of", lambda _: [])
    asked = ("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE, "--target", "x86-avx2", "--latency", "85 %")
    monkeypatch.setattr(prune_to_latency, "seconds_of", lambda programs, _: dict.fromkeys(programs, 1.0))
    fails(graphprune_(*asked), "not faster, so nothing is written", 4)
    assert not (folder / "slim.safetensors").exists()
    monkeypatch.setattr(prune_to_latency, "seconds_of", lambda programs, _: {"dense": 1.0, "slim": 0.85})
    code, out, err = graphprune_(*asked)
    assert code == 0 and "latency, measured" in out, err
    assert (folder / "slim.safetensors").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("optimize", SMALL, "-o", "slim.pt2", "--budget", "macs=half"),
        ("optimize", SMALL, "-o", "slim.pt2", "--width", "8"),
        ("optimize", SMALL, "-o", "slim.pt2", "--width", "0=a:b"),
        ("optimize", SMALL, "-o", "slim.pt2", "--min-width", "few"),
        ("optimize", SMALL),
        ("optimize", SMALL, "-o", "slim.txt"),
        ("optimize", SMALL, "-o", "slim.pt2", "--budget", "euros"),
    ],
)
def test_wrong_usage_exits_with_2(graphprune_, folder: Path, arguments: tuple[str, ...]) -> None:
    assert graphprune_(*arguments)[0] == 2


def test_control_c_leaves_nothing_behind(graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    before = sorted(folder.iterdir())
    assert graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE)[0] == 130
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_inspect_tells_what_is_inside(graphprune_, folder: Path) -> None:
    options = ("-i", SHAPE, "--threads", "1", "--separate-weights", "--measure", "--json")
    code, out, err = graphprune_("compile", SMALL, "-o", "small.gp", *options)
    assert code == 0, err
    latency = json.loads(out)["latency"]
    assert latency["milliseconds"] > 0 and json.loads(out)["bytes"] == (folder / "small.gp").stat().st_size
    code, out, err = graphprune_("inspect", "small.gp", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["runs_here"] and found["latency"] == latency and found["inputs"][0]["shape"] == [1, 3, 8, 8]
    assert set(found["sizes"]) == {"manifest.json", "manifest.sha256", "library.so", "weights.bin"}
    code, out, err = graphprune_("inspect", "small.gp")
    assert code == 0, err
    for said in (
        get_target("x86").name,
        "runs here",
        "float32[1, 3, 8, 8]",
        "weights.bin",
        "median of",
        found["fingerprint"],
    ):
        assert said in out
    (folder / "small.gp").write_bytes((folder / "small.gp").read_bytes()[:-1])
    fails(graphprune_("inspect", "small.gp"), "not a complete artifact")


def test_inspect_of_a_pruned_model_for_another_machine(
    graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE)[0] == 0
    options = ("--weights", "slim.safetensors", "-i", SHAPE, "--folder")
    code, out, err = graphprune_("compile", SMALL, "-o", "slim", *options)
    assert code == 0, err
    monkeypatch.setattr("graphprune.backends.targets.host_architecture", lambda: "riscv64")
    code, out, err = graphprune_("inspect", "slim")
    assert code == 0, err
    for said in ("no: this machine lacks x86_64 instructions", "params pruned", "plan.json"):
        assert said in out
    fails(graphprune_("inspect", "absent.gp"), "absent.gp")


def test_runtime_collects_what_runs_artifacts(graphprune_, folder: Path) -> None:
    code, out, err = graphprune_("runtime", "deploy", "--json")
    assert code == 0, err
    sizes = json.loads(out)["sizes"]
    assert sizes["lib/libtvm_runtime.so"] == (folder / "deploy/lib/libtvm_runtime.so").stat().st_size
    assert (folder / "deploy/python/graphprune/__init__.py").exists() and sizes["python"] < 200_000
    fails(graphprune_("runtime", "deploy"), "deploy exists")


def test_weights_become_zero_on_the_command_line(graphprune_, folder: Path) -> None:
    asked = ("optimize", SMALL, "-o", "sparse.safetensors", "-i", SHAPE, "--json")
    code, out, err = graphprune_(*asked, "--structure", "block:4x1", "--sparsity", "0.6", "--budget", "weights")
    assert code == 0, err
    found = json.loads(out)
    assert 0 < found["weights"][1] <= 0.4 * found["weights"][0] and found["verification"]["error"] < 1e-9
    sparse = graphprune.load_weights(small_net(), folder / "sparse.safetensors")
    kernel = sparse[2].weight.detach()  # tiles are four outputs of one input
    zero = (kernel == 0).reshape(4, 4, -1)
    assert zero.any() and bool((zero.all(1) == zero.any(1)).all())
    fails(graphprune_(*asked, "--structure", "2:4", "--min-width", "4"), "min_width= goes with structure='channel'")
    fails(graphprune_(*asked, "--structure", "4:2"), "first number")
    fails(graphprune_(*asked, "--budget", "weights"), "choose one of params, macs")


def test_files_of_calibration_data(graphprune_, folder: Path) -> None:
    """The same batches from files and by hand give the same models."""
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((70, 3, 8, 8)), generator.integers(0, 4, 70)
    np.save(folder / "images.npy", images)
    np.savez(folder / "named.npz", input=images.astype(np.float32), targets=labels)
    parts = [slice(0, 32), slice(32, 64), slice(64, 70)]
    batches = [torch.from_numpy(images[part]).float() for part in parts]
    pairs = [(batch, torch.from_numpy(labels[part])) for batch, part in zip(batches, parts, strict=True)]
    for file, data, options in (
        ("named.npz", pairs, {"criterion": "taylor"}),
        ("images.npy", batches, {"recover": "least_squares"}),
        ("images.npy", batches, {"criterion": "sparsegpt", "structure": "2:4", "keep": "0"}),
    ):
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        code, out, err = graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE, "--data", file, *words)
        assert code == 0, err
        assert ("before recovery" in out) == ("recover" in options)
        expected = graphprune.optimize(small_net(), example_inputs=torch.randn(1, 3, 8, 8), data=data, **options)
        slim = graphprune.load_weights(small_net(), folder / "slim.safetensors")
        for name, tensor in expected.state_dict().items():
            assert torch.allclose(tensor, slim.state_dict()[name], rtol=1e-4, atol=1e-5), name
    plain = graphprune.optimize(small_net(), example_inputs=torch.randn(1, 3, 8, 8))
    by_gradient = graphprune.optimize(
        small_net(), example_inputs=torch.randn(1, 3, 8, 8), data=pairs, criterion="taylor"
    )
    assert graphprune.plan_of(plain) != graphprune.plan_of(by_gradient)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((4, 3, 8, 8)), "targets": np.zeros(5)}, "as many samples"),
        ({"targets": np.zeros(5)}, "as many samples"),
        ({"x": np.float32(1)}, "as many samples"),
        ({"x": np.zeros((0, 3, 8, 8))}, "no samples"),
        ({"x": np.array(["a", "b"])}, "no tensor"),
        ({"x": np.zeros((4, 5, 8, 8))}, "batch 0"),
        ({"arr_0": np.full((4, 3, 8, 8), np.nan)}, "NaN"),
        ({"x": np.array([{}, {}], dtype=object)}, "no file of numbers"),
    ],
)
def test_wrong_files_of_data_are_one_clear_line(graphprune_, folder: Path, arrays, said: str) -> None:
    np.savez(folder / "data.npz", **arrays)
    options = ("-i", SHAPE, "--criterion", "taylor", "--data")
    fails(graphprune_("optimize", SMALL, "-o", "slim.safetensors", *options, "data.npz"), said)
    fails(graphprune_("optimize", SMALL, "-o", "slim.safetensors", *options, "absent.npz"), "there is no file")
    fails(graphprune_("optimize", SMALL, "-o", "slim.safetensors", *options, "cli_models.py"), "no file of numbers")
    assert not (folder / "slim.safetensors").exists()
