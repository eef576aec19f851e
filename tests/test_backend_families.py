"""Families of operators beyond plain convolutions and products, at awkward shapes, against torch in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphprune.backends import matmul
from graphprune.backends.compiler import compile_model
from helpers import randomise

TARGETS = ("x86", "x86-avx2")


class Wrap(nn.Module):
    """A module from a function and the modules it uses."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs):
        return self.function(*self.parts, *inputs)


def assert_agrees(model, x, target="x86", tolerance=1e-5):
    """Compile, run, and compare all outputs with the model in float64; returns the artifact."""
    randomise(model.eval())
    artifact = compile_model(model, target, x)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double() if x.is_floating_point() else x)
    got = artifact(x)
    wanted, gotten = ([value] if isinstance(value, torch.Tensor) else list(value) for value in (want, got))
    for exact, have in zip(wanted, gotten, strict=True):
        assert exact.shape == have.shape
        assert exact.numel() == 1 or exact.std() > 0
        assert (exact - have).abs().max() <= tolerance * exact.abs().max()
    return artifact


def kernels(artifact):
    """Names of the kernels that a call runs, in order."""
    names = []
    with artifact.watched(lambda name, before: names.append(name) if before else None):
        artifact(*(torch.ones(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in artifact.inputs))
    return names


# channels in, channels out, kernel, options, input size
TRANSPOSED = [
    (5, 7, 3, {"stride": 2, "padding": 1}, (6, 5)),
    (16, 20, 4, {"stride": 2, "padding": 1}, (7, 9)),
    (8, 6, 2, {"stride": 2}, (5, 5)),
    (8, 6, 3, {"stride": 2, "padding": 1, "output_padding": 1}, (5, 4)),
    (3, 5, 3, {"padding": 1}, (8, 8)),
    (7, 4, 3, {"stride": 3, "padding": 2, "dilation": 2, "output_padding": 1}, (6, 7)),
    (7, 4, 3, {"stride": 2, "dilation": 2}, (6, 7)),
    (6, 4, (1, 5), {"stride": (3, 2), "padding": (0, 4)}, (5, 9)),
    (6, 4, 2, {"stride": 3, "output_padding": 2}, (4, 4)),
    (6, 6, 4, {"stride": 2, "padding": 1, "groups": 6}, (6, 6)),
    (12, 18, 3, {"stride": 2, "padding": 1, "groups": 3, "bias": False}, (6, 6)),
    (4, 3, 3, {"stride": 1, "padding": 3}, (9, 9)),
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_transposed_convolution(case, batch):
    channels_in, channels_out, kernel, options, size = case
    body = nn.ConvTranspose2d(channels_in, channels_out, kernel, **options)
    model = nn.Sequential(body, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.Conv2d(channels_out, 3, 1))
    artifact = assert_agrees(model, torch.randn(batch, channels_in, *size), TARGETS[batch == 3])
    assert not any("transpose" in name for name in kernels(artifact))


@pytest.mark.parametrize(
    "options", [{}, {"stride": 4, "padding": 2}, {"stride": 3, "dilation": 2, "groups": 2}], ids=str
)
def test_transposed_convolution_of_a_line(options):
    model = nn.Sequential(nn.Conv1d(3, 10, 3), nn.ConvTranspose1d(10, 6, 8, **options), nn.Tanh())
    artifact = assert_agrees(model, torch.randn(2, 3, 33))
    assert not any("transpose" in name for name in kernels(artifact))


# channels in, channels out, window, input size, whether it is a product
PATCHES = [
    (3, 21, (16, 16), (32, 48), True),
    (3, 32, (8, 8), (37, 30), True),  # rows and columns are left over
    (1, 19, (7, 7), (14, 21), True),
    (2, 18, (4, 25), (9, 50), True),
    (3, 20, (4, 4), (16, 20), False),
    (9, 20, (8, 8), (16, 24), False),
]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", PATCHES, ids=str)
def test_windows_side_by_side(case, batch):
    channels, width, window, size, product = case

    def tokens(body, norm, x):
        return norm(body(x).flatten(2).transpose(1, 2))

    inner = nn.Conv2d(width, 7, 3, padding=1)
    x = torch.randn(batch, channels, *size)
    for model in (
        Wrap(tokens, nn.Conv2d(channels, width, window, window), nn.LayerNorm(width)),
        nn.Sequential(nn.Conv2d(channels, width, window, window), nn.BatchNorm2d(width), nn.ReLU(), inner),
    ):
        names = kernels(assert_agrees(model, x, TARGETS[batch == 2]))
        assert any("linear" in name for name in names) == product


@pytest.mark.parametrize("options", [{"padding": 4}, {"dilation": 2}, {"groups": 3}, {"stride": 7}], ids=str)
def test_windows_that_are_not_side_by_side_are_no_product(options):
    artifact = assert_agrees(nn.Conv2d(3, 18, 8, **{"stride": 8, **options}), torch.randn(1, 3, 33, 41))
    assert not any("linear" in name for name in kernels(artifact))


def test_stretches_of_a_line_side_by_side():
    artifact = assert_agrees(nn.Sequential(nn.Conv1d(1, 24, 64, 64), nn.GELU()), torch.randn(2, 1, 330))
    assert any("linear" in name for name in kernels(artifact))


# channels in, channels out, kernel, options, input size
VOLUMES = [
    (2, 5, 3, {"padding": 1}, (6, 6, 6)),
    (19, 21, (3, 1, 5), {"padding": (1, 0, 2), "stride": (2, 1, 2)}, (5, 7, 9)),
    (16, 16, 1, {}, (4, 5, 6)),
    (16, 8, 1, {"stride": 2}, (5, 5, 6)),
    (9, 18, 3, {"groups": 3, "padding": 1}, (4, 5, 5)),
    (10, 10, 3, {"groups": 10, "padding": (2, 1, 1), "dilation": (2, 1, 1)}, (6, 5, 5)),
    (4, 6, (2, 3, 3), {"bias": False}, (2, 6, 6)),
]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", VOLUMES, ids=str)
def test_volume_convolution(case, batch):
    channels_in, channels_out, kernel, options, size = case
    body = nn.Conv3d(channels_in, channels_out, kernel, **options)
    model = nn.Sequential(body, nn.BatchNorm3d(channels_out), nn.ReLU(), nn.Conv3d(channels_out, 3, 1))
    artifact = assert_agrees(model, torch.randn(batch, channels_in, *size), TARGETS[batch == 2])
    assert not any("conv3d" in name for name in kernels(artifact))


VOLUME_POOLS = [
    nn.MaxPool3d(2),
    nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    nn.MaxPool3d(3, 2, 1, ceil_mode=True),
    nn.AvgPool3d(2),
    nn.AvgPool3d(3, 2, 1),
    nn.AvgPool3d(3, 2, 1, count_include_pad=False),
    nn.AdaptiveAvgPool3d(1),
]


@pytest.mark.parametrize("pool", VOLUME_POOLS, ids=str)
def test_volume_pooling(pool):
    def forward(body, pool, scale, x):
        y = body(x)
        y = torch.cat([y * y.mean((2, 3, 4), keepdim=True), y + x[:, :1]], 1)
        return scale(pool(y))

    assert_agrees(Wrap(forward, nn.Conv3d(3, 10, 3, padding=1), pool, nn.Conv3d(20, 4, 1)), torch.randn(2, 3, 7, 6, 9))


def test_volume_with_parts_that_repeat():
    def forward(body, x):
        z = body(x)
        return z * z[:, :, :1], z + z.mean((2,), keepdim=True), z * z[:, :1], F.relu(z - 0.1)

    assert_agrees(Wrap(forward, nn.Conv3d(3, 18, 1)), torch.randn(1, 3, 4, 5, 6))


RESIZES = [
    {"scale_factor": 2},
    {"scale_factor": 1.7},
    {"size": (5, 13)},
    {"scale_factor": 2, "mode": "bilinear"},
    {"scale_factor": 1.7, "mode": "bilinear"},
    {"scale_factor": 2.3, "mode": "bilinear", "recompute_scale_factor": True},
    {"size": (10, 9), "mode": "bilinear", "align_corners": True},
    {"size": (4, 30), "mode": "bicubic"},
    {"scale_factor": 0.6, "mode": "bicubic", "align_corners": True},
    {"size": (11, 5), "mode": "nearest-exact"},
]


@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize("options", RESIZES, ids=str)
def test_resize(options, channels):
    def forward(body, head, x):
        return head(F.interpolate(body(x), **options)), F.interpolate(x, **options)

    model = Wrap(forward, nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 4, 1))
    assert_agrees(model, torch.randn(2, 3, 7, 9), TARGETS[channels == 5])


@pytest.mark.parametrize(
    ("mode", "shape"), [("nearest", (2, 7, 11)), ("linear", (1, 7, 11)), ("trilinear", (1, 5, 3, 4, 5))], ids=str
)
def test_resize_of_lines_and_volumes(mode, shape):
    body = (nn.Conv1d if len(shape) == 3 else nn.Conv3d)(shape[1], 6, 1)
    assert_agrees(Wrap(lambda body, x: F.interpolate(body(x), scale_factor=1.5, mode=mode), body), torch.randn(shape))


PADS = [((1, 2, 0, 3), "constant", 0.0), ((1, 2, 0, 3), "constant", -1.5), ((-1, 2, 3, -2), "constant", 0.0)]
PADS += [((1, 2, 0, 3), mode, None) for mode in ("reflect", "replicate", "circular")]


@pytest.mark.parametrize(("widths", "mode", "value"), PADS, ids=str)
def test_padding(widths, mode, value):
    def forward(body, head, x):
        return head(F.pad(body(x), widths, mode, value)), F.pad(body(x), widths, mode, value)[:, :, 1:-1, ::2]

    assert_agrees(Wrap(forward, nn.Conv2d(3, 10, 1), nn.Conv2d(10, 4, 1)), torch.randn(2, 3, 7, 9))
    line = Wrap(lambda body, x: F.pad(body(x), (2, 1), mode, value)[:, :, 1:], nn.Conv1d(3, 10, 1))
    assert_agrees(line, torch.randn(2, 3, 9))


@pytest.mark.parametrize("channels", [32, 37])
def test_leaving_the_blocked_layout(channels):
    def forward(left, right, x):
        y = torch.cat([left(x), right(x)], 1)
        return y, F.gelu(y) * 2, F.gelu(left(x))[:, :, :, 0]

    parts = [nn.Conv2d(3, channels, 1), nn.Conv2d(3, 16, 1)]
    assert_agrees(Wrap(forward, *parts), torch.randn(2, 3, 6, 7))


def shuffled(x, groups):
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 6, 33), (2, 6, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_moving_channels(shape, target):
    """Cuts, joins and orders of channels, alone and on top of each other; some results leave the blocked layout."""
    conv = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
    left, right, last = conv(6, 21, 1), conv(6, 40, 1), conv(61, 5, 1)

    def forward(left, right, last, x):
        a, b = left(x), right(x)
        y = shuffled(torch.cat([a[:, 3:18], b, a[:, :6]], 1), 1)
        first, second, third = y.split((7, 20, 34), 1)
        z = torch.cat([third, shuffled(second, 4), first.flip(1), shuffled(b, 5)[:, ::4], a[:, -1:] * 2], 1)
        return last(z[:, :61]), y, z, first.relu() + a[:, :7], torch.cat(b.chunk(3, 1), 1)

    assert_agrees(Wrap(forward, left, right, last), torch.randn(shape), target)


def test_shuffled_channels_move_in_one_kernel():
    """A unit as in ShuffleNet: what passes by is not copied again and again."""

    def forward(first, body, head, x):
        y = first(x)
        for layer in body:
            passing, worked = y.chunk(2, 1)
            y = shuffled(torch.cat([passing, layer(worked)], 1), 2)
        return head(y)

    body = nn.ModuleList([nn.Conv2d(29, 29, 1) for _ in range(3)])
    artifact = assert_agrees(Wrap(forward, nn.Conv2d(3, 58, 1), body, nn.Conv2d(58, 4, 1)), torch.randn(1, 3, 6, 6))
    moves = [name for name in kernels(artifact) if "channels" in name]
    assert len(moves) == 4 and not any("transpose" in name or "concat" in name for name in kernels(artifact))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("channels", [4, 8, 13, 20, 24, 37, 44])
@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 1, 9), (3, 2, 9), (5, 1, 4)])
def test_inputs_that_do_not_fill_their_last_vector(channels, kernel, stride, size, target):
    """Of the last block only those lanes are multiplied that hold channels, in steps of four at least."""
    last = nn.Conv2d(channels, 21, kernel, stride, kernel // 2)
    x = torch.randn(2, 5, size, size)
    artifact = assert_agrees(nn.Sequential(nn.Conv2d(5, channels, 1), nn.ReLU(), last), x, target)
    read = -(-channels // 4) * 4
    assert any(f" {read}->" in facts["description"] for facts in artifact.manifest["kernels"].values())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("plain", "size"), [(5, 6), (38, 22), (30, 20)])
def test_joining_channels_of_all_kinds(plain, size, target):
    """Plain ones, blocked ones and gathered ones: what does not fill its vectors leaves the rest alone."""
    places = torch.arange(size) // 2

    def forward(left, right, last, a, b, c):
        gathered = right(c).index_select(2, places).index_select(3, places)
        return last(torch.cat([a, left(b), gathered], 1))

    model = Wrap(forward, nn.Conv2d(8, 44, 1), nn.Conv2d(20, 40, 1), nn.Conv2d(plain + 84, 24, 1)).eval()
    inputs = torch.randn(1, plain, size, size), torch.randn(1, 8, size, size), torch.randn(1, 20, size // 2, size // 2)
    artifact = compile_model(model, target, inputs)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(*(x.double() for x in inputs))
    assert exact.std() > 0.1
    assert (artifact(*inputs) - exact).abs().max() < 1e-5


@pytest.mark.parametrize("channels", [24, 64])
def test_pixel_shuffle(channels):
    def forward(first, last, x):
        y = first(x)
        return last(F.pixel_shuffle(y, 2)), F.pixel_unshuffle(y, 2), F.pixel_shuffle(y, 2)

    assert_agrees(Wrap(forward, nn.Conv2d(3, channels, 1), nn.Conv2d(channels // 4, 5, 1)), torch.randn(2, 3, 6, 4))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "rows, inner, columns",
    [
        (32, 1536, 80),
        (33, 1000, 37),
        (49, 776, 160),
        (197, 3072, 64),
        (197, 3072, 90),
        (40, 1552, 96),
        (2, 40, 900),
        (40, 797, 70),
    ],
)
def test_long_sums_of_few_and_many_rows(target, rows, inner, columns):
    model = nn.Sequential(nn.Linear(inner, columns), nn.GELU())
    assert_agrees(model, torch.randn(1, rows, inner), target)


@pytest.mark.parametrize(
    ("length", "wanted", "bursts"),
    [
        (768, 7.7, (8, 8)),
        (752, 7.5, (4, 4)),
        (776, 7.8, (4, 2)),
        (640, 1.0, (8, 1)),
        (8, 16.0, (4, 2)),
    ],
)
def test_weights_are_asked_for_in_bursts_that_suit(length, wanted, bursts):
    """As many as wanted where the length has such a divisor; else near that, never one for every few numbers."""
    assert matmul._bursts(length, 8, wanted) == bursts


def test_long_sums_without_a_fitting_share_take_the_next_longer_one():
    shares = {inner: matmul.MatMul(1, 197, inner, 768, 16, 16).shares for inner in (768, 1504, 1536, 1552, 1618)}
    assert shares == {768: 1, 1504: 2, 1536: 2, 1552: 2, 1618: 1}
