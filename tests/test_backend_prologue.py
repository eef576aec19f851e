"""What happens to the input of a pointwise convolution happens inside its kernel, and changes no result."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from graphprune.backends import convolution
from graphprune.backends.compiler import compile_model
from helpers import randomise
from test_backend_families import TARGETS, Wrap, assert_agrees, kernels


class Dense(nn.Module):
    """Blocks that join all results so far, normalise them and reduce them, as DenseNet's do."""

    def __init__(self, first=20, inner=24, growth=9, blocks=3, kernel=1):
        super().__init__()
        self.first = nn.Conv2d(3, first, 3, padding=1)
        counts = [first + growth * number for number in range(blocks)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in counts)
        self.reduce = nn.ModuleList(nn.Conv2d(count, inner, kernel, padding=kernel // 2) for count in counts)
        self.grow = nn.ModuleList(nn.Conv2d(inner, growth, 3, padding=1) for _ in counts)

    def forward(self, x):
        parts = [self.first(x)]
        for norm, reduce, grow in zip(self.norms, self.reduce, self.grow, strict=True):
            parts.append(grow(torch.relu(reduce(torch.relu(norm(torch.cat(parts, 1)))))))
        return torch.cat(parts, 1)


class Gated(nn.Module):
    """A gate per channel before a pointwise convolution, as in squeeze-excite."""

    def __init__(self, channels=35, out=18):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, out, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Hardsigmoid())

    def forward(self, x):
        x = self.first(x)
        return self.last(x * self.gate(x))


def behind(artifact):
    """What each kernel with a prologue does to its input."""
    return [name.partition("_behind_")[2] for name in kernels(artifact) if "_behind_" in name]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [(1, 3, 12, 12), (2, 3, 9, 12), (1, 3, 6, 24)], ids=str)
def test_joined_and_normalised_channels(size, target):
    artifact = assert_agrees(Dense(), torch.randn(size), target)
    assert len(behind(artifact)) == 3
    assert sum("concatenate" in text for text in behind(artifact)) == 2  # there is nothing to join before the first
    assert not any("subtract" in name for name in kernels(artifact)), "a batch norm is one product and one sum"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [(1, 3, 12, 12), (3, 3, 6, 9)], ids=str)
def test_gates(size, target):
    assert len(behind(assert_agrees(Gated(), torch.randn(size), target))) == 1


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 33), st.integers(6, 17), st.integers(6, 17), st.data())
def test_any_counts_and_sizes(first, inner, growth, height, width, data):
    model = randomise(Dense(first, inner, growth, blocks=2).eval(), seed=data.draw(st.integers(0, 9)))
    assert_agrees(model, torch.randn(data.draw(st.integers(1, 2)), 3, height, width))


def test_small_pieces_and_large_ones(monkeypatch):
    """How much input is prepared at a time changes no digit."""
    model, x = randomise(Dense(first=64, inner=40).eval()), torch.randn(1, 3, 16, 16)
    results = []
    for size in (1, 8 * 1024, 1 << 30):
        monkeypatch.setattr(convolution, "_PREPARED", size)
        results.append(compile_model(model, "x86", x)(x))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_two_threads():
    model, x = randomise(Dense().eval()), torch.randn(1, 3, 16, 16)
    assert torch.equal(compile_model(model, "x86", x, threads=2)(x), compile_model(model, "x86", x, threads=1)(x))


def test_what_prepares_nothing():
    """Windows, results that others read too, single pixels, and operators that move pixels."""
    norm, last = nn.BatchNorm2d(20), nn.Conv2d(20, 24, 1)
    conv = nn.Conv2d(3, 20, 3, padding=1)

    def twice(conv, norm, last, x):
        x = torch.relu(norm(torch.relu(conv(x))))
        return last(x), x

    def upsampled(conv, last, x):
        return last(nn.functional.interpolate(conv(x), scale_factor=2))

    def pixel(conv, norm, last, x):
        return last(torch.relu(norm(torch.relu(conv(x)).mean((2, 3), keepdim=True))))

    for model in (
        Dense(kernel=3),
        Wrap(twice, conv, norm, last),
        Wrap(upsampled, conv, last),
        Wrap(pixel, conv, norm, last),
    ):
        assert behind(assert_agrees(copy.deepcopy(model), torch.randn(1, 3, 12, 12))) == []


def test_it_is_told_in_the_profile():
    artifact, x = compile_model(randomise(Dense().eval()), "x86", torch.randn(1, 3, 14, 14)), torch.randn(1, 3, 14, 14)
    found = [kernel for kernel in artifact.profile(x).kernels if ", behind " in kernel.description]
    assert {kernel.schedule for kernel in found} == {"convolution"}
    assert any(
        kernel.description == "convolution 1x1 48->32 14x14 + add + relu, behind concatenate + multiply + add + relu"
        for kernel in found
    ), [kernel.description for kernel in found]


class Joined(nn.Module):
    """Some channels of several values in one: code that comes finished, and reads what nothing else reads first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(3, 9, 1)
        self.last = nn.Conv2d(15, 5, 1)

    def forward(self, x):
        return self.last(torch.cat([torch.relu(self.first(x)), self.second(x)[:, 1:]], 1))


@pytest.mark.parametrize("target", TARGETS)
def test_finished_code_takes_no_prologue(target):
    artifact = assert_agrees(Joined(), torch.randn(1, 3, 12, 18), target)
    assert behind(artifact) == []
    assert "channels" in kernels(artifact)
