"""Compile a pruned network for this machine and run it without PyTorch's interpreter."""

import numpy
import torch
from torch import nn

import graphprune

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
    nn.Linear(64 * 8 * 8, 10),
).eval()  # fmt: skip
image = torch.randn(1, 3, 16, 16)

slim = graphprune.optimize(model, sparsity=0.5, example_inputs=image)
artifact = graphprune.compile(slim, target="x86", example_inputs=image, threads=1)
artifact.save("slim.gp")
print(f"slim.gp: {artifact.size / 1e6:.2f} MB")

# An artifact takes and returns numpy arrays or torch tensors.
program = graphprune.load("slim.gp")
numpy.testing.assert_allclose(program(image.numpy()), slim(image).detach().numpy(), rtol=1e-4, atol=1e-5)
print("the artifact computes what the module computes")
