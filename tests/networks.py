"""Small networks, one per pattern that a pruner gets wrong: name -> (module, inputs)."""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """A module whose forward is given as a function of (layers, input)."""

    def __init__(self, forward, **layers) -> None:
        super().__init__()
        for name, layer in layers.items():
            if isinstance(layer, nn.Parameter):
                self.register_parameter(name, layer)
            elif isinstance(layer, torch.Tensor):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def conv(a, b, k=3, **more):
    return nn.Conv2d(a, b, k, padding=k // 2, **more)


X = (2, 3, 8, 8)


def pool(x):
    return x.mean((2, 3))


NETWORKS = {
    "chain": lambda: (nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 12), nn.Flatten(), nn.Linear(12 * 64, 5)), X),
    "residual": lambda: (Net(lambda m, x: m.head(pool(m.a(x) + m.c(F.relu(m.b(m.a(x)))))), a=conv(3, 8), b=conv(8, 10), c=conv(10, 8), head=nn.Linear(8, 4)), X),
    "residual_flip": lambda: (Net(lambda m, x: m.head(pool((y := m.a(x)) + y.flip(1))), a=conv(3, 8), head=nn.Linear(8, 4)), X),
    "concat": lambda: (Net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)), a=conv(3, 6), b=conv(3, 7), c=conv(13, 4)), X),
    "concat_self": lambda: (Net(lambda m, x: m.c(torch.cat([y := m.a(x), y], 1)), a=conv(3, 6), c=conv(12, 4)), X),
    "concat_input": lambda: (Net(lambda m, x: m.c(torch.cat([m.a(x), x], 1)), a=conv(3, 6), c=conv(9, 4)), X),
    "concat_constant": lambda: (Net(lambda m, x: m.c(torch.cat([m.a(x), torch.ones(2, 2, 8, 8, dtype=x.dtype, device=x.device)], 1)), a=conv(3, 6), c=conv(8, 4)), X),
    "split": lambda: (Net(lambda m, x: (lambda p, q: m.b(p) + m.c(q))(*m.a(x).split([5, 7], 1)), a=conv(3, 12), b=conv(5, 4), c=conv(7, 4)), X),
    "chunk_glu": lambda: (Net(lambda m, x: (lambda p, q: m.b(p * q.sigmoid()))(*m.a(x).chunk(2, 1)), a=conv(3, 12), b=conv(6, 4)), X),
    "chunk_free": lambda: (Net(lambda m, x: (lambda p, q: m.b(p) + m.c(q))(*m.a(x).chunk(2, 1)), a=conv(3, 12), b=conv(6, 4), c=conv(6, 4)), X),
    "slice": lambda: (Net(lambda m, x: m.b((y := m.a(x))[:, 4:10]) + m.c(y), a=conv(3, 12), b=conv(6, 4), c=conv(12, 4)), X),
    "swap_concat": lambda: (Net(lambda m, x: (lambda p, q: m.b(torch.cat([q, p, m.c(p)], 1)))(*m.a(x).chunk(2, 1)), a=conv(3, 12), c=conv(6, 5), b=conv(17, 4)), X),
    "shuffle": lambda: (Net(lambda m, x: m.b((y := m.a(x)).view(y.shape[0], 2, -1, 8, 8).transpose(1, 2).flatten(1, 2)), a=conv(3, 12), b=conv(12, 4)), X),
    "shuffle_op": lambda: (Net(lambda m, x: m.b(F.channel_shuffle(m.a(x), 3)), a=conv(3, 12), b=conv(12, 4)), X),
    "pixel_shuffle": lambda: (Net(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), a=conv(3, 16), b=conv(4, 3)), X),
    "pixel_unshuffle": lambda: (Net(lambda m, x: m.b(F.pixel_unshuffle(m.a(x), 2)), a=conv(3, 6), b=conv(24, 3)), X),
    "depthwise": lambda: (nn.Sequential(conv(3, 8, 1), conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), conv(8, 4, 1)), X),
    "depthwise_multiplier": lambda: (nn.Sequential(conv(3, 6, 1), conv(6, 18, groups=6), nn.Hardswish(), conv(18, 4, 1)), X),
    "grouped": lambda: (nn.Sequential(conv(3, 12), nn.ReLU(), conv(12, 18, groups=3), nn.BatchNorm2d(18), nn.ReLU(), conv(18, 4)), X),
    "grouped_residual": lambda: (Net(lambda m, x: m.d((y := F.relu(m.a(x))) + m.c(F.relu(m.b(y)))), a=conv(3, 12), b=conv(12, 12, groups=4), c=conv(12, 12, groups=2), d=conv(12, 4)), X),
    "grouped_on_input": lambda: (nn.Sequential(conv(4, 12, groups=2), nn.ReLU(), conv(12, 4)), (2, 4, 8, 8)),
    "transposed": lambda: (nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 10, 2, 2), nn.ReLU(), conv(10, 4)), X),
    "transposed_grouped": lambda: (nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 12, 2, 2, groups=4), nn.ReLU(), conv(12, 4)), X),
    "transposed_depthwise": lambda: (nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.ReLU(), conv(8, 4)), X),
    "squeeze_excite": lambda: (Net(lambda m, x: m.d((y := m.a(x)) * torch.sigmoid(m.c(F.relu(m.b(F.adaptive_avg_pool2d(y, 1)))))), a=conv(3, 12), b=conv(12, 6, 1), c=conv(6, 12, 1), d=conv(12, 4)), X),
    "conv1d": lambda: (nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.GELU(), nn.MaxPool1d(2), nn.Conv1d(8, 4, 3)), (2, 3, 16)),
    "conv3d": lambda: (nn.Sequential(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.SiLU(), nn.AvgPool3d(2), nn.Conv3d(6, 3, 1)), (2, 2, 8, 8, 8)),
    "instance_norm": lambda: (nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), conv(8, 4)), X),
    "mlp": lambda: (nn.Sequential(nn.Linear(6, 16), nn.PReLU(16), nn.Dropout(0.5), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)), (4, 6)),
    "matmul_parameter": lambda: (Net(lambda m, x: (F.relu(x @ m.w1 + m.b1)) @ m.w2, w1=nn.Parameter(torch.randn(6, 16)), b1=nn.Parameter(torch.randn(16)), w2=nn.Parameter(torch.randn(16, 3))), (4, 6)),
    "einsum": lambda: (Net(lambda m, x: torch.einsum("bh,oh->bo", F.relu(torch.einsum("bi,hi->bh", x, m.w1)), m.w2), w1=nn.Parameter(torch.randn(16, 6)), w2=nn.Parameter(torch.randn(3, 16))), (4, 6)),
    "buffer_scale": lambda: (Net(lambda m, x: m.b(m.a(x) * m.scale[:, None, None] + m.shift), a=conv(3, 8), b=conv(8, 4), scale=torch.rand(8) + 0.5, shift=torch.rand(1, 8, 1, 1)), X),
    "embedding": lambda: (Net(lambda m, i: m.b(F.relu(m.a(m.e(i)))), e=nn.Embedding(20, 12), a=nn.Linear(12, 16), b=nn.Linear(16, 4)), "tokens"),
    "tied_head": lambda: (Net(lambda m, i: F.linear(m.b(F.relu(m.a(m.e(i)))), m.e.weight), e=nn.Embedding(20, 12), a=nn.Linear(12, 16), b=nn.Linear(16, 12)), "tokens"),
    "shared_layer": lambda: (Net(lambda m, x: m.b(F.relu(m.s(F.relu(m.s(F.relu(m.a(x))))))), a=conv(3, 8), s=conv(8, 8), b=conv(8, 4)), X),
    "roll_channels": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x)).roll(3, 1)), a=conv(3, 12), b=conv(12, 4)), X),
    "roll_residual": lambda: (Net(lambda m, x: m.c((y := m.b(m.a(x))) + y.roll(-4, 1)), a=conv(3, 6), b=conv(6, 12), c=conv(12, 4)), X),
    "roll_by_size": lambda: (Net(lambda m, x: m.b((y := m.a(x)).roll(y.shape[1] // 2, 1)), a=conv(3, 12), b=conv(12, 4)), X),
    "roll_space": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x)).roll((1, -2), (2, 3))), a=conv(3, 8), b=conv(8, 4)), X),
    "padded_heads": lambda: (Net(lambda m, x: m.b((F.pad(F.relu(m.a(x).unflatten(-1, (-1, 4))), (0, 1), value=1.0)[..., :-1] * 0.5).flatten(2)), a=nn.Linear(6, 16), b=nn.Linear(16, 4)), (2, 5, 6)),
    "strided_slice": lambda: (Net(lambda m, x: m.b((y := m.a(x))[:, ::2]) + m.c(y[:, 1::2]), a=conv(3, 12), b=conv(6, 4), c=conv(6, 4)), X),
    "strided_odd": lambda: (Net(lambda m, x: m.b((y := m.a(x))[:, 2::3]) + m.c(y), a=conv(3, 14), b=conv(4, 4), c=conv(14, 4)), X),
    "strided_inside": lambda: (Net(lambda m, x: m.b((y := m.a(x))[:, 5:11:2]) + m.c(y), a=conv(3, 14), b=conv(3, 4), c=conv(14, 4)), X),
    "index_list": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x))[:, [7, 0, 3, 3, -1, 5]]), a=conv(3, 12), b=conv(6, 4)), X),
    "index_select": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x)).index_select(1, m.i)), a=conv(3, 12), b=conv(8, 4), i=torch.tensor([7, 0, 3, 3, 11, 5, 1, 2])), X),
    "index_buffer": lambda: (Net(lambda m, x: m.c((y := m.a(x))[:, m.i].sum(1, keepdim=True)) + m.b(y[:, m.j]), a=conv(3, 12), b=conv(12, 4), c=conv(1, 4), i=torch.tensor([7, 0, -2, 3, 11, 5, 1, 2]), j=torch.randperm(12)), X),
    "index_residual": lambda: (Net(lambda m, x: m.b((y := m.a(x)) + y[:, m.i]), a=conv(3, 12), b=conv(12, 4), i=torch.tensor([1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10])), X),
    "zeros_concat": lambda: (Net(lambda m, x: m.c(torch.cat([m.a(x), x.new_zeros(2, 8, 8, 8)], 1) + m.b(x)), a=conv(3, 6), b=conv(3, 14), c=conv(14, 4)), X),
    "zeros_like": lambda: (Net(lambda m, x: m.c(torch.cat([y := m.a(x), torch.zeros_like(y)], 1) + m.b(x)), a=conv(3, 6), b=conv(3, 12), c=conv(12, 4)), X),
    "ones_by_size": lambda: (Net(lambda m, x: m.c((y := m.a(x)) * torch.full((1, y.shape[1], 1, 1), 0.5)), a=conv(3, 8), c=conv(8, 4)), X),
    "ones_summed": lambda: (Net(lambda m, x: m.b((torch.ones(2, 8, 8, 8, dtype=x.dtype) + m.a(x)).sum(1, keepdim=True)) + m.d(F.relu(m.c(x))), a=conv(3, 8), b=conv(1, 4), c=conv(3, 16), d=conv(16, 4)), X),
    "ones_inexact": lambda: (Net(lambda m, x: m.c(m.d(torch.ones(2, 8, 8, 8, dtype=x.dtype) + m.a(x)) + m.b(x)), a=conv(3, 8), d=conv(8, 6), b=conv(3, 6), c=conv(6, 4)), X),
    "upsample": lambda: (Net(lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=2, mode="bilinear") + m.c(F.interpolate(x, scale_factor=2))), a=conv(3, 8), c=conv(3, 8), b=conv(8, 4)), X),
    "spatial_pad": lambda: (Net(lambda m, x: m.b(F.pad(m.a(x), (1, 2, 0, 1), mode="reflect")), a=conv(3, 8), b=conv(8, 4)), X),
    "channel_pad": lambda: (Net(lambda m, x: m.b(F.pad((y := m.a(x))[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.c(y)), a=conv(3, 8), c=nn.Conv2d(8, 12, 3, 2, 1), b=conv(12, 4)), X),
    "nhwc": lambda: (Net(lambda m, x: m.b(F.gelu(m.a(m.s(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2), s=conv(3, 8), a=nn.Linear(8, 16), b=nn.Linear(16, 6)), X),
    "flatten_nhwc": lambda: (Net(lambda m, x: m.h(m.s(x).permute(0, 2, 3, 1).flatten(1)), s=conv(3, 6), h=nn.Linear(6 * 64, 4)), X),
    "softmax_channels": lambda: (Net(lambda m, x: m.c(m.b(F.relu(m.a(x))).softmax(1)), a=conv(3, 12), b=conv(12, 6), c=conv(6, 4)), X),
    "sum_channels": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x)).sum(1, keepdim=True)), a=conv(3, 8), b=conv(1, 4)), X),
    "repeat_interleave": lambda: (Net(lambda m, x: m.b(m.a(x).repeat_interleave(2, 1)), a=conv(3, 6), b=conv(12, 4)), X),
    "repeat": lambda: (Net(lambda m, x: m.b(m.a(x).repeat(1, 2, 1, 1)), a=conv(3, 6), b=conv(12, 4)), X),
    "hard_coded_view": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x)).view(-1, 8, 64).mean(2)), a=conv(3, 8), b=nn.Linear(8, 4)), X),
    "hard_coded_slices": lambda: (Net(lambda m, x: m.b((y := m.a(x))[:, :6]) + m.c(y[:, 6:]), a=conv(3, 14), b=conv(6, 4), c=conv(8, 4)), X),
    "inplace": lambda: (Net(lambda m, x: m.b(m.a(x).relu_().add_(1.0).mul_(0.5)), a=conv(3, 8), b=conv(8, 4)), X),
    "inplace_residual": lambda: (Net(lambda m, x: inplace_residual(m, x), a=conv(3, 8), r=conv(8, 8), b=conv(8, 4)), X),
    "two_outputs": lambda: (Net(lambda m, x: {"p": m.b(y := F.relu(m.a(x))), "q": [m.c(y)]}, a=conv(3, 12), b=conv(12, 4), c=conv(12, 2)), X),
    "casts": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x).float()).to(torch.float32).type_as(x)), a=conv(3, 8), b=conv(8, 4)), X),
    "heads": lambda: (Attention(16, 4), (2, 5, 16)),
    "grouped_heads": lambda: (Attention(16, 4, 2), (2, 5, 16)),
    "stack": lambda: (Net(lambda m, x: m.c(torch.stack([m.a(x), m.b(x)]).sum(0)), a=conv(3, 8), b=conv(3, 8), c=conv(8, 4)), X),
    "minimum": lambda: (Net(lambda m, x: m.c(torch.maximum(m.a(x), m.b(x))), a=conv(3, 8), b=conv(3, 8), c=conv(8, 4)), X),
    "weight_used_twice": lambda: (Net(lambda m, x: F.linear(F.relu(F.linear(x, m.w)), m.w.t()), w=nn.Parameter(torch.randn(16, 6))), (4, 6)),
    "unbind_qkv": lambda: (FusedAttention(16, 4), (2, 5, 16)),
    "fixed_heads": lambda: (FixedAttention(16, 4), (2, 5, 16)),
    "rows_cut": lambda: (Net(lambda m, x: m.b((y := m.a(x).view(2, 5, -1, 4))[:, :, :4].flatten(2)) + m.c(y[:, :, 4:].flatten(2)), a=nn.Linear(6, 24), b=nn.Linear(16, 4), c=nn.Linear(8, 4)), (2, 5, 6)),
    "index_rows": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x)).permute(0, 2, 3, 1)[:, m.rows].index_select(2, m.rows)[:, :, [1, 0, 0]]), a=conv(3, 8, 1), b=nn.Linear(8, 4), rows=torch.tensor([1, 3, 2, 0])), X),
    "table": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x) + m.bias[m.rows])), a=nn.Linear(6, 12), b=nn.Linear(12, 4), bias=nn.Parameter(torch.randn(7, 12)), rows=torch.tensor([[1, 3, 2, 0, 5]])), (2, 5, 6)),
    "pick_places": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x)).permute(0, 2, 3, 1)[:, m.rows, m.rows]), a=conv(3, 8), b=nn.Linear(8, 4), rows=torch.tensor([1, 3, 2, 0])), X),
    "pick_beside_a_new_axis": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x))[None, m.rows].flatten(0, 1)), a=nn.Linear(6, 12), b=nn.Linear(12, 4), rows=torch.tensor([1, 3, 2, 0])), (5, 6)),
    "pick_by_mask": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x))[m.rows]), a=nn.Linear(6, 12), b=nn.Linear(12, 4), rows=torch.tensor([[True, False, True, True, False]] * 2)), (2, 5, 6)),
    "put_rows": lambda: (Net(lambda m, x: m.b(put_rows(x.new_zeros(2, 7, 12), m.rows, F.relu(m.a(x)))), a=nn.Linear(6, 12), b=nn.Linear(12, 4), rows=torch.tensor([6, 3, 2, 0, 1])), (2, 5, 6)),
    "put_dirty": lambda: (Net(lambda m, x: m.b(put_rows(m.c(x), m.rows, m.a(x).sigmoid())), a=nn.Linear(6, 12), c=nn.Linear(6, 12), b=nn.Linear(12, 4), rows=torch.tensor([4, 3, 2, 0, 1])), (2, 5, 6)),
    "put_number": lambda: (Net(lambda m, x: m.b(put_rows(F.relu(m.a(x)), slice(1, 3), 0.5)), a=nn.Linear(6, 12), b=nn.Linear(12, 4)), (2, 5, 6)),
    "index_add": lambda: (Net(lambda m, x: m.b(x.new_zeros(3, 12).index_add(0, m.rows, F.relu(m.a(x)))), a=nn.Linear(6, 12), b=nn.Linear(12, 4), rows=torch.tensor([1, 1, 2, 0, 1])), (5, 6)),
    "linear_attention": lambda: (LinearAttention(16, 4), (2, 5, 16)),
    "found_rows": lambda: (Net(lambda m, x: m.c(F.relu((z := m.b(F.relu(m.a(x))))[z[:, 0] > 0])).sum(0), a=nn.Linear(6, 32), b=nn.Linear(32, 8), c=nn.Linear(8, 4)), (40, 6)),
    "token_slice": lambda: (Net(lambda m, x: m.b(F.relu(m.a((x + m.place)[:, :1]))), a=nn.Linear(6, 16), b=nn.Linear(16, 4), place=nn.Parameter(torch.randn(1, 5, 6))), (2, 5, 6)),
}  # fmt: skip


def inplace_residual(m, x):
    y = F.relu(m.a(x))
    z = m.r(y)
    z += y
    return m.b(F.relu(z, inplace=True))


def put_rows(x, rows, source):
    x[:, rows] = source
    return x


class Attention(nn.Module):
    """Multi-head attention written out, with separate projections; key and value heads may be fewer."""

    def __init__(self, width, heads, kv=None) -> None:
        super().__init__()
        self.shared, self.dim = kv is not None, width // heads
        inner = self.dim * (kv or heads)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, inner), nn.Linear(width, inner)
        self.out = nn.Linear(width, width)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], -1, self.dim).transpose(1, 2)

    def forward(self, x):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.shared)
        return self.out(y.transpose(1, 2).flatten(2))


class FusedAttention(nn.Module):
    """Multi-head attention with one projection for q, k, v and the product written out."""

    def __init__(self, width, heads) -> None:
        super().__init__()
        self.heads, self.dim = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, -1, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * self.dim**-0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, -1))


class FixedAttention(FusedAttention):
    """The same with the number of heads and the width written in, as most libraries do."""

    def forward(self, x):
        b, n, c = x.shape[0], x.shape[1], x.shape[2]
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class LinearAttention(FusedAttention):
    """Attention without softmax; a column of ones beside the values gives the denominator."""

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, -1, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.relu(q) @ (F.relu(k).transpose(-2, -1) @ F.pad(v, (0, 1), value=1.0))
        return self.out((y[..., :-1] / (y[..., -1:] + 1)).transpose(1, 2).reshape(b, n, -1))


def build(name):
    """A network and its inputs, seeded."""
    torch.manual_seed(0)
    module, shape = NETWORKS[name]()
    inputs = torch.randint(0, 20, (2, 7)) if shape == "tokens" else torch.randn(shape)
    return module.eval(), inputs
