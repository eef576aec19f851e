"""`nn.MultiheadAttention` and the transformer layers of torch lose whole heads and stay what they are."""

import copy
import io
import itertools

import pytest
import torch
from torch import nn

import graphprune
import oracle
from graphprune.frontends.torch.attention import SlimAttention, open_attention
from helpers import randomise
from networks import Net

WIDTH, X, INPUTS = 16, torch.randn(2, 5, 16), torch.randn(2, 5, 6)


def to_itself(m, x):
    return m.a(x, x, x)[0]


@pytest.mark.parametrize("first, batched, bias", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("more", [{}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 7, "vdim": 5}])
def test_the_opened_layer_equals_the_one_of_torch(first, batched, bias, more):
    torch.manual_seed(0)
    own = randomise(nn.MultiheadAttention(12, 3, bias=bias, batch_first=first, **more)).double().eval()
    opened = copy.deepcopy(own)
    open_attention(opened)
    assert type(opened) is SlimAttention and type(own) is nn.MultiheadAttention

    def sequence(length, width):
        x = torch.randn(2, length, width, dtype=torch.float64)
        return x[0] if not batched else x if first else x.transpose(0, 1)

    q, k, v = sequence(4, 12), sequence(5, more.get("kdim", 12)), sequence(5, more.get("vdim", 12))
    few = torch.rand(4, 5) > 0.7
    few[:, 0] = False
    absent = torch.zeros(2, 5, dtype=torch.bool)
    absent[0, -1] = True
    absent = absent if batched else absent[0]
    per_head = torch.randn(6 if batched else 3, 4, 5, dtype=torch.float64)
    masks = [None, few, torch.randn(4, 5, dtype=torch.float64), per_head]
    paddings = [None, absent, torch.randn(absent.shape, dtype=torch.float64)]
    calls = [(q, k, v), *([] if "kdim" in more else [(q, q, q)])]
    for tensors, mask, padding, weights, average in itertools.product(
        calls, masks, paddings, (True, False), (True, False)
    ):
        if tensors[1] is q:
            mask = None if mask is None else mask[..., :4]
            padding = None if padding is None else padding[..., :4]
        options = {"attn_mask": mask, "key_padding_mask": padding, "need_weights": weights}
        for given, found in zip(
            own(*tensors, average_attn_weights=average, **options),
            opened(*tensors, average_attn_weights=average, **options),
            strict=True,
        ):
            assert (given is None) == (found is None)
            assert given is None or torch.allclose(given, found, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "more", [{}, {"batch_first": True}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}]
)
@pytest.mark.parametrize("heads", [4, 8])
def test_heads_go(more, heads):
    slim = oracle.check(Net(to_itself, a=nn.MultiheadAttention(WIDTH, heads, **more)), X, sparsity=0.2, exact=True).a
    assert slim.num_heads < heads and slim.embed_dim == WIDTH and slim.head_dim == WIDTH // heads


def test_separate_projections():
    def run(m, x):
        return m.a(x, m.k(x), m.v(x), need_weights=False)[0]

    layers = {"k": nn.Linear(WIDTH, 7), "v": nn.Linear(WIDTH, 9)}
    slim = oracle.check(Net(run, a=nn.MultiheadAttention(WIDTH, 4, kdim=7, vdim=9), **layers), X, sparsity=0.4)
    assert slim.a.num_heads < 4 and (slim.a.kdim, slim.a.vdim) == (slim.k.out_features, slim.v.out_features)


def test_averaged_weights_make_heads_inexact_only_where_they_are_read():
    unread = Net(to_itself, a=nn.MultiheadAttention(WIDTH, 4))
    assert graphprune.plan_of(oracle.check(unread, X, sparsity=0.2, exact=True)).exact
    read = Net(
        lambda m, x: m.a(x, x, x)[0] + m.a(x, x, x)[1][:, :1, :1], a=nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    )
    with pytest.warns(UserWarning, match="inexact"):
        slim = graphprune.optimize(randomise(read).eval(), 0.2, example_inputs=X)
    assert graphprune.verify(read, slim).error < 1e-12


def test_a_given_mask_per_head_locks_the_heads():
    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.up, self.down = nn.MultiheadAttention(WIDTH, 4), nn.Linear(WIDTH, 32), nn.Linear(32, 3)

        def forward(self, x, mask):
            return self.down(self.up(self.a(x, x, x, attn_mask=mask, need_weights=False)[0]))

    slim = oracle.check(Given(), X, torch.randn(5 * 4, 2, 2), sparsity=0.2)
    assert type(slim.a) is nn.MultiheadAttention and slim.up.out_features < 32


class Encoder(nn.Module):
    def __init__(self, heads=4, **more):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, heads, 32, batch_first=True, **more)
        self.enter, self.body, self.leave = nn.Linear(6, WIDTH), nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 3)

    def forward(self, x, **more):
        return self.leave(self.body(self.enter(x), **more))


class Decoder(nn.Module):
    def __init__(self, **more):
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, 4, 32, **more)
        self.enter, self.body, self.leave = nn.Linear(6, WIDTH), nn.TransformerDecoder(layer, 2), nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.enter(x)
        length = x.shape[1 if self.body.layers[0].self_attn.batch_first else 0]
        mask = nn.Transformer.generate_square_subsequent_mask(length, dtype=x.dtype, device=x.device)
        return self.leave(self.body(x, x.flip(0), tgt_mask=mask, tgt_is_causal=True))


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.body = nn.Transformer(WIDTH, 4, 1, 1, 32, batch_first=True)

    def forward(self, x):
        x = self.enter(x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype, device=x.device)
        return self.leave(self.body(x, x.flip(0), tgt_mask=mask))


MODELS = {
    "encoder": Encoder,
    "norm_first": lambda: Encoder(norm_first=True),
    "two_heads": lambda: Encoder(2, activation="gelu"),
    "decoder": Decoder,
    "decoder_batch_first": lambda: Decoder(batch_first=True),
    "both": Both,
}


@pytest.mark.parametrize("sparsity", [0.15, 0.45])
@pytest.mark.parametrize("name", MODELS)
def test_transformers(name, sparsity):
    """Also as they are used: in float32, in evaluation mode, without gradients, where torch has faster paths."""
    module = randomise(MODELS[name]().eval())
    slim = oracle.check(module, INPUTS, sparsity=sparsity, exact=True)
    masked = oracle.masked(module, graphprune.plan_of(slim)).float()
    with torch.no_grad():
        assert torch.allclose(masked(INPUTS), slim(INPUTS), atol=1e-5)


@pytest.mark.parametrize("heads, sparsity", [(4, 0.2), (4, 0.5), (2, 0.1)])
def test_padding(heads, sparsity):
    """Positions that are padding are nobody's: torch leaves them at zero on its faster path."""
    module = randomise(Encoder(heads).eval())
    absent = torch.zeros(2, 5, dtype=torch.bool)
    absent[0, 3:] = True
    slim = oracle.check(module, INPUTS, sparsity=sparsity, exact=True)
    masked = oracle.masked(module, graphprune.plan_of(slim)).float()
    with torch.no_grad():
        expected, found = (m(INPUTS, src_key_padding_mask=absent) for m in (masked, slim))
    assert torch.allclose(expected[~absent], found[~absent], atol=1e-5)


def test_widths_go_too_where_inexact_groups_may():
    module = randomise(Encoder(1).eval())
    with pytest.warns(UserWarning, match="inexact"):
        slim = graphprune.optimize(module, 0.6, example_inputs=INPUTS)
    layer = slim.body.layers[0].self_attn
    assert layer.embed_dim < WIDTH == layer.head_dim and graphprune.verify(module, slim).error < 1e-12


def test_the_slim_layer_is_a_whole_layer():
    slim = oracle.check(randomise(Encoder().eval()), INPUTS, sparsity=0.4, exact=True)
    expected = slim(INPUTS)
    assert torch.allclose(copy.deepcopy(slim)(INPUTS), expected, atol=1e-6)
    file = io.BytesIO()
    torch.save(slim, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded.body.layers[0].self_attn, SlimAttention)
    assert torch.allclose(loaded(INPUTS), expected, atol=1e-6)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    loaded.load_state_dict(slim.state_dict())
    assert torch.allclose(loaded(INPUTS), expected, atol=1e-6)
    slim.train()(INPUTS).sum().backward()
    assert all(parameter.grad is not None for parameter in slim.parameters())


def test_the_width_of_heads_goes_by_policy():
    module = randomise(Encoder(2).eval())
    slim = oracle.check(module, INPUTS, sparsity=0.4, exact=True, policy="dims")
    layers = [layer.self_attn for layer in slim.body.layers]
    assert all(layer.num_heads == 2 for layer in layers) and any(layer.head_dim < 8 for layer in layers)


def test_a_slim_layer_can_be_pruned_again():
    module = randomise(Encoder(8).eval())
    once = oracle.check(module, INPUTS, sparsity=0.2, exact=True)
    twice = graphprune.optimize(once, 0.3, example_inputs=INPUTS, exact=True)
    assert graphprune.verify(module, twice).error < 1e-12
    assert twice.body.layers[0].self_attn.num_heads < 8


def test_saved_and_loaded(tmp_path):
    module = randomise(Encoder().eval())
    slim = oracle.check(module, INPUTS, sparsity=0.4, exact=True)
    graphprune.save(slim, tmp_path / "slim.safetensors")
    again = graphprune.load_weights(module, tmp_path / "slim.safetensors")
    assert torch.equal(again(INPUTS), slim(INPUTS))


def test_the_function_itself_is_refused_with_a_reason():
    def run(m, x):
        rest = (None, None, False, 0.0, m.a.out_proj.weight, m.a.out_proj.bias)
        y = nn.functional.multi_head_attention_forward(
            x, x, x, WIDTH, 4, m.a.in_proj_weight, m.a.in_proj_bias, *rest, training=False, need_weights=False
        )[0]
        return m.down(m.up(y))

    module = Net(run, a=nn.MultiheadAttention(WIDTH, 4), up=nn.Linear(WIDTH, 32), down=nn.Linear(32, 3))
    assert "derives its head width" in graphprune.analyze(module, X).explain()
    oracle.check(module, X, sparsity=0.2)
