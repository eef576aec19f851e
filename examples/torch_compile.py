"""One line: `torch.compile(model, backend="graphprune")`, dense or pruned on the way."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 10),
).eval()  # fmt: skip
image = torch.randn(1, 3, 32, 32)

# Compiled as it is: the same numbers. Training falls back to PyTorch.
fast = torch.compile(model, backend="graphprune")
with torch.no_grad():
    difference = (fast(image) - model(image)).abs().max().item()
print(f"compiled: differs from PyTorch by {difference:.0e}")

# Pruned and verified on the way: half of the multiply-adds. Options are those of optimize and of compile.
slim = torch.compile(model, backend="graphprune", options={"sparsity": 0.5, "budget": "macs", "target": "x86"})
with torch.no_grad():
    scores = slim(image)
print(f"pruned on the way: {tuple(scores.shape)} scores, {(scores - model(image)).abs().max().item():.2f} off")
