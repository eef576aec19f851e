"""3x3 convolutions by the Winograd algorithm: the same numbers, chosen where it pays, and never where it is wrong."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import te

from graphprune.backends import lower_convolution, measuring, winograd, winograd_transforms
from graphprune.backends.assembly import loops_of
from graphprune.backends.compiler import compile_model
from graphprune.backends.cores import SERVER, ZEN5
from graphprune.backends.import_torch import import_model
from graphprune.backends.pipeline import llvm_target, optimize_passes
from graphprune.backends.targets import get_target

TARGETS = ("x86", "x86-avx2")


@pytest.mark.parametrize(("blocks_in", "blocks_out"), [(1, 8), (2, 2), (5, 1), (8, 8)])
def test_plans_keep_what_lies_between_the_steps_close(blocks_in, blocks_out):
    """All rows of a large image at once would push transformed inputs and products out of the second-level cache."""
    numbers = winograd.Winograd(1, blocks_in, blocks_out, 16, 112, 112, (1, 1, 1, 1), 4, 16)
    plan, columns = numbers.plan, numbers.tiles[1]
    between = numbers.span**2 * (blocks_in + plan.deep) * plan.chunk * columns * 64
    assert plan.chunk < numbers.tiles[0] / 2 and between < 2 << 20


@pytest.mark.parametrize("size", winograd_transforms.SIZES)
def test_transforms_compute_a_convolution(size):
    output, weight, inputs = winograd_transforms.transforms(size)
    rng = np.random.default_rng(0)
    taps, line = rng.normal(size=3), rng.normal(size=size + 2)
    expected = [line[place : place + 3] @ taps for place in range(size)]
    assert np.allclose(output @ ((weight @ taps) * (inputs @ line)), expected, atol=1e-12)


def kernels(model, example, target="x86"):
    """Names of the kernels that a model is lowered to."""
    passes = tvm.transform.Sequential(optimize_passes(get_target(target)))
    return [name.name_hint for name in passes(import_model(model.eval(), example).module).get_global_vars()]


def relative_error(model, example, target):
    with torch.no_grad():
        expected = model.double()(example.double())
        model.float()
        got = compile_model(model, target, example)(example)
    assert expected.std() > 0
    return float((got.double() - expected).abs().max() / expected.abs().max())


class Residual(nn.Module):
    def __init__(self, channels_in, channels_out, padding):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=padding)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return torch.relu(self.norm(self.second(x)) + x)


# batch, channels in and out, height, width, padding
SHAPES = [
    (1, 64, 64, 56, 56, 1),
    (1, 128, 96, 14, 14, 1),
    (2, 48, 64, 17, 30, 0),
    (3, 61, 51, 13, 21, 1),
    (1, 96, 64, 33, 9, (2, 0)),
    (1, 37, 130, 25, 25, 1),
    (1, 330, 320, 12, 20, 1),  # too many weights for the first-level cache, in parts
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", winograd_transforms.SIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(shape, size, target, monkeypatch):
    # The size is given and the estimate overruled: each kernel is tried on each shape.
    monkeypatch.setattr(lower_convolution, "SIZES", (size,))
    monkeypatch.setattr(lower_convolution, "_MARGIN", 1e9)
    batch, channels_in, channels_out, height, width, padding = shape
    torch.manual_seed(0)
    model, example = Residual(channels_in, channels_out, padding).eval(), torch.randn(batch, channels_in, height, width)
    model = nn.Sequential(nn.Conv2d(channels_in, channels_in, 1), model).eval()
    assert any("winograd" in name for name in kernels(model, example, target))
    assert relative_error(model, example, target) < 1e-5


def test_sums_leave_the_registers_only_where_weights_would_leave_the_cache():
    vector = 16 * 16 * 4  # bytes of weights from one input block to one output block
    assert [winograd._together(blocks, vector, 7) for blocks in (1, 11, 24)] == [1, 11, 24]
    assert [winograd._together(blocks, 2 * vector, 7) for blocks in (11, 16, 20, 24, 30)] == [11, 8, 10, 12, 10]
    assert winograd._together(23, 2 * vector, 7) == 23, "one by one is worse than too many"
    assert winograd._together(64, 2 * vector, 1) == 64, "nothing is used again"


def scheduled(numbers):
    """The kernel of these numbers alone, for vectors of sixteen lanes."""
    parts = measuring.operands(numbers)
    function = te.create_prim_func([*parts.tensors, parts.result], index_dtype_override="int64")
    return winograd.schedule(function, get_target("x86-avx512")).mod


@pytest.mark.parametrize(("blocks", "kept"), [(5, True), (11, True), (32, False)])
def test_sums_are_kept_in_registers(blocks, kept):
    plan = winograd.Plan(0, 4, 1, 4, 2)
    numbers = winograd.Winograd(1, blocks, 2, 16, 16, 16, (1, 1, 1, 1), 4, 16, plan)
    assert ("products_local" in scheduled(numbers)["main"].script()) == kept


def spilled(numbers):
    """How often the loop over products reads or writes the stack in each of its rounds."""
    built = tvm.compile(scheduled(numbers), target=llvm_target(get_target("x86-avx512")))
    loops = loops_of(built.mod.inspect_source("asm"), "x86_64").values()
    return max(loops, key=lambda loop: loop.products).stack


def test_the_only_tile_of_a_chunk_has_its_sums_on_the_stack():
    """Otherwise registers are spilled where weights are fetched ahead in the same loop."""
    numbers = winograd.Winograd(1, 8, 2, 16, 14, 14, (1, 1, 1, 1), 4, 16)
    plans = [candidate.plan for candidate in numbers.candidates()]
    assert max(plan.high * plan.wide * plan.deep for plan in plans) == 16
    alone = [plan for plan in plans if (plan.high, plan.wide) == (plan.chunk, numbers.tiles[1])]
    assert alone and all(plan.high * plan.wide * plan.deep < 16 for plan in alone)
    assert spilled(replace(numbers, chosen=winograd.Plan(0, 1, 1, 4, 2))) == 0
    assert spilled(replace(numbers, chosen=winograd.Plan(0, 2, 2, 4, 2))) > 0


def test_weights_come_as_fast_as_the_core_reads():
    """With faster memory the larger transformed weights of size 4 pay."""
    shapes = [winograd.Winograd(1, 11, 11, 16, 14, 14, (1, 1, 1, 1), size, 16) for size in (2, 4)]
    for core, size in ((SERVER, 2), (ZEN5, 4)):
        best = min((replace(shape, core=core) for shape in shapes), key=lambda shape: shape.plan.cycles)
        assert best.size == size


def test_where_starts_take_long_there_are_fewer():
    numbers = winograd.Winograd(1, 5, 5, 16, 28, 28, (1, 1, 1, 1), 4, 16)
    for start, rows in ((12, 1), (100, 7)):
        assert replace(numbers, core=replace(SERVER, start=start)).plan.chunk == rows


def test_chosen_where_it_pays_only():
    example = torch.randn(1, 64, 56, 56)
    assert any("winograd" in name for name in kernels(nn.Conv2d(64, 64, 3, padding=1), example))
    for other in (
        nn.Conv2d(64, 64, 3, stride=2),
        nn.Conv2d(64, 64, 3, dilation=2),
        nn.Conv2d(64, 64, 5),
        nn.Conv2d(64, 64, (3, 1)),
        nn.Conv2d(64, 64, 3, groups=2),
    ):
        assert not any("winograd" in name for name in kernels(other, example))
    # Four times the weights of a small image cost more than the multiplications that are saved.
    assert not any("winograd" in name for name in kernels(nn.Conv2d(512, 512, 3, padding=1), torch.randn(1, 512, 3, 3)))


def test_usual_points_lose_more_digits(monkeypatch):
    """The control of the choice of points: with (0, 1, -1, 2, -2) the same kernel is several times less exact."""
    monkeypatch.setattr(lower_convolution, "SIZES", (4,))
    monkeypatch.setattr(lower_convolution, "_MARGIN", 1e9)
    torch.manual_seed(0)
    model, example = nn.Conv2d(256, 64, 3, padding=1).eval(), torch.randn(1, 256, 16, 16)
    chosen = relative_error(model, example, "x86")
    monkeypatch.setitem(winograd_transforms.POINTS, 4, tuple(map(Fraction, (0, 1, -1, 2, -2))))
    assert relative_error(model, example, "x86") > 2 * chosen
