"""A small network, sparse copies of it, and counts, for tests of masks."""

import torch
from torch import nn

import graphprune
from helpers import randomise

X = torch.randn(2, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=2), nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 2, 2), nn.Flatten(), nn.Linear(8 * 256, 10),
        )
    ).eval()  # fmt: skip


def sparse_of(model, sparsity=None, inputs=X, **options):
    """A sparse copy; the model that was given must not change."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"structure": "unstructured", "example_inputs": inputs, **options}
    sparse = graphprune.optimize(model, sparsity, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return sparse


def nonzeros(model) -> int:
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


def size(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
