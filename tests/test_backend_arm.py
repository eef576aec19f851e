"""Artifacts for ARM: right under an emulator, their loops free of spills, and refused where they cannot run."""

import copy
import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphprune
import test_backend_attention as attention
import test_backend_families as families
import test_backend_functions as functions
import test_backend_models as models
from emulation import compile_emulated, emulator, need_linker
from graphprune.backends import linker
from graphprune.backends.artifact import read
from graphprune.backends.compiler import compile_model
from graphprune.backends.host import host_architecture
from graphprune.backends.targets import TARGETS, get_target
from graphprune.errors import CompileError, InputError, OptionError, TargetError
from helpers import randomise

ARM = [name for name, target in TARGETS.items() if target.family == "arm"]
TOLERANCE = 1e-5

pytestmark = pytest.mark.skipif(host_architecture() != "x86_64", reason="ARM is emulated on x86 machines only")


@pytest.fixture(autouse=True)
def linker_for_arm():
    need_linker()


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.shortcut(x))


def cnn():
    """A residual network: 7x7, 3x3 with and without stride, 1x1, pools, a head."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    body = (Residual(16, 24, 1), Residual(24, 40, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10))
    return nn.Sequential(stem, *body), torch.randn(1, 3, 33, 40)


def depthwise():
    """Inverted bottlenecks, as in MobileNet."""

    def unit(inputs, wide, outputs, kernel, stride):
        parts = (nn.Conv2d(inputs, wide, 1), nn.BatchNorm2d(wide), nn.Hardswish())
        middle = (nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6())
        return nn.Sequential(*parts, *middle, nn.Conv2d(wide, outputs, 1), nn.BatchNorm2d(outputs))

    body = (unit(8, 24, 12, 3, 1), unit(12, 40, 16, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *body), torch.randn(2, 3, 26, 30)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.first = nn.TransformerEncoderLayer(32, 4, 72, dropout=0.0, activation="gelu", batch_first=True)
        self.second = nn.TransformerEncoderLayer(32, 4, 72, dropout=0.0, norm_first=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens):
        y = self.second(self.first(self.embed(tokens)))
        return F.log_softmax(self.head(y), -1), y.mean(1)


def transformer():
    """Two encoder layers over tokens."""
    return Transformer(), torch.randint(0, 50, (2, 13))


PROGRAMS = {"cnn": cnn, "depthwise": depthwise, "transformer": transformer}


def leaves(value):
    return [value] if isinstance(value, torch.Tensor) else list(value)


def assert_right(model, x, artifact, **options):
    """An artifact under the emulator against the model in double precision."""
    with torch.no_grad():
        wanted = copy.deepcopy(model).double()(x.double() if x.is_floating_point() else x)
    for exact, have in zip(leaves(wanted), emulator().run(artifact, x, **options), strict=True):
        assert exact.shape == have.shape and exact.std() > 0
        assert (exact - have).abs().max() <= TOLERANCE * exact.abs().max()


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name, pruned, tmp_path):
    """What was saved for a Raspberry Pi computes there what torch computes, dense and pruned."""
    emulator()
    model, x = PROGRAMS[name]()
    randomise(model.eval())
    target = get_target("arm-cortex-a72")
    if pruned:
        slim = graphprune.optimize(model, 0.4, example_inputs=x, target=target.name)
        assert sum(p.numel() for p in slim.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
        model = slim
    artifact = graphprune.compile(model, target=target.name, example_inputs=x)
    artifact.save(tmp_path / "model.gp")
    assert_right(model, x, read(tmp_path / "model.gp"), cpu="cortex-a72", threads=2)


# Processors that the emulator knows; what it does not know is run on one that can do everything.
CPUS = {"arm-cortex-a72": "cortex-a72", "arm-cortex-a76": "cortex-a76", "arm-neoverse-n1": "neoverse-n1"}


@pytest.mark.parametrize("target", [name for name in ARM if TARGETS[name].triple.endswith("linux-gnu")])
def test_every_target(target):
    """Instructions of every target, on the processor that it is for."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 10, 3), nn.GELU(), nn.Conv2d(10, 10, 3, groups=10))
            self.head = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 9))

        def forward(self, x):
            y = self.body(x).flatten(2).transpose(1, 2)
            return self.head(y).softmax(-1), F.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None])

    model, x = randomise(Net().eval()), torch.randn(1, 3, 9, 9)
    assert_right(model, x, compile_model(model, target, x), cpu=CPUS.get(target, "max"))


@pytest.fixture
def on_arm(monkeypatch):
    """Tests of the other files compile for ARM, and run in the emulator."""
    emulator()
    for module in (attention, families, functions, models):
        monkeypatch.setattr(module, "compile_model", compile_emulated)
    monkeypatch.setattr(families, "kernels", lambda artifact: [])


def some(cases, *places):
    """Cases of another file: those at some places always, all of them among the slow tests."""
    return [pytest.param(case, marks=() if place in places else pytest.mark.slow) for place, case in enumerate(cases)]


@pytest.mark.parametrize("case", some(models.CONVOLUTIONS, 6, 10), ids=str)
def test_convolutions(case, on_arm):
    models.test_convolution(case, 1)


@pytest.mark.parametrize("case", some(families.TRANSPOSED, 0), ids=str)
def test_transposed_convolutions(case, on_arm):
    families.test_transposed_convolution(case, 1)


@pytest.mark.parametrize("case", some(families.VOLUMES, 1), ids=str)
def test_volumes(case, on_arm):
    families.test_volume_convolution(case, 1)


@pytest.mark.parametrize("pool", some(models.POOLS, 3), ids=str)
def test_pools(pool, on_arm):
    models.test_pooling(pool)


@pytest.mark.parametrize("options", some(families.RESIZES, 4), ids=str)
def test_resizes(options, on_arm):
    families.test_resize(options, 5)


@pytest.mark.parametrize("name", some(functions.OPERATORS))
def test_operators(name, on_arm):
    functions.test_operators(name, "arm")


OTHERS = {
    "functions": lambda: functions.test_functions("arm"),
    "powers": lambda: functions.test_powers_and_angles_of_two_numbers("arm"),
    "extremes": lambda: models.test_extreme_values(),
    "reductions": lambda: models.test_normalisation_and_reductions("arm"),
    "channels": lambda: families.test_moving_channels((2, 6, 5, 7), "arm"),
    "residual": lambda: models.test_residual_and_concat_of_odd_channels(),
    "gate": lambda: models.test_squeeze_excite(nn.Hardswish),
    "line": lambda: models.test_one_dimensional_network(),
    "long sums": lambda: families.test_long_sums_of_few_and_many_rows("arm", 33, 1000, 37),
    "one row": lambda: models.test_linear(1, 100),
}
QUICK = ("functions", "extremes", "reductions", "channels", "residual", "line", "long sums")


@pytest.mark.parametrize("name", some(OTHERS, *(list(OTHERS).index(name) for name in QUICK)))
def test_others(name, on_arm):
    OTHERS[name]()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 3, 32, 32, 16), (3, 2, 17, 29, 24, 11), (1, 1, 1, 5, 8), (1, 2, 49, 50, 32)])
def test_attention(size, on_arm):
    operands = attention.qkv(*size)
    model = attention.Wrap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    exact = model(*(value.double() for value in operands))
    assert (compile_emulated(model, "arm", operands)(*operands) - exact).abs().max() <= 1e-5 * exact.abs().max()


# What does the work of most networks, at sizes that they have: model, input, and the share of multiply-adds that the
# innermost loop has at least.
HOT = {
    "convolution 3x3": (lambda: nn.Conv2d(64, 64, 3, 2, 1), (1, 64, 56, 56), 0.6),
    "convolution of large weights": (lambda: nn.Conv2d(256, 512, 3, 2, 1), (1, 256, 14, 14), 0.6),
    "convolution 1x1": (lambda: nn.Conv2d(64, 128, 1), (1, 64, 28, 28), 0.6, "arm-neoverse-v1"),
    "first convolution": (lambda: nn.Conv2d(3, 32, 7, 2, 3), (1, 3, 112, 112), 0.7),
    "winograd": (lambda: nn.Conv2d(128, 128, 3, padding=1), (1, 128, 28, 28), 0.6),
    "linear": (lambda: nn.Linear(384, 384), (1, 196, 384), 0.6),
    "linear of long sums": (lambda: nn.Linear(1536, 384), (1, 197, 1536), 0.6, "arm-cortex-a76"),
    "one row": (lambda: nn.Linear(512, 1000), (1, 512), 0.4),
    "depthwise": (lambda: nn.Conv2d(96, 96, 3, padding=1, groups=96), (1, 96, 56, 56), 0.4),
}


@pytest.mark.parametrize("name", HOT)
def test_loops_multiply_and_spill_nothing(name):
    """On the processor in the table's last column, or the Raspberry Pi's."""
    make, size, share, *others = HOT[name]
    target = others[0] if others else "arm-cortex-a72"
    cost = compile_model(make(), target, torch.randn(size), examine=True).static_cost()
    loop = cost.kernels[0].loop
    assert cost.kernels[0].macs and loop.stack == 0, cost
    assert loop.share >= share, cost


def test_attention_loops_multiply_and_spill_nothing():
    operands = attention.qkv(1, 4, 64, 64, 32)
    model = attention.Wrap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    loop = compile_model(model, "arm", operands, examine=True).static_cost().kernels[0].loop
    assert loop.stack == 0 and loop.share >= 0.5


def test_artifacts_for_other_machines_are_saved_and_not_called(tmp_path):
    model, x = nn.Linear(3, 4), torch.randn(2, 3)
    artifact = graphprune.compile(model, target="arm-cortex-a72", example_inputs=x)
    assert not artifact.runs_here and artifact.size > 1000 and "arm-cortex-a72" in repr(artifact)
    for call in (lambda: artifact(x), lambda: artifact.profile(x)):
        with pytest.raises(TargetError, match="cannot run here: this machine lacks aarch64 instructions; save it"):
            call()
    artifact.save(tmp_path / "model.gp")
    with pytest.raises(TargetError, match="lacks aarch64"):
        graphprune.load(tmp_path / "model.gp")
    assert read(tmp_path / "model.gp").library == artifact.library
    with pytest.raises(OptionError, match="examine=True"):
        artifact.static_cost()
    with pytest.raises(InputError, match="at least 1"):
        read(tmp_path / "model.gp", threads=0)
    with pytest.raises(TargetError, match="cannot tune for arm on this machine"):
        graphprune.compile(model, target="arm", example_inputs=x, tune=1)


class Coupled(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


def test_batches_are_proved_independent_here():
    """Whether samples depend on each other is found out with code for this machine."""
    artifact = compile_model(nn.Linear(3, 4), "arm", torch.randn(1, 3), batch_sizes=(1, 4))
    assert artifact.target == "arm" and artifact.batch_sizes == (1, 4)
    with pytest.raises(CompileError, match="depend on each other"):
        compile_model(Coupled(), "arm", torch.randn(1, 3), batch_sizes=(1, 4))


def test_pruning_for_arm_keeps_whole_vectors():
    model = nn.Sequential(nn.Conv2d(3, 30, 3), nn.ReLU(), nn.Conv2d(30, 46, 3), nn.ReLU(), nn.Conv2d(46, 5, 1))
    slim = graphprune.optimize(model, 0.5, example_inputs=torch.randn(1, 3, 9, 9), target="arm")
    widths = [layer.out_channels for layer in slim if isinstance(layer, nn.Conv2d)]
    assert widths[0] < 30 and widths[1] < 46 and widths[0] % 4 == 0 and widths[1] % 4 == 0


def test_linkers_for_other_systems(monkeypatch, tmp_path):
    triple = get_target("arm").triple
    (tmp_path / "aarch64-linux-gnu-gcc").touch(0o755)
    (tmp_path / "g++").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert linker.link_command(triple)[0].endswith("aarch64-linux-gnu-gcc")
    assert linker.link_command()[0].endswith("/g++")
    os.unlink(tmp_path / "aarch64-linux-gnu-gcc")
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompileError, match=r"for aarch64 linux.*apt-get install g\+\+-aarch64-linux-gnu.*ziglang"):
        compile_model(nn.Linear(2, 2), "arm", torch.zeros(1, 2))
    with pytest.raises(TargetError, match="riscv64"):
        linker.link_command("riscv64-unknown-linux-gnu")


def test_linking_for_arm_with_zig_alone(monkeypatch, tmp_path):
    pytest.importorskip("ziglang")
    machine = emulator()
    model, x = nn.Linear(5, 7), torch.randn(3, 5)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        assert linker.link_command(get_target("arm").triple)[1:4] == ["-m", "ziglang", "ld.lld"]
        artifact = compile_model(model, "arm", x)
    torch.testing.assert_close(machine.run(artifact, x)[0], model(x))


def test_a_library_for_macs():
    """It is not run: that it is one for their processors must do."""
    pytest.importorskip("ziglang")
    library = compile_model(nn.Linear(3, 4), "arm-mac", torch.randn(2, 3)).library
    magic, processor, _, kind = (int.from_bytes(library[start : start + 4], "little") for start in range(0, 16, 4))
    assert (magic, processor, kind) == (0xFEEDFACF, 0x0100000C, 6)  # 64 bits, ARM64, a dynamic library


def test_the_same_bytes_every_time():
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8)
    first, second = (compile_model(model, "arm", x) for _ in range(2))
    assert first.manifest == second.manifest and first.library == second.library
