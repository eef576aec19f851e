"""More networks, one per pattern: gates, shuffles, pooling, activations, weights that are computed, joins of blocks."""

import torch
import torch.nn.functional as F
from torch import nn

from networks import Net, X, conv, pool


def zeroed(y, index):
    y = y.clone()
    y[index] = 0.0
    return y


def without_gradients(layer, x):
    with torch.no_grad():
        return F.relu(layer(x))


class Both(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return weight.abs() + 0.1 * weight


def parametrized(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", Both())
    return layer


def stirred(function):
    """A network whose channels go through a function."""
    return Net(lambda m, x: m.b(F.relu(function(m.a(x)))), a=conv(3, 12), b=conv(12, 4)), X


def activated(layer):
    return Net(lambda m, x: m.b(m.act(m.a(x))), a=conv(3, 8), act=layer, b=conv(8, 4)), X


SHUFFLES = {
    "view": lambda y: y.view(y.shape[0], 2, y.shape[1] // 2, *y.shape[2:]).transpose(1, 2).contiguous().view(y.shape[0], -1, *y.shape[2:]),
    "permute": lambda y: y.reshape(y.shape[0], 3, -1, *y.shape[2:]).permute(0, 2, 1, 3, 4).reshape(y.shape),
    "unflatten": lambda y: y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    "swapaxes": lambda y: y.unflatten(1, (4, -1)).swapaxes(1, 2).flatten(1, 2),
    "native": lambda y: torch.native_channel_shuffle(y, 2),
    "stack": lambda y: torch.stack(y.chunk(2, 1), 2).flatten(1, 2),
    "swapped": lambda y: torch.cat(torch.chunk(y, 2, 1)[::-1], 1),
    "index": lambda y: y[:, [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]],
    "strides": lambda y: torch.cat([y[:, ::2], y[:, 1::2]], 1),
}  # fmt: skip

ACTIVATIONS = """Hardtanh Hardshrink Softshrink Tanhshrink Softplus Softsign LogSigmoid ELU SELU CELU GELU Mish SiLU
    Hardsigmoid ReLU6 RReLU LeakyReLU Dropout2d AlphaDropout Identity""".split()

LAYERS = {
    **{f"shuffle_{name}": lambda function=function: stirred(function) for name, function in SHUFFLES.items()},
    **{name.lower(): lambda name=name: activated(getattr(nn, name)()) for name in ACTIVATIONS},
    "threshold": lambda: activated(nn.Threshold(0.1, 0.2)),
    "residual_roll_space": lambda: (Net(lambda m, x: m.b((y := m.a(x)) + y.roll((1, 2), (2, 3))), a=conv(3, 8), b=conv(8, 4)), X),
    "c2f": lambda: (Net(lambda m, x: (lambda p, q: m.o(torch.cat([p, q, (r := m.c(q)), m.d(r)], 1)))(*m.a(x).chunk(2, 1)), a=conv(3, 16), c=conv(8, 8), d=conv(8, 8), o=conv(32, 4)), X),
    "c2f_res": lambda: (Net(lambda m, x: (lambda p, q: m.o(torch.cat([p, q, (r := (q + m.c(q))), r + m.d(r)], 1)))(*m.a(x).chunk(2, 1)), a=conv(3, 16), c=conv(8, 8), d=conv(8, 8), o=conv(32, 4)), X),
    "csp": lambda: (Net(lambda m, x: m.o(torch.cat([m.c(m.a(x)), m.b(x)], 1)), a=conv(3, 8), b=conv(3, 8), c=conv(8, 8), o=conv(16, 4)), X),
    "elan": lambda: (Net(lambda m, x: m.o(torch.cat([m.a(x), (b := m.b(x)), (c := m.c(b)), m.d(c)], 1)), a=conv(3, 8), b=conv(3, 8), c=conv(8, 6), d=conv(6, 6), o=conv(28, 4)), X),
    "shuffle_module": lambda: (Net(lambda m, x: m.b(m.s(m.a(x))), a=conv(3, 12), b=conv(12, 4), s=nn.ChannelShuffle(3)), X),
    "shuffle_grouped": lambda: (Net(lambda m, x: m.c(F.channel_shuffle(m.b(m.a(x)), 2)), a=conv(3, 12), b=conv(12, 12, groups=2), c=conv(12, 8, groups=2)), X),
    "pixel_shuffle_module": lambda: (Net(lambda m, x: m.b(nn.PixelShuffle(2)(m.a(x))), a=conv(3, 16), b=conv(4, 3)), X),
    "space_to_depth": lambda: (Net(lambda m, x: m.b(m.a(x).view(2, -1, 4, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).reshape(2, -1, 4, 4)), a=conv(3, 6), b=conv(24, 3)), X),
    "tile": lambda: (Net(lambda m, x: m.b(m.a(x).tile(1, 2, 1, 1)), a=conv(3, 6), b=conv(12, 4)), X),
    "tile_short": lambda: (Net(lambda m, x: m.b(m.a(x).tile(2, 1, 1)), a=conv(3, 6), b=conv(12, 4)), X),
    "tile_long": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x)).tile(1, 2)), a=nn.Linear(6, 8), b=nn.Linear(16, 4)), (4, 6)),
    "expand_channel": lambda: (Net(lambda m, x: m.b(m.a(x) * m.g(x).expand(-1, 8, -1, -1)), a=conv(3, 8), g=conv(3, 1), b=conv(8, 4)), X),
    "expand_as": lambda: (Net(lambda m, x: m.b((y := m.a(x)) * m.s.view(1, -1, 1, 1).expand_as(y)), a=conv(3, 8), s=nn.Parameter(torch.randn(8)), b=conv(8, 4)), X),
    "expand_groups": lambda: (Net(lambda m, x: m.b(m.a(x).unsqueeze(2).expand(-1, -1, 2, -1, -1).flatten(1, 2)), a=conv(3, 8), b=conv(16, 4)), X),
    "option_a_cat": lambda: (Net(lambda m, x: m.o(torch.cat([(y := m.s(x)[:, :, ::2, ::2]), torch.zeros_like(y)], 1) + m.a(x)), s=conv(3, 8), a=nn.Conv2d(3, 16, 3, 2, 1), o=conv(16, 4)), X),
    "option_a_mul": lambda: (Net(lambda m, x: m.o(torch.cat([(y := F.avg_pool2d(m.s(x), 2)), y.mul(0)], 1) + m.a(x)), s=conv(3, 8), a=nn.Conv2d(3, 16, 3, 2, 1), o=conv(16, 4)), X),
    "glu": lambda: (Net(lambda m, x: m.b(F.glu(m.a(x), 1)), a=conv(3, 12), b=conv(6, 4)), X),
    "glu_module": lambda: (Net(lambda m, x: m.b(m.g(m.a(x))), a=nn.Linear(6, 24), g=nn.GLU(), b=nn.Linear(12, 4)), (4, 6)),
    "swiglu": lambda: (Net(lambda m, x: m.o(F.silu(m.g(x)) * m.u(x)), g=nn.Linear(6, 24), u=nn.Linear(6, 24), o=nn.Linear(24, 4)), (4, 6)),
    "swiglu_fused": lambda: (Net(lambda m, x: (lambda g, u: m.o(F.silu(g) * u))(*m.gu(x).chunk(2, -1)), gu=nn.Linear(6, 48), o=nn.Linear(24, 4)), (4, 6)),
    "geglu_view": lambda: (Net(lambda m, x: (lambda y: m.o(F.gelu(y[:, 0]) * y[:, 1]))(m.gu(x).view(4, 2, -1)), gu=nn.Linear(6, 48), o=nn.Linear(24, 4)), (4, 6)),
    "swiglu_interleaved": lambda: (Net(lambda m, x: (lambda y: m.o(F.silu(y[..., ::2]) * y[..., 1::2]))(m.gu(x)), gu=nn.Linear(6, 48), o=nn.Linear(24, 4)), (4, 6)),
    "maxout": lambda: (Net(lambda m, x: m.b((y := m.a(x)).view(y.shape[0], -1, 2, *y.shape[2:]).max(2)[0]), a=conv(3, 16), b=conv(8, 4)), X),
    "maxout_amax": lambda: (Net(lambda m, x: m.b((y := m.a(x)).view(y.shape[0], -1, 2, *y.shape[2:]).amax(2)), a=conv(3, 16), b=conv(8, 4)), X),
    "maxout_major": lambda: (Net(lambda m, x: m.b((y := m.a(x)).view(y.shape[0], 2, -1, *y.shape[2:]).amax(1)), a=conv(3, 16), b=conv(8, 4)), X),
    "group_mean": lambda: (Net(lambda m, x: m.b((y := m.a(x)).view(y.shape[0], -1, 2, *y.shape[2:]).mean(2)), a=conv(3, 16), b=conv(8, 4)), X),
    "group_mean_major": lambda: (Net(lambda m, x: m.b((y := m.a(x)).view(y.shape[0], 2, -1, *y.shape[2:]).mean(1)), a=conv(3, 16), b=conv(8, 4)), X),
    "max_feature_map": lambda: (Net(lambda m, x: m.b(torch.max(*m.a(x).split(8, 1))), a=conv(3, 16), b=conv(8, 4)), X),
    "channel_attention_over_channels": lambda: (Net(lambda m, x: m.o(F.relu(m.z((y := m.a(x)) * torch.sigmoid(m.e(pool(y).unsqueeze(1)).transpose(1, 2).unsqueeze(-1))))), a=conv(3, 8), e=nn.Conv1d(1, 1, 3, padding=1), z=conv(8, 12), o=conv(12, 4)), X),
    "cbam_spatial": lambda: (Net(lambda m, x: m.o(F.relu(m.z((y := m.a(x)) * torch.sigmoid(m.s(torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], 1)))))), a=conv(3, 8), s=conv(2, 1), z=conv(8, 12), o=conv(12, 4)), X),
    "selective_kernel": lambda: (Net(lambda m, x: (lambda u: (lambda s: m.o((u * m.f(F.relu(m.z(s))).view(2, 2, -1, 1, 1).softmax(1)).sum(1)))(pool(u.sum(1))))(torch.stack([m.a(x), m.b(x)], 1)), a=conv(3, 8), b=conv(3, 8), z=nn.Linear(8, 6), f=nn.Linear(6, 16), o=conv(8, 4)), X),
    "split_attention": lambda: (Net(lambda m, x: (lambda y: (lambda s: m.o((s * m.f(F.relu(m.z(pool(s.sum(1))))).view(2, 2, -1).softmax(1)[..., None, None]).sum(1)))(y.view(2, 2, -1, 8, 8)))(m.a(x)), a=conv(4, 16, groups=2), z=nn.Linear(8, 6), f=nn.Linear(6, 16), o=conv(8, 4)), (2, 4, 8, 8)),
    "gate_linear": lambda: (Net(lambda m, x: m.d((y := m.a(x)) * torch.sigmoid(m.c(F.relu(m.b(pool(y)))))[:, :, None, None]), a=conv(3, 12), b=nn.Linear(12, 6), c=nn.Linear(6, 12), d=conv(12, 4)), X),
    "grouped_conv1d": lambda: (Net(lambda m, x: m.c(m.b(F.relu(m.a(x)))), a=nn.Conv1d(4, 12, 3), b=nn.Conv1d(12, 18, 3, groups=3), c=nn.Conv1d(18, 4, 3)), (2, 4, 16)),
    "transposed_1d": lambda: (Net(lambda m, x: m.c(m.b(F.relu(m.a(x)))), a=nn.Conv1d(4, 12, 3), b=nn.ConvTranspose1d(12, 10, 4, 2, 1), c=nn.Conv1d(10, 4, 3)), (2, 4, 16)),
    "transposed_3d": lambda: (Net(lambda m, x: m.c(m.b(F.relu(m.a(x)))), a=nn.Conv3d(2, 8, 3, padding=1), b=nn.ConvTranspose3d(8, 6, 2, 2), c=nn.Conv3d(6, 3, 1)), (1, 2, 4, 4, 4)),
    "flatten_nchw": lambda: (Net(lambda m, x: m.h(F.relu(m.s(x)).flatten(1)), s=conv(3, 6), h=nn.Linear(6 * 64, 4)), X),
    "adaptive_flatten": lambda: (Net(lambda m, x: m.h(F.adaptive_avg_pool2d(m.s(x), (3, 2)).flatten(1)), s=conv(3, 6), h=nn.Linear(36, 4)), X),
    "spatial_pyramid": lambda: (Net(lambda m, x: m.h(torch.cat([F.adaptive_max_pool2d(m.s(x), k).flatten(1) for k in (1, 2)], 1)), s=conv(3, 6), h=nn.Linear(30, 4)), X),
    "tied_transposed": lambda: (Net(lambda m, x: F.linear(F.relu(F.linear(x, m.a.weight, m.a.bias)), m.a.weight.t(), m.c), a=nn.Linear(6, 16), c=nn.Parameter(torch.randn(6))), (4, 6)),
    "tied_conv_transpose": lambda: (Net(lambda m, x: F.conv_transpose2d(F.relu(m.a(x)), m.a.weight, padding=1), a=conv(3, 12)), X),
    "functional": lambda: (Net(lambda m, x: F.conv2d(F.batch_norm(F.conv2d(x, m.w, m.b, padding=1), m.mean, m.var, m.g, m.h), m.v, padding=1), w=nn.Parameter(torch.randn(8, 3, 3, 3)), b=nn.Parameter(torch.randn(8)), g=nn.Parameter(torch.rand(8)), h=nn.Parameter(torch.randn(8)), mean=torch.randn(8), var=torch.rand(8) + 0.5, v=nn.Parameter(torch.randn(4, 8, 3, 3))), X),
    "no_grad_region": lambda: (Net(lambda m, x: m.b(without_gradients(m.a, x)), a=conv(3, 8), b=conv(8, 4)), X),
    "layer_scale": lambda: (Net(lambda m, x: m.o((y := m.a(x)) + m.g * m.c(F.gelu(m.b(y)))), a=nn.Linear(6, 8), b=nn.Linear(8, 16), c=nn.Linear(16, 8), g=nn.Parameter(torch.randn(8)), o=nn.Linear(8, 3)), (2, 5, 6)),
    "embedding_bag": lambda: (Net(lambda m, i: m.b(F.relu(m.a(m.e(i)))), e=nn.EmbeddingBag(20, 12), a=nn.Linear(12, 16), b=nn.Linear(16, 4)), "tokens"),
    "embedding_bag_sum": lambda: (Net(lambda m, i: m.a(m.e(i)), e=nn.EmbeddingBag(20, 12, mode="sum"), a=nn.Linear(12, 4)), "tokens"),
    "position_embedding": lambda: (Net(lambda m, i: m.b(F.relu(m.a(m.e(i) + m.p(torch.arange(i.shape[1], device=i.device))))), e=nn.Embedding(20, 12), p=nn.Embedding(10, 12), a=nn.Linear(12, 16), b=nn.Linear(16, 4)), "tokens"),
    "setitem_space": lambda: (Net(lambda m, x: m.c(F.relu(m.b(zeroed(m.a(x), (slice(None), slice(None), 0))))), a=conv(3, 8), b=conv(8, 12), c=conv(12, 4)), X),
    "masked_fill": lambda: (Net(lambda m, x: m.b((y := m.a(x)).masked_fill(y > 0.5, 0.0)), a=conv(3, 8), b=conv(8, 4)), X),
    "masked_fill_space": lambda: (Net(lambda m, x: m.b(m.a(x).masked_fill(x[:, :1] > 0.5, -1.0)), a=conv(3, 8), b=conv(8, 4)), X),
    "where": lambda: (Net(lambda m, x: m.b(torch.where(x[:, :1] > 0, m.a(x), m.c(x))), a=conv(3, 8), c=conv(3, 8), b=conv(8, 4)), X),
    "where_scalar": lambda: (Net(lambda m, x: m.b(torch.where((y := m.a(x)) > 0, y, 0.1 * y)), a=conv(3, 8), b=conv(8, 4)), X),
    "bilinear": lambda: (Net(lambda m, x: m.c(F.relu(m.b(m.a(x), m.a2(x)))), a=nn.Linear(6, 8), a2=nn.Linear(6, 10), b=nn.Bilinear(8, 10, 12), c=nn.Linear(12, 3)), (4, 6)),
    "unfold": lambda: (Net(lambda m, x: m.h(F.unfold(m.a(x), 2, stride=2).transpose(1, 2)), a=conv(3, 8), h=nn.Linear(32, 4)), X),
    "fold": lambda: (Net(lambda m, x: m.h(F.fold(m.l(F.unfold(x, 2, stride=2).transpose(1, 2)).transpose(1, 2), (8, 8), 2, stride=2)), l=nn.Linear(12, 24), h=conv(6, 4)), X),
    "tensor_unfold": lambda: (Net(lambda m, x: m.h(m.a(x).unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))), a=conv(3, 8), h=conv(8, 4)), X),
    "local_response_norm": lambda: (Net(lambda m, x: m.b(F.relu(m.z(m.l(m.a(x))))), a=conv(3, 8), l=nn.LocalResponseNorm(3), z=conv(8, 12), b=conv(12, 4)), X),
    "grid_sample": lambda: (Net(lambda m, x: m.b(F.grid_sample(m.a(x), m.g(x).permute(0, 2, 3, 1).tanh(), align_corners=False)), a=conv(3, 8), g=conv(3, 2), b=conv(8, 4)), X),
    "pool_over_channels": lambda: (Net(lambda m, x: m.c(F.relu(m.b(F.avg_pool1d(F.relu(m.a(x)).unsqueeze(1), 2).squeeze(1)))), a=nn.Linear(6, 8), b=nn.Linear(4, 16), c=nn.Linear(16, 3)), (4, 6)),
    "lp_pool": lambda: (Net(lambda m, x: m.b(F.lp_pool2d(m.a(x), 2, 2)), a=conv(3, 8), b=conv(8, 4)), X),
    "addcmul": lambda: (Net(lambda m, x: m.b(torch.addcmul(m.a(x), m.c(x), m.c(x))), a=conv(3, 8), c=conv(3, 8), b=conv(8, 4)), X),
    "lerp": lambda: (Net(lambda m, x: m.b(torch.lerp(m.a(x), m.c(x), 0.3)), a=conv(3, 8), c=conv(3, 8), b=conv(8, 4)), X),
    "baddbmm": lambda: (Net(lambda m, x: m.b(torch.baddbmm(m.s, F.relu(m.a(x)), m.w)), a=nn.Linear(6, 8), w=nn.Parameter(torch.randn(2, 8, 10)), s=nn.Parameter(torch.randn(1, 1, 10)), b=nn.Linear(10, 3)), (2, 5, 6)),
    "tensordot": lambda: (Net(lambda m, x: m.b(torch.tensordot(F.relu(m.a(x)), m.w, ([2], [0]))), a=nn.Linear(6, 8), w=nn.Parameter(torch.randn(8, 10)), b=nn.Linear(10, 3)), (2, 5, 6)),
    "einsum_ellipsis": lambda: (Net(lambda m, x: m.b(torch.einsum("...i,io->...o", F.relu(m.a(x)), m.w)), a=nn.Linear(6, 8), w=nn.Parameter(torch.randn(8, 10)), b=nn.Linear(10, 3)), (2, 5, 6)),
    "einsum_implicit": lambda: (Net(lambda m, x: m.b(torch.einsum("bni,io", F.relu(m.a(x)), m.w)), a=nn.Linear(6, 8), w=nn.Parameter(torch.randn(8, 10)), b=nn.Linear(10, 3)), (2, 5, 6)),
    "outer": lambda: (Net(lambda m, x: m.b((F.relu(m.a(x))[:, :, None] * m.c(x)[:, None]).flatten(1)), a=nn.Linear(6, 8), c=nn.Linear(6, 5), b=nn.Linear(40, 3)), (4, 6)),
    "cosine": lambda: (Net(lambda m, x: m.b(F.linear(F.normalize(F.relu(m.a(x)), dim=-1), F.normalize(m.w, dim=-1))), a=nn.Linear(6, 8), w=nn.Parameter(torch.randn(10, 8)), b=nn.Linear(10, 3)), (2, 5, 6)),
    "normalize_conv": lambda: (Net(lambda m, x: m.b(F.normalize(m.a(x), dim=1)), a=conv(3, 8), b=conv(8, 4)), X),
    "logsumexp_space": lambda: (Net(lambda m, x: m.b(m.a(x).flatten(2).logsumexp(2)), a=conv(3, 8), b=nn.Linear(8, 4)), X),
    "generalized_mean_pool": lambda: (Net(lambda m, x: m.b(F.avg_pool2d(m.a(x).clamp(min=1e-06).pow(m.p), 8).pow(1.0 / m.p).flatten(1)), a=conv(3, 8), p=nn.Parameter(torch.ones(1) * 3), b=nn.Linear(8, 4)), X),
    "std_pool": lambda: (Net(lambda m, x: m.b(torch.cat([(y := m.a(x)).mean((2, 3)), y.std((2, 3))], 1)), a=conv(3, 8), b=nn.Linear(16, 4)), X),
    "coordinates": lambda: (Net(lambda m, x: m.b(torch.cat([m.a(x), torch.linspace(0, 1, 8, dtype=x.dtype).view(1, 1, 1, 8).expand(2, 1, 8, 8)], 1)), a=conv(3, 8), b=conv(9, 4)), X),
    "scatter_add": lambda: (Net(lambda m, x: m.b(F.relu(m.z(torch.zeros(2, 4, 8, dtype=x.dtype).scatter_add(1, m.i[None, :, None].expand(2, 5, 8), m.a(x))))), a=nn.Linear(6, 8), z=nn.Linear(8, 12), i=torch.tensor([0, 1, 3, 1, 2]), b=nn.Linear(12, 3)), (2, 5, 6)),
    "index_add": lambda: (Net(lambda m, x: m.b(F.relu(m.z(torch.zeros(2, 4, 8, dtype=x.dtype).index_add(1, m.i, m.a(x))))), a=nn.Linear(6, 8), z=nn.Linear(8, 12), i=torch.tensor([0, 1, 3, 1, 2]), b=nn.Linear(12, 3)), (2, 5, 6)),
    "batch_norm_without_scale": lambda: (Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, 8), n=nn.BatchNorm2d(8, affine=False), b=conv(8, 4)), X),
    "batch_norm_without_statistics": lambda: (Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, 8), n=nn.BatchNorm2d(8, track_running_stats=False), b=conv(8, 4)), X),
    "batch_norm_of_sequences": lambda: (Net(lambda m, x: m.b(m.n(m.a(x).transpose(1, 2)).transpose(1, 2)), a=nn.Linear(6, 8), n=nn.BatchNorm1d(8), b=nn.Linear(8, 4)), (2, 5, 6)),
    "frozen": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x))), a=conv(3, 8).requires_grad_(False), b=conv(8, 4)), X),
    "shared_bn": lambda: (Net(lambda m, x: m.o(m.n(m.a(x)) + m.n(m.b(x))), a=conv(3, 8), b=conv(3, 8), n=nn.BatchNorm2d(8), o=conv(8, 4)), X),
    "spectral_norm": lambda: (Net(lambda m, x: m.b(F.relu(m.c(F.relu(m.a(x))))), a=nn.utils.parametrizations.spectral_norm(conv(3, 8)), c=conv(8, 12), b=conv(12, 4)), X),
    "spectral_norm_by_hooks": lambda: (Net(lambda m, x: m.b(F.relu(m.c(F.relu(m.a(x))))), a=nn.utils.spectral_norm(conv(3, 8)), c=conv(8, 12), b=conv(12, 4)), X),
    "orthogonal": lambda: (Net(lambda m, x: m.b(F.relu(m.c(F.relu(m.a(x))))), a=nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), c=nn.Linear(6, 16), b=nn.Linear(16, 3)), (4, 6)),
    "parametrized": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x))), a=parametrized(conv(3, 8)), b=parametrized(conv(8, 4))), X),
    "standardised_rows": lambda: (Net(lambda m, x: m.b(F.relu(F.conv2d(x, (m.a.weight - m.a.weight.mean((1, 2, 3), keepdim=True)) / (m.a.weight.std((1, 2, 3), keepdim=True) + 1e-05), m.a.bias, padding=1))), a=conv(3, 8), b=conv(8, 4)), X),
    "equalized": lambda: (Net(lambda m, x: m.b(F.relu(F.linear(x, m.a.weight * m.s, m.a.bias))), a=nn.Linear(6, 8), s=nn.Parameter(torch.ones(1)), b=nn.Linear(8, 3)), (4, 6)),
    "modulated_weight": lambda: (Net(lambda m, x: m.b(F.relu(F.conv2d(x, m.a.weight * m.s[:, None, None, None], padding=1))), a=conv(3, 8), s=nn.Parameter(torch.randn(8)), b=conv(8, 4)), X),
    "low_rank_weight": lambda: (Net(lambda m, x: m.b(F.relu(F.linear(x, m.u @ m.v))), u=nn.Parameter(torch.randn(16, 4)), v=nn.Parameter(torch.randn(4, 6)), b=nn.Linear(16, 3)), (4, 6)),
    "lora": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x) + F.linear(F.linear(x, m.d), m.u) * 0.5)), a=nn.Linear(6, 16), d=nn.Parameter(torch.randn(4, 6)), u=nn.Parameter(torch.randn(16, 4)), b=nn.Linear(16, 3)), (4, 6)),
}  # fmt: skip

LOCKED = {
    "cumsum": (lambda: stirred(lambda y: y.cumsum(1)), "cumsum runs over it"),
    "sort": (lambda: stirred(lambda y: y.sort(1)[0]), "sort runs over it"),
    "topk": (lambda: stirred(lambda y: y.topk(12, 1)[0]), "topk runs over it"),
    "argmax": (lambda: (Net(lambda m, x: m.b(m.a(x).argmax(1, keepdim=True).to(x.dtype)), a=conv(3, 8), b=conv(1, 4)), X), "argmax runs over it"),
    "softmax2d": (lambda: stirred(nn.Softmax2d()), "softmax runs over it"),
    "fft": (lambda: stirred(lambda y: torch.fft.fft(y, dim=1).abs()), "fft_fft runs over it"),
    "written_slice": (lambda: stirred(lambda y: zeroed(y, (slice(None), slice(0, 2)))), "is indexed by positions"),
    "unpooled": (lambda: stirred(lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)), "max_unpool2d"),
    "gathered": (lambda: stirred(lambda y: y.gather(1, torch.zeros(2, 12, 8, 8, dtype=torch.int64, device=y.device))), "is indexed, or written, by position"),
    "channel_attention": (lambda: (Net(lambda m, x: m.b((y := m.a(x)) * torch.sigmoid(m.e(pool(y).unsqueeze(1)).transpose(1, 2).unsqueeze(-1))), a=conv(3, 12), e=nn.Conv1d(1, 1, 3, padding=1), b=conv(12, 4)), X), "slides over this axis"),
    "distances": (lambda: (Net(lambda m, x: m.b(torch.cdist(F.relu(m.a(x)), m.p)), a=nn.Linear(6, 8), p=nn.Parameter(torch.randn(2, 4, 8)), b=nn.Linear(4, 3)), (2, 5, 6)), "operation 'cdist' has no rule"),
    "weight_norm": (lambda: (Net(lambda m, x: m.b(F.relu(m.a(x))), a=nn.utils.parametrizations.weight_norm(conv(3, 8)), b=nn.utils.parametrizations.weight_norm(conv(8, 4))), X), "take it off first"),
    "dynamic_kernel": (lambda: (Net(lambda m, x: m.b(F.relu(dynamic(m, F.relu(m.z(x))))), z=conv(3, 8), r=nn.Linear(8, 3), w=nn.Parameter(torch.randn(3, 6, 8, 3, 3)), b=conv(6, 4)), X), "a weight that is computed or shared"),
}  # fmt: skip


def dynamic(m, x):
    """A convolution whose weight is mixed anew for every sample."""
    mixed = (m.r(pool(x)).softmax(-1) @ m.w.flatten(1)).view(x.shape[0] * m.w.shape[1], *m.w.shape[2:])
    result = F.conv2d(x.reshape(1, -1, *x.shape[2:]), mixed, groups=x.shape[0], padding=1)
    return result.view(x.shape[0], -1, *x.shape[2:])
