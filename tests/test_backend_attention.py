"""Attention is one kernel, whatever shape it was written in, and computes what torch computes."""

import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional as F

from graphprune.backends.compiler import compile_model
from graphprune.backends.import_torch import import_program
from graphprune.backends.pipeline import kernel_passes, llvm_target, optimize_passes
from graphprune.backends.targets import get_target
from test_backend_models import TARGETS, Wrap


def kernels(model, inputs, target="x86-avx512"):
    """The names of the kernels of a model."""
    module = import_program(torch.export.export(model.eval(), inputs, strict=False))
    target = get_target(target)
    with llvm_target(target):
        module = tvm.transform.Sequential(optimize_passes(target) + kernel_passes(target))(module)
    functions = module.functions_items()
    return sorted(name.name_hint for name, function in functions if isinstance(function, tvm.tirx.PrimFunc))


def assert_attention(model, *inputs, target="x86", fused=True):
    """Compile, compare with torch in double precision, and see whether attention became one kernel."""
    artifact = compile_model(model.eval(), target, inputs)
    with torch.no_grad():
        expected = model.double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    model.float()
    got = artifact(*inputs)
    assert expected.std() > 0
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    names = kernels(model, inputs)
    assert any("attention" in name for name in names) == fused
    assert any("softmax" in name for name in names) != fused


def qkv(batch, heads, queries, keys, features, values=None):
    sizes = ((queries, features), (keys, features), (keys, values or features))
    return tuple(torch.randn(batch, heads, *size) for size in sizes)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "size",
    [
        (1, 3, 32, 32, 16),
        (3, 2, 17, 29, 24, 11),
        (1, 1, 1, 5, 8),
        (2, 4, 7, 1, 5),
        (1, 2, 49, 50, 32),
        (1, 1, 2, 33, 3),
    ],
    ids=str,
)
def test_sizes(size, target):
    assert_attention(Wrap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v)), *qkv(*size), target=target)


MASKS = {
    "bool": torch.rand(1, 1, 9, 21) > 0.4,
    "per head": torch.rand(2, 3, 9, 21) > 0.4,
    "per key": torch.arange(21)[None, None, None] < torch.tensor([5, 21])[:, None, None, None],
    "float": torch.randn(1, 3, 9, 21),
    "two axes": torch.where(torch.rand(9, 21) > 0.4, 0.0, -1e9),
}


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_masks(name, constant):
    mask, operands = MASKS[name], qkv(2, 3, 9, 21, 16)
    if constant:
        buffer = nn.Module()
        buffer.register_buffer("mask", mask)
        model = Wrap(lambda b, q, k, v: F.scaled_dot_product_attention(q, k, v, b.mask.to(q.dtype)), buffer)
        if mask.dtype == torch.bool:
            model = Wrap(lambda b, q, k, v: F.scaled_dot_product_attention(q, k, v, b.mask), buffer)
        assert_attention(model, *operands)
    else:
        assert_attention(Wrap(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m)), *operands, mask)


def test_causal_and_scale():
    model = Wrap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3))
    assert_attention(model, *qkv(1, 2, 19, 19, 16))
    assert_attention(model, *qkv(1, 2, 5, 19, 16))


def test_queries_that_see_nothing_get_zeros():
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[2] = False
    model = Wrap(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m))
    operands = (*qkv(1, 2, 4, 6, 8), mask)
    got = compile_model(model, "x86", operands)(*operands)
    assert (got[:, :, 2] == 0).all() and (got[:, :, 1] != 0).all()
    torch.testing.assert_close(got, model(*operands))


def test_grouped_queries():
    query, (_, key, value) = torch.randn(2, 6, 10, 16), qkv(2, 2, 10, 10, 16)
    assert_attention(Wrap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)), query, key, value)


def packed(x, heads):
    batch, rows, width = x.shape
    return x.reshape(batch, rows, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)


def test_written_out_attention_reads_packed_operands_in_place():
    def forward(linear, out, x):
        q, k, v = packed(linear(x), 3)
        scores = (q @ k.transpose(-2, -1)) / 4 + torch.full((7, 7), -1e9).triu(1)
        return out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    model, x = Wrap(forward, nn.Linear(24, 36), nn.Linear(12, 5)), torch.randn(2, 7, 24)
    assert_attention(model, x)
    names = [name.rstrip("0123456789") for name in kernels(model, (x,))]
    assert [name for name in names if name != "reshape"] == ["attention", "fused_linear1_add", "fused_linear_add"]


def test_where_as_a_mask():
    def forward(mask, q, k, v):
        scores = torch.where(mask, q @ k.transpose(-2, -1) * 0.25, torch.finfo(torch.float32).min)
        return scores.softmax(-1) @ v

    assert_attention(Wrap(forward), torch.rand(8, 8) > 0.3, *qkv(1, 2, 8, 8, 16))


def test_biases_of_windows():
    """Shifted windows add one bias per head and one per window, in two shapes."""

    def forward(per_head, q, k, v):
        scores = q @ k.transpose(-2, -1) + per_head
        mask = torch.where(torch.arange(4)[:, None, None] > torch.arange(10) - 7, 0.0, -100.0).expand(4, 10, 10)
        scores = scores.view(2, 4, 3, 10, 10) + mask[None, :, None]
        return scores.view(8, 3, 10, 10).softmax(-1) @ v

    assert_attention(Wrap(forward), torch.randn(1, 3, 10, 10), *qkv(8, 3, 10, 10, 16), fused=False)
    one = Wrap(lambda bias, q, k, v: forward(bias, q, k, v).flatten(1))
    assert_attention(one, torch.randn(1, 3, 10, 10), *qkv(8, 3, 10, 10, 16), fused=False)


def test_probabilities_that_somebody_else_reads_are_kept():
    class Net(nn.Module):
        def forward(self, q, k, v):
            p = (q @ k.transpose(-2, -1)).softmax(-1)
            return torch.cat([p @ v, p], -1)

    assert_attention(Net(), *qkv(2, 2, 9, 9, 8), fused=False)


@pytest.mark.parametrize("target", TARGETS)
def test_large_scores_and_infinite_masks(target):
    q, k, v = qkv(1, 2, 12, 20, 16)
    mask = torch.zeros(12, 20)
    mask[:, 3:15] = -torch.inf
    assert_attention(Wrap(lambda *x: F.scaled_dot_product_attention(*x)), q * 30, k * 10, v, mask, target=target)
