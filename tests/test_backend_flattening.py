"""Reshapes and transposes between products, norms and elementwise operators cost no kernel."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from tvm import relax

from graphprune.backends.compiler import compile_model
from graphprune.backends.views import cut, permuted, places, reshaped, whole
from test_backend_attention import kernels
from test_backend_models import TARGETS, Wrap


def assert_same(model, *inputs, target="x86"):
    """The compiled model agrees with torch in double precision."""
    got = compile_model(model.eval(), target, inputs)(*inputs)
    with torch.no_grad():
        expected = model.double()(*(x.double() for x in inputs))
    model.float()
    assert expected.std() > 0 and got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def work(model, *inputs):
    """Kernels that do more than move elements."""
    moves = ("reshape", "transpose", "expand_dims", "squeeze")
    return [name for name in kernels(model, inputs) if not name.startswith(moves)]


def gelu_tanh(x):
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


ACTIVATIONS = [F.gelu, lambda x: F.gelu(x, approximate="tanh"), gelu_tanh, F.silu, F.hardswish, F.relu, F.mish]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
@pytest.mark.parametrize("lead", [(1, 17), (3, 5), (2, 3, 4)], ids=str)
def test_a_feed_forward_block_is_three_kernels(lead, activation, target):
    def forward(norm, up, down, x):
        return x + down(ACTIVATIONS[activation](up(norm(x))))

    model, x = Wrap(forward, nn.LayerNorm(20), nn.Linear(20, 50), nn.Linear(50, 20)), torch.randn(*lead, 20)
    assert_same(model, x, target=target)
    names = work(model, x)
    assert len(names) == 3 and sum("linear" in name for name in names) == 2


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.Hardsigmoid(), Wrap(lambda x: x / 6)])
def test_divisions_by_numbers_are_part_of_the_convolution_before(activation):
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), activation, nn.Conv2d(16, 16, 3)), torch.randn(1, 3, 12, 12)
    assert_same(model, x)
    names = work(model, x)
    assert len(names) == 3 and sum(name.startswith("fused") for name in names) == 2


def test_a_block_with_channels_last_is_folded_and_fused():
    """As in ConvNeXt: transposes around the norm and the products, a scale per channel, a residual."""

    def forward(norm, up, down, other, scale, x):
        x = x.permute(0, 2, 3, 1)
        first = norm(x)
        y = down(F.gelu(up(first))).permute(0, 3, 1, 2) * other.bias[:, None, None]
        return y + first.permute(0, 3, 1, 2)

    model = Wrap(forward, nn.LayerNorm(9), nn.Linear(9, 40), nn.Linear(40, 9), nn.Linear(1, 9), nn.Identity())
    x = torch.randn(2, 9, 4, 5)
    assert_same(model, x)
    assert sum("multiply" in name for name in work(model, x)) == 0
    assert len(work(model, x)) <= 4


def test_operands_of_several_arrangements():
    def forward(linear, x, y, per_row):
        z = linear(x)
        moved = z.transpose(1, 2)
        return moved + y, moved * linear(y.transpose(1, 2)).transpose(1, 2), z * per_row, z.flatten(1) - 1

    model = Wrap(lambda *x: torch.cat([part.flatten() for part in forward(*x)]), nn.Linear(6, 6))
    assert_same(model, torch.randn(2, 5, 6), torch.randn(2, 6, 5), torch.randn(2, 5, 1))


@pytest.mark.parametrize("exponent", [-2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 7.0, 2.5])
def test_powers(exponent):
    assert_same(Wrap(lambda x: torch.pow(x, exponent)), torch.rand(5, 33) + 0.5)


@pytest.mark.parametrize("size", [(70, 64, 400), (9, 33, 70), (260, 2100, 96), (1, 300, 200)], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_products_of_many_panels(size, target):
    rows, inner, columns = size
    assert_same(nn.Linear(inner, columns), torch.randn(rows, inner), target=target)


@pytest.mark.parametrize("length", [16, 19, 96])
def test_rows_with_infinities(length):
    x = torch.randn(4, length)
    x[1, 3:] = -torch.inf
    x[2, 5], x[3] = torch.nan, torch.linspace(-300, 0, length)
    got = compile_model(Wrap(lambda x: F.softmax(x, -1)), "x86", x)(x)
    torch.testing.assert_close(got, F.softmax(x, -1), equal_nan=True, rtol=1e-5, atol=1e-7)


def test_views_are_what_numpy_makes_of_them():
    data = np.arange(4 * 6 * 10)
    base = relax.Var("base", relax.TensorType((24, 10), "float32"))
    view = permuted(reshaped(whole(base), (4, 6, 2, 5)), (2, 0, 3, 1))
    wanted = data.reshape(4, 6, 2, 5).transpose(2, 0, 3, 1)
    view, wanted = cut(view, 3, 1, 4), wanted[..., 1:5]
    strided = np.lib.stride_tricks.as_strided(data[view.offset :], view.shape, [s * 8 for s in view.strides])
    assert np.array_equal(strided, wanted)
    start, steps = places(view)
    index = np.indices(view.shape)
    rows, columns = (start[a] + sum(i * s[a] for i, s in zip(index, steps, strict=True)) for a in (0, 1))
    assert np.array_equal(data.reshape(24, 10)[rows, columns], wanted)
    assert reshaped(view, (2, 4, 20)) is None and reshaped(view, (8, 5, 4)) is None
    assert not view.is_whole and permuted(whole(base), (1, 0)).is_whole
    assert places(reshaped(whole(base), (12, 20))) is None
