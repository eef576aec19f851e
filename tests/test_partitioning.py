"""Loops are taken apart only by questions of their own: see partitioning.py."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphprune.backends import generic
from graphprune.backends.compiler import compile_model
from partitioning import watching
from test_backend_models import Wrap


def images(first, second, strided, joined, x):
    """Borders of a plain image, of a convolution by Winograd and of a strided one, of pools; rows; joined channels."""
    y = F.max_pool2d(F.relu(second(F.relu(first(x)))), 3, 2, 1)
    y = F.avg_pool2d(strided(y), 3, 1, 1)
    plain = torch.cat([x.flatten(2), x.flatten(2).exp()], 2)
    return joined(torch.cat([y, torch.sigmoid(y)], 1)), y.flatten(2).softmax(-1), plain


def network(channels):
    layers = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    deeper = nn.Conv2d(channels, 24, 3, 2, padding=1), nn.Conv2d(48, 5, 5, padding=2)
    return Wrap(images, *layers, *deeper)


@pytest.mark.parametrize("target", ["x86-avx512", "x86-avx2", "arm"])
@pytest.mark.parametrize(("channels", "size"), [(32, 28), (21, 19)])
def test_questions_of_loops_that_are_taken_apart_are_their_own(channels, size, target):
    with watching() as watch:
        compile_model(network(channels).eval(), target, torch.randn(1, 3, size, size))
    assert watch.loops >= 5
    assert watch.misplaced == []


@pytest.mark.parametrize("target", ["x86-avx512", "arm"])
def test_borders_of_single_rows_ask_questions_of_their_own(target):
    layers = nn.Conv2d(3, 16, 3, 2, padding=1), nn.Conv2d(16, 48, 1), nn.Conv2d(48, 48, 3, 2, padding=1, groups=6)
    model = nn.Sequential(*layers).eval()
    with watching() as watch:
        compile_model(model, target, torch.randn(1, 3, 37, 35))
    assert watch.loops >= 2
    assert watch.misplaced == []


def test_channels_that_do_not_fill_their_vectors_would_be_misplaced(monkeypatch):
    """Joined with gathered ones, which part a channel comes from depends on the block that it lies in."""
    places = torch.arange(6) // 2

    def forward(left, last, a, b):
        return last(torch.cat([a, left(b).index_select(2, places).index_select(3, places)], 1))

    def misplaced():
        model = Wrap(forward, nn.Conv2d(20, 40, 1), nn.Conv2d(45, 24, 1)).eval()
        with watching() as watch:
            compile_model(model, "x86-avx2", (torch.randn(1, 5, 6, 6), torch.randn(1, 20, 3, 3)))
        return watch.misplaced

    assert misplaced() == []
    monkeypatch.setattr(generic, "_joins", lambda sch, block, lane: sch.get(block).name_hint.startswith("T_concat"))
    assert misplaced()
