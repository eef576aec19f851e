"""Compiled models compute what torch computes, for shapes chosen to be awkward."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphprune.backends.compiler import compile_model
from graphprune.backends.convolution import Convolution
from graphprune.errors import UnsupportedModelError

TARGETS = ("x86", "x86-avx2")


def randomise(model):
    """Batch-norm statistics as after training: untouched ones would hide mistakes in folding."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


def assert_same(model, *inputs, target="x86", tolerance=1e-4):
    """Compile, run, compare; returns the artifact."""
    randomise(model)
    artifact = compile_model(model, target, inputs)
    with torch.no_grad():
        expected = model(*inputs)
    got = artifact(*inputs)
    assert type(got) is type(expected)
    if isinstance(expected, torch.Tensor):
        expected, got = [expected], [got]
    for want, have in zip(expected, got, strict=True):
        assert want.shape == have.shape and want.dtype == have.dtype
        assert want.float().std() > 0
        assert (want - have).abs().max() <= tolerance * want.abs().max()
    return artifact


class Wrap(nn.Module):
    """A module from a function and the modules it uses."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs):
        return self.function(*self.parts, *inputs)


def block(channels_in, channels_out, kernel, **options):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, **options), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


# channels in, channels out, kernel, options, input size
CONVOLUTIONS = [
    (3, 16, 7, {"stride": 2, "padding": 3}, (31, 29)),
    (1, 5, 3, {"padding": 1}, (12, 12)),
    (13, 11, 3, {"padding": 1, "bias": False}, (17, 19)),
    (51, 37, 1, {}, (17, 17)),
    (16, 33, 1, {"stride": 2}, (15, 15)),
    (32, 32, (1, 5), {"padding": (0, 2)}, (9, 23)),
    (19, 7, 3, {"dilation": 2, "padding": 2}, (14, 14)),
    (20, 24, 3, {"padding": "same", "padding_mode": "zeros", "dilation": (2, 1)}, (10, 11)),
    (24, 36, 3, {"groups": 3, "padding": 1}, (8, 8)),
    (40, 40, 3, {"groups": 5, "stride": 2}, (13, 13)),
    (21, 14, 3, {"groups": 7, "padding": 1}, (9, 9)),
    (6, 6, 3, {"groups": 6, "padding": 1}, (12, 13)),
    (27, 27, 5, {"groups": 27, "padding": 2, "stride": 2}, (17, 17)),
    (9, 27, 3, {"groups": 9, "padding": 1}, (8, 8)),
    (48, 48, 3, {"groups": 6, "padding": 1, "stride": 2}, (19, 22)),
    (36, 72, 3, {"groups": 3, "padding": (1, 2), "stride": (3, 2)}, (17, 14)),
    (60, 60, 3, {"groups": 5, "padding": 1, "stride": 2}, (12, 13)),
    (30, 30, 3, {"groups": 6, "padding": 1, "stride": 2}, (12, 13)),
    (40, 80, 1, {}, (12, 13)),
    (32, 112, 3, {"padding": 1, "stride": 2}, (25, 27)),
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case, batch):
    channels_in, channels_out, kernel, options, size = case
    target = TARGETS[batch == 3]
    model = nn.Sequential(nn.Conv2d(channels_in, channels_in, 1), block(channels_in, channels_out, kernel, **options))
    assert_same(model, torch.randn(batch, channels_in, *size), target=target)


IMAGES = [
    (3, 16, 3, {"stride": 2, "padding": 1}, (31, 34)),
    (3, 40, 3, {"stride": 2, "padding": (1, 2), "dilation": (1, 2)}, (20, 23)),
    (1, 8, (3, 5), {"stride": (2, 3), "padding": (0, 2)}, (16, 18)),
    (4, 12, 3, {"stride": 2, "padding": 1, "groups": 2}, (15, 15)),
    (4, 40, 3, {"stride": 2, "padding": 1, "groups": 2}, (15, 15)),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", IMAGES, ids=str)
def test_convolution_of_an_image(case, target):
    channels_in, channels_out, kernel, options, size = case
    assert_same(block(channels_in, channels_out, kernel, **options), torch.randn(2, channels_in, *size), target=target)


@pytest.mark.parametrize(
    ("changed", "by_rows"),
    [
        ({}, True),
        ({"stride": (1, 1)}, False),
        ({"per_group": (0, 0)}, False),
        ({"dilation": (2, 1)}, False),
        ({"per_group": (12, 12)}, False),
    ],
    ids=str,
)
def test_borders_of_single_rows_where_rows_hardly_overlap(changed, by_rows):
    numbers = Convolution(
        batch=1, blocks_in=3, lanes_in=16, height=28, width=28, blocks_out=3, lanes=16, reach=1, grouped=True,
        kernel=(3, 3), stride=(2, 2), dilation=(1, 1), padding=(1, 1, 1, 1), registers=16, per_group=(8, 8),
    )  # fmt: skip
    assert replace(numbers, **changed).border_by_rows is by_rows


@pytest.mark.parametrize(("blocks", "tall"), [(5, 20), (3, 24), (8, 16), (2, 16)])
def test_odd_numbers_of_output_blocks_find_a_tile(blocks, tall):
    """Tiles of three blocks and more may fill more registers, and rather take all blocks than compute some in vain."""
    numbers = Convolution(
        batch=1, blocks_in=8, lanes_in=16, height=56, width=56, blocks_out=blocks, lanes=16, reach=8, grouped=False,
        kernel=(1, 1), stride=(1, 1), dilation=(1, 1), padding=(0, 0, 0, 0), registers=16, tall=24,
    )  # fmt: skip
    wide, deep = numbers.tile
    assert blocks % deep == 0 and wide * deep == tall
    few = replace(numbers, tall=0).tile
    assert few[0] * few[1] <= 16


def test_residual_and_concat_of_odd_channels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = block(3, 21, 3, padding=1)
            self.left, self.right = block(21, 13, 1), block(21, 18, 3, padding=1)
            self.join = block(31, 21, 3, padding=1)
            self.head = nn.Linear(52, 7)

        def forward(self, x):
            x = self.stem(x)
            joined = torch.cat([self.left(x), self.right(x)], 1)
            y = self.join(joined) + x
            y = torch.cat([y, joined], 1)
            return self.head(F.max_pool2d(y, 3, 2, 1).mean((2, 3)))

    assert_same(Net(), torch.randn(2, 3, 11, 14))


@pytest.mark.parametrize("gate", [nn.Sigmoid, nn.Hardsigmoid, nn.SiLU, nn.Hardswish, nn.Tanh, nn.GELU], ids=str)
def test_squeeze_excite(gate):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = block(3, 19, 3, padding=1)
            self.squeeze = nn.Sequential(nn.Conv2d(19, 5, 1), nn.ReLU(), nn.Conv2d(5, 19, 1), gate())
            self.out = nn.Conv2d(19, 6, 1)

        def forward(self, x):
            x = self.body(x)
            return self.out(x * self.squeeze(F.adaptive_avg_pool2d(x, 1)))

    assert_same(Net(), torch.randn(2, 3, 9, 9))


def test_empty_lanes_never_turn_into_nan():
    """log and division blow up on zeros: lanes without a channel must not spread that."""
    first, last = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 1)
    model = Wrap(lambda a, b, x: b(torch.log(torch.abs(a(x)) + 1e-3) / (a(x).abs() + 0.5)), first, last)
    assert_same(model, torch.randn(1, 3, 6, 6))


POOLS = [
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2, ceil_mode=True),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.AvgPool2d(2, ceil_mode=True),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((5, 3)),
    nn.AdaptiveAvgPool2d((4, 7)),
    nn.AdaptiveMaxPool2d(1),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooling(pool):
    body = nn.Sequential(block(3, 10, 3), pool)
    x = torch.randn(2, 3, 17, 17)
    features = body(x).flatten(1).shape[1]
    assert_same(nn.Sequential(body, nn.Flatten(), nn.Linear(features, 4)), x)


def test_one_dimensional_network():
    model = nn.Sequential(
        nn.Conv1d(2, 9, 5, padding=2), nn.BatchNorm1d(9), nn.ReLU(), nn.Conv1d(9, 9, 3, groups=9), nn.MaxPool1d(2),
        nn.Conv1d(9, 12, 3, dilation=2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3),
    )  # fmt: skip
    assert_same(model, torch.randn(2, 2, 37))


def test_other_convolutions():
    model = nn.Sequential(nn.Conv3d(2, 5, 3, padding=1), nn.BatchNorm3d(5), nn.ReLU(), nn.MaxPool3d(2))
    assert_same(model, torch.randn(1, 2, 6, 6, 6))
    assert_same(nn.Sequential(nn.ConvTranspose2d(5, 7, 3, 2, 1), nn.BatchNorm2d(7)), torch.randn(2, 5, 6, 5))


def test_channel_shuffle_and_split():
    def forward(first, second, x):
        a, b = first(x).chunk(2, 1)
        y = torch.cat([a, second(b)], 1)
        return y.unflatten(1, (2, 11)).transpose(1, 2).flatten(1, 2)

    assert_same(Wrap(forward, block(3, 22, 3), block(11, 11, 1)), torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("rows", [1, 5, 13, 197])
@pytest.mark.parametrize("width", [10, 48, 100])
def test_linear(rows, width):
    assert_same(nn.Sequential(nn.Linear(33, width), nn.ReLU(), nn.Linear(width, 7)), torch.randn(rows, 33))


@pytest.mark.parametrize("lead", [(1, 1), (1, 13), (13, 1), (2, 13), (1, 1, 1), (1, 5, 1), (2, 1, 3)], ids=str)
def test_linear_with_more_axes(lead):
    model = nn.Sequential(nn.Linear(33, 48), nn.GELU(), nn.Linear(48, 7))
    assert_same(
        Wrap(lambda net, weight, x: net(x) + (x @ weight.weight), model, nn.Linear(7, 33)), torch.randn(*lead, 33)
    )


def test_transformer_block():
    layer = nn.TransformerEncoderLayer(24, 3, 50, dropout=0.0, activation="gelu", batch_first=True)
    assert_same(layer, torch.randn(2, 13, 24))
    assert_same(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True), torch.randn(1, 32, 32))


@pytest.mark.parametrize("target", TARGETS)
def test_normalisation_and_reductions(target):
    def forward(norm, group, x):
        y = group(norm(x).unflatten(1, (6, 5)))
        return F.softmax(y, -1), y.amax(2), y.cumsum(1), F.log_softmax(y, 1), y.mean((1, 2)), y.std(-1)

    assert_same(Wrap(forward, nn.LayerNorm(19), nn.GroupNorm(3, 6)), torch.randn(2, 30, 19), target=target)


def test_layer_norm_of_a_large_mean():
    assert_same(nn.LayerNorm(64), torch.randn(4, 64) + 1000, tolerance=1e-3)


def test_extreme_values():
    x = torch.tensor([[-torch.inf, -200.0, -88.0, -1e-3, 0.0, 1e-3, 50.0, 88.0, 200.0, torch.inf, torch.nan]])
    model = Wrap(lambda x: (torch.exp(x), torch.tanh(x), torch.sigmoid(x), torch.erf(x)))
    got = compile_model(model, "x86", x)(x)
    for have, want in zip(got, model(x), strict=True):
        torch.testing.assert_close(have, want, equal_nan=True, rtol=1e-5, atol=1e-7)


def test_several_inputs_and_outputs():
    def forward(conv, image, scale):
        y = conv(image) * scale
        return y, y.mean((2, 3)), scale + 1

    assert_same(Wrap(forward, nn.Conv2d(3, 5, 3)), torch.randn(1, 3, 6, 6), torch.rand(1, 5, 1, 1))


def test_integer_inputs():
    assert_same(nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 5)), torch.randint(0, 11, (2, 6)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_other_floats_are_refused_by_name(dtype):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()).to(dtype)
    with pytest.raises(UnsupportedModelError, match=str(dtype).removeprefix("torch.")):
        compile_model(model, "x86", torch.randn(1, 3, 7, 7, dtype=dtype))
