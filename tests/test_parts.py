"""Parts with sizes in their code: they get a forward of their own, and the model keeps its class."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
import oracle
from graphprune.budget import Options
from graphprune.passes.pipeline import Program, run_passes
from graphprune.passes.prune_channels import PruneChannels


class Attention(nn.Module):
    """The width of what comes in is taken for the width of all heads."""

    def __init__(self, width=16, heads=4) -> None:
        super().__init__()
        self.heads, self.dim, self.scale = heads, width // heads, 0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Sequential(nn.Linear(width, width), nn.Dropout(0.1))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x, mask=None, causal: bool = False, **more):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        if mask is not None and mask.ndim == 2:
            mask = mask[None, None]
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=self.scale)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class Checked(Attention):
    """Sizes are checked, one of them is unpacked, and a condition decides about a branch."""

    def forward(self, x, mask=None):
        if x.shape[1] > 6:
            x = x * 2
        shape = (*x.shape[:-1], 3, self.heads, self.dim)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        if weights.size() != (x.shape[0], self.heads, x.shape[1], x.shape[1]):
            raise ValueError("the weights of attention are of another size")
        return self.out((weights @ v).transpose(1, 2).reshape(x.shape))


class Coinciding(Attention):
    """The width that comes in and the width of all heads are the same by chance: only the first one shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([[4, 3, 2, 1, 0]]), persistent=False)

    def forward(self, x):
        b, n, c = x.shape
        y = self.qkv(x)[:, self.order.view(-1)].sum(1)
        return self.out(y[:, :16].softmax(-1).reshape(b, c)).unsqueeze(1)


class Block(nn.Module):
    def __init__(self, kind=Attention, **options) -> None:
        super().__init__()
        self.norm, self.attention, self.options = nn.LayerNorm(16), kind(), options

    def forward(self, x):
        return x + self.attention(self.norm(x), **self.options)


class Model(nn.Module):
    def __init__(self, kind=Attention, **options) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(kind, **options), Block(kind, **options))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.blocks(x))


X = torch.randn(2, 5, 16)


def build(kind=Attention, **options):
    torch.manual_seed(0)
    return Model(kind, **options).eval()


@pytest.mark.parametrize("kind", [Attention, Checked])
def test_the_classes_are_kept(kind):
    module = build(kind)
    slim = oracle.check(module, X, sparsity=0.25, exact=True)
    part = slim.blocks[0].attention
    assert type(slim) is Model
    assert isinstance(part, kind)
    assert part.qkv.out_features < 48
    assert list(slim.state_dict()) == list(module.state_dict())
    assert type(module.blocks[0].attention) is kind
    slim.train()(X).sum().backward()
    assert slim(torch.randn(7, 5, 16)).shape == (7, 5, 3), "other batches run"


def test_a_size_of_what_comes_in_for_what_goes_out():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), Coinciding()).eval()
    slim = oracle.check(module, torch.randn(2, 5, 6), sparsity=0.2)
    assert isinstance(slim[2], Coinciding)
    assert slim[2].qkv.in_features < 16


def test_the_report_says_so():
    program = run_passes(Program(build(), X), [PruneChannels(Options(0.25, exact=True))])
    assert "were rewritten" in program.report["note"]


def test_copies_pickles_and_exports():
    slim = oracle.check(build(), X, sparsity=0.25, exact=True).eval()
    buffer = io.BytesIO()
    torch.save(slim, buffer)
    buffer.seek(0)
    exported = torch.export.export(slim, (X,)).module()
    for other in (copy.deepcopy(slim), torch.load(buffer, weights_only=False), exported):
        assert torch.equal(other(X), slim(X))
    wide = copy.deepcopy(slim).double()
    assert wide.blocks[0].attention.qkv.weight.dtype == torch.float64
    assert slim.blocks[0].attention.qkv.weight.dtype == torch.float32


def test_pruned_twice_and_loaded_again(tmp_path):
    module = build()
    slim = oracle.check(module, X, sparsity=0.2, exact=True)
    again = graphprune.optimize(slim, 0.25, example_inputs=X, exact=True)
    assert isinstance(again.blocks[0].attention, Attention)
    assert again.blocks[0].attention.qkv.out_features < slim.blocks[0].attention.qkv.out_features
    assert oracle.error(module, again, (X,)) < 1e-9
    graphprune.save(again, tmp_path / "slim.safetensors")
    loaded = graphprune.load_weights(build(), tmp_path / "slim.safetensors").eval()
    assert torch.allclose(loaded(X), again.eval()(X), atol=1e-6)


def test_calls_of_another_form_are_refused():
    slim = oracle.check(build(), X, sparsity=0.25, exact=True).eval()
    part = slim.blocks[0].attention
    part(X, None, causal=False)
    with pytest.raises(RuntimeError, match="causal = False"):
        part(X, causal=True)
    with pytest.raises(RuntimeError, match="mask = None"):
        part(X, torch.zeros(5, 5))
    with pytest.raises(RuntimeError, match="more = {}"):
        part(X, other=1)


def test_arguments_by_name_are_part_of_the_form():
    slim = oracle.check(build(mask=torch.zeros(5, 5), causal=False, other=1), X, sparsity=0.25, exact=True).eval()
    part = slim.blocks[0].attention
    assert isinstance(part, Attention)
    part(X, torch.ones(5, 5), other=1)
    with pytest.raises(RuntimeError, match="a condition"):
        part(X, torch.ones(1, 1, 5, 5), other=1)


def test_conditions_are_part_of_the_form():
    slim = oracle.check(build(Checked), X, sparsity=0.25, exact=True).eval()
    with pytest.raises(RuntimeError, match="a condition = False"):
        slim(torch.randn(2, 7, 16))


class Indexed(nn.Module):
    """Written-in sizes and positions, behind a branch that only an export can take."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(6, 10, 1), nn.Linear(10, 4)
        self.limit = 1e30

    def forward(self, x):
        y = self.a(x)
        if x.shape[0] > 0:
            y = y[:, [7, 0, 3, 2, 11, 5]]
        return self.c(self.b(y).view(-1, 10, 64).mean(2))


def test_positions_that_an_export_hides():
    """However the model is read, what comes out equals the masked original; else the channels stay."""
    slim = oracle.check(Indexed().eval(), torch.randn(2, 3, 8, 8), sparsity=0.2)
    assert slim(torch.randn(2, 3, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_graph_takes_any_batch(batch):
    """A model that only an export can read is exported for any number of inputs, whatever the example had."""
    model = Indexed().eval()
    slim = graphprune.optimize(model, 0.2, example_inputs=torch.randn(1, 3, 8, 8))
    assert oracle.error(model, slim, (torch.randn(batch, 3, 8, 8),)) < 1e-9


class First(nn.Module):
    """The first of some tokens is read: an export writes that as an open slice and a pick."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x))[:, 0])[:, 2:]).sum(1, keepdim=True).expand(-1, 12))


@pytest.mark.parametrize("batch", [2, 5])
def test_dynamic_axes_stay_dynamic(batch):
    model = First().double().eval()
    program = torch.export.export(model, (torch.randn(3, 5, 6).double(),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    slim = graphprune.optimize(program, 0.2)
    x = torch.randn(batch, 5, 6).double()
    expected = oracle.outputs(oracle.masked(model, graphprune.plan_of(slim)), (x,))[0]
    torch.testing.assert_close(slim.module()(x), expected)
