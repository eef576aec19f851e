"""More networks: attention in many spellings, experts, state spaces, recurrences written out, several inputs."""

import torch
import torch.nn.functional as F
from torch import nn

from networks import Net, X, conv, pool

TOKENS = (2, 5, 16)


def sp(y, d=4):
    """Split into heads: (batch, heads, length, width)."""
    return y.view(y.shape[0], y.shape[1], -1, d).transpose(1, 2)


def un(y):
    """The other way."""
    return y.transpose(1, 2).flatten(2)


def att(q, k, v, bias=None, scale=None):
    scores = (q @ k.transpose(-1, -2)) * (scale or q.shape[-1] ** -0.5)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def attends(function, **more):
    """Four heads; the function gets the module, queries, keys, values and the input."""

    def forward(m, x):
        return m.o(un(function(m, sp(m.q(x)), sp(m.k(x)), sp(m.v(x)), x)))

    return Net(forward, q=nn.Linear(16, 16), k=nn.Linear(16, 16), v=nn.Linear(16, 16), o=nn.Linear(16, 16), **more)


def rkv(y, times=2):
    """Every head of keys or values as often as queries use it."""
    batch, heads, length, width = y.shape
    return y[:, :, None].expand(batch, heads, times, length, width).reshape(batch, heads * times, length, width)


def rot_half(y):
    first, second = y.chunk(2, -1)
    return torch.cat([-second, first], -1)


def angles(y):
    return torch.arange(y.shape[-2], dtype=y.dtype, device=y.device)[:, None] * torch.tensor([1.0, 0.1]).to(y)


def rope(y):
    turn = torch.cat([angles(y)] * 2, -1)
    return y * turn.cos() + rot_half(y) * turn.sin()


def rope2(y):
    turn, a, b = angles(y), y[..., ::2], y[..., 1::2]
    return torch.stack([a * turn.cos() - b * turn.sin(), a * turn.sin() + b * turn.cos()], -1).flatten(-2)


def rope3(y):
    turn = angles(y)
    numbers = torch.view_as_complex(y.reshape(*y.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(numbers * torch.polar(torch.ones_like(turn), turn)).flatten(-2).type_as(y)


def distance(y):
    place = torch.arange(5, device=y.device)
    return (place[None] - place[:, None]).abs().to(y.dtype)


ROWS = torch.arange(5)[:, None] - torch.arange(5)[None] + 4


class Vision(nn.Module):
    """A block of a vision transformer with class token and positions."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.first, self.qkv, self.o = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.second, self.up, self.down, self.head = (
            nn.LayerNorm(16),
            nn.Linear(16, 32),
            nn.Linear(32, 16),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        b, n, _ = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(b, n, 3, -1, 4).permute(2, 0, 3, 1, 4)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))
        x = x + self.down(F.gelu(self.up(self.second(x))))
        return self.head(x[:, 0])


class Shifted(nn.Module):
    """Attention in shifted windows with a table of relative positions."""

    def __init__(self, window=4, heads=4):
        super().__init__()
        self.window = window
        self.enter, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, 3)
        self.qkv, self.o = nn.Linear(16, 48), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
        apart = (places[:, :, None] - places[:, None] + window - 1).permute(1, 2, 0)
        self.register_buffer("rows", apart[..., 0] * (2 * window - 1) + apart[..., 1])

    def forward(self, x):
        x = self.enter(x).permute(0, 2, 3, 1)
        (b, h, w, c), s = x.shape, self.window
        y = (
            torch.roll(x, (-1, -1), (1, 2))
            .view(b, h // s, s, w // s, s, c)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(-1, s * s, c)
        )
        q, k, v = self.qkv(y).reshape(y.shape[0], s * s, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.rows.view(-1)].view(s * s, s * s, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        scores = (q * 0.5) @ k.transpose(-2, -1) + bias
        mask = torch.zeros(4, 16, 16, dtype=x.dtype, device=x.device)
        mask[1, :8, 8:] = -100.0
        scores = (scores.view(b, 4, -1, 16, 16) + mask[None, :, None]).view(-1, scores.shape[1], 16, 16)
        y = self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(y.shape[0], s * s, -1))
        y = y.view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return self.head(x + torch.roll(y, (1, 1), (1, 2)))


class Experts(nn.Module):
    """A mixture of experts: all of them, the best two by a mask, or the best two by index."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.router, self.head = kind, nn.Linear(6, 3), nn.Linear(6, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6)) for _ in range(3)])

    def forward(self, x):
        y = x.flatten(0, 1)
        shares = self.router(y).softmax(-1)
        weights, best = shares.topk(2, -1)
        z = torch.zeros_like(y)
        for number, expert in enumerate(self.experts):
            if self.kind == "all":
                z = z + shares[:, number : number + 1] * expert(y)
            elif self.kind == "mask":
                z = z + expert(y) * (weights * (best == number)).sum(-1, keepdim=True)
            else:
                rows, place = torch.where(best == number)
                z.index_add_(0, rows, expert(y[rows]) * weights[rows, place, None])
        return self.head(z)


class StateSpace(nn.Module):
    """A selective state space with gate, as in Mamba, with its recurrence written out."""

    def __init__(self, width=8, inner=16, state=4):
        super().__init__()
        self.state = state
        self.enter, self.leave = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.project, self.pace = nn.Linear(inner, 3 + 2 * state), nn.Linear(3, inner)
        self.decay, self.skip = nn.Parameter(torch.rand(inner, state)), nn.Parameter(torch.rand(inner))

    def forward(self, u):
        x, gate = self.enter(u).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
        pace, into, out = self.project(x).split([3, self.state, self.state], -1)
        pace = F.softplus(self.pace(pace))[..., None]
        kept, added = torch.exp(-pace * self.decay), pace * into[:, :, None] * x[..., None]
        h, ys = torch.zeros(u.shape[0], x.shape[-1], self.state, dtype=u.dtype, device=u.device), []
        for t in range(u.shape[1]):
            h = kept[:, t] * h + added[:, t]
            ys.append((h * out[:, t, None]).sum(-1))
        return self.leave((torch.stack(ys, 1) + x * self.skip) * F.silu(gate))


class Remembering(nn.Module):
    """An LSTM written out with linear layers."""

    def __init__(self, hidden=12):
        super().__init__()
        self.hidden, self.of_input, self.of_state = hidden, nn.Linear(6, 4 * hidden), nn.Linear(hidden, 4 * hidden)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x):
        h = c = torch.zeros(x.shape[0], self.hidden, dtype=x.dtype, device=x.device)
        for t in range(x.shape[1]):
            i, f, g, o = (self.of_input(x[:, t]) + self.of_state(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


class ConvGRU(nn.Module):
    """A recurrent cell of convolutions."""

    def __init__(self, hidden=8):
        super().__init__()
        self.gates, self.new = conv(3 + hidden, 2 * hidden), conv(3 + hidden, hidden)
        self.head = conv(hidden, 3, 1)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], self.new.out_channels, *x.shape[2:])
        for _ in range(3):
            z, r = torch.sigmoid(self.gates(torch.cat([x, h], 1))).chunk(2, 1)
            h = (1 - z) * h + z * torch.tanh(self.new(torch.cat([x, r * h], 1)))
        return self.head(h)


class Depends(nn.Module):
    """A branch that depends on numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 4), conv(8, 4)

    def forward(self, x):
        y = F.relu(self.a(x))
        return self.b(y) if y.mean() > -1 else self.c(y)


ATTENTION = {
    "vision_transformer": lambda: (Vision(), X),
    "shifted_windows": lambda: (Shifted(), X),
    "experts_all": lambda: (Experts("all"), (2, 5, 6)),
    "experts_mask": lambda: (Experts("mask"), (2, 5, 6)),
    "experts_index": lambda: (Experts("index"), (2, 5, 6)),
    "state_space": lambda: (StateSpace(), (2, 5, 8)),
    "lstm_written_out": lambda: (Remembering(), (2, 5, 6)),
    "convolutional_gru": lambda: (ConvGRU(), X),
    "branch": lambda: (Depends(), X),
    "temperature": lambda: (attends(lambda m, q, k, v, x: ((q @ k.transpose(-1, -2)) * m.t.exp()).softmax(-1) @ v, t=nn.Parameter(torch.rand(4, 1, 1))), TOKENS),
    "nested_outputs": lambda: (Net(lambda m, x: (m.b(y := F.relu(m.a(x))), [m.c(y), {"k": m.d(y)}]), a=conv(3, 12), b=conv(12, 4), c=conv(12, 2), d=conv(12, 3)), X),
    "gqa_repeat": lambda: (Net(lambda m, x: m.o(un(att(sp(m.q(x)), sp(m.k(x)).repeat_interleave(2, 1), sp(m.v(x)).repeat_interleave(2, 1)))), q=nn.Linear(16, 16), k=nn.Linear(16, 8), v=nn.Linear(16, 8), o=nn.Linear(16, 16)), TOKENS),
    "gqa_expand": lambda: (Net(lambda m, x: m.o(un(F.scaled_dot_product_attention(sp(m.q(x)), rkv(sp(m.k(x))), rkv(sp(m.v(x)))))), q=nn.Linear(16, 16), k=nn.Linear(16, 8), v=nn.Linear(16, 8), o=nn.Linear(16, 16)), TOKENS),
    "gqa_group": lambda: (Net(lambda m, x: m.o((lambda q, k, v: att(q, k[:, :, None], v[:, :, None]).permute(0, 3, 1, 2, 4).flatten(2))(m.q(x).view(2, 5, 2, -1, 4).permute(0, 2, 3, 1, 4), sp(m.k(x)), sp(m.v(x)))), q=nn.Linear(16, 16), k=nn.Linear(16, 8), v=nn.Linear(16, 8), o=nn.Linear(16, 16)), TOKENS),
    "mqa": lambda: (Net(lambda m, x: m.o(un(att(sp(m.q(x)), m.k(x)[:, None], m.v(x)[:, None]))), q=nn.Linear(16, 16), k=nn.Linear(16, 4), v=nn.Linear(16, 4), o=nn.Linear(16, 16)), TOKENS),
    "mqa_sdpa": lambda: (Net(lambda m, x: m.o(un(F.scaled_dot_product_attention(sp(m.q(x)), sp(m.k(x)).expand(-1, 4, -1, -1), sp(m.v(x)).expand(-1, 4, -1, -1)))), q=nn.Linear(16, 16), k=nn.Linear(16, 4), v=nn.Linear(16, 4), o=nn.Linear(16, 16)), TOKENS),
    "rope_half": lambda: (attends(lambda m, q, k, v, x: att(rope(q), rope(k), v)), TOKENS),
    "rope_inter": lambda: (attends(lambda m, q, k, v, x: att(rope2(q), rope2(k), v)), TOKENS),
    "rope_complex": lambda: (attends(lambda m, q, k, v, x: att(rope3(q), rope3(k), v)), TOKENS),
    "rope_buffers": lambda: (attends(lambda m, q, k, v, x: att(q * m.cos + rot_half(q) * m.sin, k * m.cos + rot_half(k) * m.sin, v), cos=torch.rand(5, 4), sin=torch.rand(5, 4)), TOKENS),
    "query_key_layer_norm": lambda: (attends(lambda m, q, k, v, x: att(m.qn(q), m.kn(k), v), qn=nn.LayerNorm(4), kn=nn.LayerNorm(4)), TOKENS),
    "query_key_rms_norm": lambda: (attends(lambda m, q, k, v, x: att(m.qn(q), m.kn(k), v), qn=nn.RMSNorm(4), kn=nn.RMSNorm(4)), TOKENS),
    "query_key_unit_length": lambda: (attends(lambda m, q, k, v, x: att(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, scale=1.0) * m.t, t=nn.Parameter(torch.rand(4, 1, 1))), TOKENS),
    "relpos_table": lambda: (attends(lambda m, q, k, v, x: att(q, k, v, m.tab[m.idx.view(-1)].view(5, 5, -1).permute(2, 0, 1)[None]), tab=nn.Parameter(torch.randn(9, 4)), idx=ROWS), TOKENS),
    "relpos_direct": lambda: (attends(lambda m, q, k, v, x: att(q, k, v, m.tab), tab=nn.Parameter(torch.randn(1, 4, 5, 5))), TOKENS),
    "relpos_sdpa": lambda: (attends(lambda m, q, k, v, x: F.scaled_dot_product_attention(q, k, v, m.tab), tab=nn.Parameter(torch.randn(1, 4, 5, 5))), TOKENS),
    "relpos_sdpa_b": lambda: (attends(lambda m, q, k, v, x: F.scaled_dot_product_attention(q, k, v, attn_mask=m.tab[m.idx].permute(2, 0, 1)), tab=nn.Parameter(torch.randn(9, 4)), idx=ROWS), TOKENS),
    "t5_bias": lambda: (attends(lambda m, q, k, v, x: att(q, k, v, m.e((torch.arange(5)[:, None] - torch.arange(5)[None]).clamp(-3, 3) + 3).permute(2, 0, 1).unsqueeze(0)), e=nn.Embedding(7, 4)), TOKENS),
    "alibi": lambda: (attends(lambda m, q, k, v, x: att(q, k, v, m.sl[:, None, None] * distance(q)), sl=torch.tensor([0.5, 0.25, 0.125, 0.06])), TOKENS),
    "causal_buffer": lambda: (attends(lambda m, q, k, v, x: (q @ k.transpose(-1, -2) * 0.5).masked_fill(m.c == 0, float("-inf")).softmax(-1) @ v, c=torch.tril(torch.ones(5, 5))[None, None]), TOKENS),
    "causal_sdpa": lambda: (attends(lambda m, q, k, v, x: F.scaled_dot_product_attention(q, k, v, is_causal=True)), TOKENS),
    "talking_heads": lambda: (attends(lambda m, q, k, v, x: torch.einsum("bhnm,hg->bgnm", torch.einsum("bhnm,hg->bgnm", q @ k.transpose(-1, -2), m.w1).softmax(-1), m.w2) @ v, w1=nn.Parameter(torch.randn(4, 4)), w2=nn.Parameter(torch.randn(4, 4))), TOKENS),
    "sigmoid_gate": lambda: (attends(lambda m, q, k, v, x: att(q, k, v) * torch.sigmoid(m.g(x)).transpose(1, 2).unsqueeze(-1), g=nn.Linear(16, 4)), TOKENS),
    "linear_attention": lambda: (attends(lambda m, q, k, v, x: (lambda q, k: q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2, keepdim=True).transpose(-1, -2)))(F.elu(q) + 1, F.elu(k) + 1)), TOKENS),
    "attention_over_channels": lambda: (attends(lambda m, q, k, v, x: (F.normalize(q.transpose(-1, -2), dim=-1) @ F.normalize(k.transpose(-1, -2), dim=-1).transpose(-1, -2) * m.t).softmax(-1).matmul(v.transpose(-1, -2)).transpose(-1, -2), t=nn.Parameter(torch.rand(4, 1, 1))), TOKENS),
    "einsum_attention": lambda: (attends(lambda m, q, k, v, x: torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)), TOKENS),
    "batched_heads": lambda: (Net(lambda m, x: (lambda q, k, v: m.o(torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(2, -1, 5, 4).transpose(1, 2).reshape(2, 5, -1)))(*[sp(part(x)).reshape(-1, 5, 4) for part in (m.q, m.k, m.v)]), q=nn.Linear(16, 16), k=nn.Linear(16, 16), v=nn.Linear(16, 16), o=nn.Linear(16, 16)), TOKENS),
    "batched_heads_flat": lambda: (Net(lambda m, x: (lambda q, k, v: m.o(torch.baddbmm(torch.zeros(1, 1, 1, dtype=x.dtype), q, k.transpose(1, 2)).softmax(-1).bmm(v).unflatten(0, (2, -1)).transpose(1, 2).flatten(2)))(*[sp(part(x)).flatten(0, 1) for part in (m.q, m.k, m.v)]), q=nn.Linear(16, 16), k=nn.Linear(16, 16), v=nn.Linear(16, 16), o=nn.Linear(16, 16)), TOKENS),
    "qkv_split": lambda: (Net(lambda m, x: (lambda q, k, v: m.o(un(att(sp(q), sp(k), sp(v)))))(*m.qkv(x).split(16, -1)), qkv=nn.Linear(16, 48), o=nn.Linear(16, 16)), TOKENS),
    "qkv_gqa_split": lambda: (Net(lambda m, x: (lambda q, k, v: m.o(un(F.scaled_dot_product_attention(sp(q), sp(k), sp(v), enable_gqa=True))))(*m.qkv(x).split([16, 8, 8], -1)), qkv=nn.Linear(16, 32), o=nn.Linear(16, 16)), TOKENS),
    "qkv_interleaved": lambda: (Net(lambda m, x: (lambda q, k, v: m.o(un(att(q, k, v))))(*m.qkv(x).view(2, 5, -1, 12).transpose(1, 2).chunk(3, -1)), qkv=nn.Linear(16, 48), o=nn.Linear(16, 16)), TOKENS),
    "qkv_heads_first": lambda: (Net(lambda m, x: (lambda y: m.o(un(att(y[:, :, 0].transpose(1, 2), y[:, :, 1].transpose(1, 2), y[:, :, 2].transpose(1, 2)))))(m.qkv(x).view(2, 5, 3, -1, 4)), qkv=nn.Linear(16, 48), o=nn.Linear(16, 16)), TOKENS),
    "qkv_last3": lambda: (Net(lambda m, x: (lambda y: m.o(un(att(y[..., 0].transpose(1, 2), y[..., 1].transpose(1, 2), y[..., 2].transpose(1, 2)))))(m.qkv(x).view(2, 5, -1, 4, 3)), qkv=nn.Linear(16, 48), o=nn.Linear(16, 16)), TOKENS),
    "cross": lambda: (Net(lambda m, x: m.o(un(att(sp(m.q(x)), sp(m.k(m.c(x)[:, 1:])), sp(m.v(m.c(x)[:, 1:]))))), q=nn.Linear(16, 16), k=nn.Linear(10, 16), v=nn.Linear(10, 16), c=nn.Linear(16, 10), o=nn.Linear(16, 16)), TOKENS),
    "attention_pool": lambda: (Net(lambda m, x: m.o((m.s(x).softmax(1) * m.v(x)).sum(1)), s=nn.Linear(16, 1), v=nn.Linear(16, 12), o=nn.Linear(12, 3)), TOKENS),
    "latent_queries": lambda: (Net(lambda m, x: m.o(un(att(sp(m.q(m.lat.expand(2, -1, -1))), sp(m.k(x)), sp(m.v(x))))), lat=nn.Parameter(torch.randn(1, 3, 16)), q=nn.Linear(16, 16), k=nn.Linear(16, 16), v=nn.Linear(16, 16), o=nn.Linear(16, 16)), TOKENS),
    "attention_of_maps": lambda: (Net(lambda m, x: (lambda q, k, v: m.o(att(q.view(2, 2, -1, 64).transpose(2, 3), k.view(2, 2, -1, 64).transpose(2, 3), v.view(2, 2, -1, 64).transpose(2, 3)).transpose(2, 3).reshape(2, -1, 8, 8)))(*m.qkv(x).chunk(3, 1)), qkv=nn.Conv2d(8, 24, 1), o=nn.Conv2d(8, 8, 1)), (2, 8, 8, 8)),
    "nonlocal_block": lambda: (Net(lambda m, x: (lambda t, p, g: m.o((torch.softmax(t.flatten(2).transpose(1, 2) @ p.flatten(2), -1) @ g.flatten(2).transpose(1, 2)).transpose(1, 2).view(2, -1, 8, 8)))(m.t(x), m.p(x), m.g(x)), t=conv(8, 6, 1), p=conv(8, 6, 1), g=conv(8, 6, 1), o=conv(6, 8, 1)), (2, 8, 8, 8)),
    "moe_einsum": lambda: (Net(lambda m, x: m.h(torch.einsum("be,beo->bo", m.r(x).softmax(-1), torch.einsum("beh,eho->beo", F.gelu(torch.einsum("bi,eih->beh", x, m.w1)), m.w2))), r=nn.Linear(6, 3), w1=nn.Parameter(torch.randn(3, 6, 16)), w2=nn.Parameter(torch.randn(3, 16, 8)), h=nn.Linear(8, 3)), (4, 6)),
    "moe_bmm": lambda: (Net(lambda m, x: m.h((torch.bmm(F.silu(torch.bmm(x[None].expand(3, -1, -1), m.w1)), m.w2) * m.r(x).softmax(-1).t()[..., None]).sum(0)), r=nn.Linear(6, 3), w1=nn.Parameter(torch.randn(3, 6, 16)), w2=nn.Parameter(torch.randn(3, 16, 8)), h=nn.Linear(8, 3)), (4, 6)),
    "moe_gather_w": lambda: (Net(lambda m, x: m.h(torch.einsum("bi,bih->bh", x, m.w1[m.r(x).argmax(-1)])), r=nn.Linear(6, 3), w1=nn.Parameter(torch.randn(3, 6, 16)), h=nn.Linear(16, 3)), (4, 6)),
    "layer_norm_stream": lambda: (Net(lambda m, x: m.h(m.n(x + m.d(F.gelu(m.u(m.n(x)))))), n=nn.LayerNorm(16), u=nn.Linear(16, 32), d=nn.Linear(32, 16), h=nn.Linear(16, 3)), TOKENS),
    "pooled_by_parameter": lambda: (Net(lambda m, x: m.h(torch.einsum("bnc,nc->bc", F.relu(m.a(x)), m.w)), a=nn.Linear(16, 12), w=nn.Parameter(torch.randn(5, 12)), h=nn.Linear(12, 3)), TOKENS),
    "long_convolution": lambda: (Net(lambda m, x: m.h(torch.fft.irfft(torch.fft.rfft(F.relu(m.a(x)), dim=1) * torch.fft.rfft(m.w, dim=0), dim=1, n=5)), a=nn.Linear(16, 12), w=nn.Parameter(torch.randn(5, 12)), h=nn.Linear(12, 3)), TOKENS),
    "mixer": lambda: (Net(lambda m, x: m.h(m.b(F.gelu(m.a(x.transpose(1, 2)))).transpose(1, 2)), a=nn.Linear(5, 20), b=nn.Linear(20, 5), h=nn.Linear(16, 3)), TOKENS),
    "inplace_add": lambda: (Net(lambda m, x: m.b(F.relu_(m.a(x).add_(m.c(x)).mul_(2.0))), a=conv(3, 8), c=conv(3, 8), b=conv(8, 4)), X),
    "silu_mul_inplace": lambda: (Net(lambda m, x: m.b(m.a(x).sigmoid_().mul_(m.c(x))), a=conv(3, 8), c=conv(3, 8), b=conv(8, 4)), X),
    "dense": lambda: (Net(lambda m, x: m.o(torch.cat([(y := torch.cat([(x0 := m.a(x)), m.b(x0)], 1)), m.c(y)], 1)), a=conv(3, 8), b=conv(8, 6), c=conv(14, 6), o=conv(20, 4)), X),
    "unet": lambda: (Net(lambda m, x: m.o(torch.cat([(y := m.a(x)), m.u(m.b(F.max_pool2d(y, 2)))], 1)), a=conv(3, 8), b=conv(8, 12), u=nn.ConvTranspose2d(12, 8, 2, 2), o=conv(16, 4)), X),
    "fpn": lambda: (Net(lambda m, x: [m.o(m.l1(c1 := m.a(x)) + F.interpolate((p := m.l2(m.b(F.max_pool2d(c1, 2)))), scale_factor=2)), m.o(p)], a=conv(3, 8), b=conv(8, 12), l1=conv(8, 10, 1), l2=conv(12, 10, 1), o=conv(10, 4)), X),
    "ghost": lambda: (Net(lambda m, x: m.o(torch.cat([(y := m.a(x)), m.c(y)], 1)), a=conv(3, 8), c=conv(8, 8, groups=8), o=conv(16, 4)), X),
    "res2net": lambda: (Net(lambda m, x: (lambda p, q, r: m.o(torch.cat([p, (s := m.c(q)), m.d(r + s)], 1)))(*m.a(x).chunk(3, 1)), a=conv(3, 12), c=conv(4, 4), d=conv(4, 4), o=conv(12, 4)), X),
    "res2net_split": lambda: (Net(lambda m, x: (lambda p, q, r: m.o(torch.cat([p, (s := m.c(q)), m.d(r + s)], 1)))(*m.a(x).split(4, 1)), a=conv(3, 12), c=conv(4, 4), d=conv(4, 4), o=conv(12, 4)), X),
    "shuffle_unit": lambda: (Net(lambda m, x: (lambda p, q: m.o(F.channel_shuffle(torch.cat([p, m.c(q)], 1), 2)))(*m.a(x).chunk(2, 1)), a=conv(3, 12), c=conv(6, 6), o=conv(12, 4)), X),
    "inception": lambda: (Net(lambda m, x: m.o(torch.cat([m.a(x), m.c(m.b(x)), m.d(F.avg_pool2d(x, 3, 1, 1))], 1)), a=conv(3, 4, 1), b=conv(3, 6, 1), c=conv(6, 8), d=conv(3, 5, 1), o=conv(17, 4)), X),
    "wavenet": lambda: (Net(lambda m, x: (lambda y: m.o(m.r(y) + m.i(x)))((lambda z: z[:, :8].tanh() * z[:, 8:].sigmoid())(m.g(m.i(x)))), i=nn.Conv1d(4, 6, 1), g=nn.Conv1d(6, 16, 3, padding=1), r=nn.Conv1d(8, 6, 1), o=nn.Conv1d(6, 3, 1)), (2, 4, 16)),
    "film": lambda: (Net(lambda m, x: (lambda s, b: m.o(m.a(x) * (1 + s[..., None, None]) + b[..., None, None]))(*m.f(pool(x)).chunk(2, 1)), a=conv(3, 8), f=nn.Linear(3, 16), o=conv(8, 4)), X),
    "adain": lambda: (Net(lambda m, x: m.o(m.n(m.a(x)) * m.f(pool(x))[..., None, None]), a=conv(3, 8), n=nn.InstanceNorm2d(8), f=nn.Linear(3, 8), o=conv(8, 4)), X),
    "concat_flat": lambda: (Net(lambda m, x: m.h(torch.cat([pool(m.a(x)), m.b(x).flatten(1)], 1)), a=conv(3, 8), b=nn.Conv2d(3, 4, 4, 4), h=nn.Linear(24, 3)), X),
    "yolo_head": lambda: (Net(lambda m, x: (lambda y: y.view(2, 3, 6, 8, 8).permute(0, 1, 3, 4, 2))(m.h(F.silu(m.a(x)))), a=conv(3, 12), h=conv(12, 18)), X),
    "transpose_mlp": lambda: (Net(lambda m, x: m.b(F.relu(m.a(x).mT).mT), a=nn.Linear(16, 12), b=nn.Linear(12, 3)), TOKENS),
    "prelu1": lambda: (Net(lambda m, x: m.b(m.p(m.a(x))), a=conv(3, 12), p=nn.PReLU(), b=conv(12, 4)), X),
}  # fmt: skip

LOCKED = {
    "alibi_constants": (lambda: (attends(lambda m, q, k, v, x: att(q, k, v, (2.0 ** -torch.arange(1, 5, dtype=q.dtype, device=q.device))[:, None, None] * distance(q))), TOKENS), "carries no channels"),
    "head_width": (lambda: (attends(lambda m, q, k, v, x: F.scaled_dot_product_attention(q, k, v, m.bias[None, :, :, None].expand(2, -1, -1, 5) * torch.arange(1, 5, device=q.device)[:, None, None]), bias=nn.Parameter(torch.randn(1, 5))), TOKENS), "carries no channels"),
}  # fmt: skip
