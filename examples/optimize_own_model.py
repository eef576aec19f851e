"""Make a model of your own smaller: one call, then train on as before."""

import torch
from torch import nn

import graphprune


class TwoBranches(nn.Module):
    """Two convolutions of the same image, concatenated: their channels meet in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ten scores per image."""
        return self.head(torch.cat([self.fine(x), self.coarse(x)], dim=1).mean((2, 3)))


model = TwoBranches().eval()
images = torch.randn(4, 3, 32, 32)

slim = graphprune.optimize(model, sparsity=0.5, example_inputs=images)
before, after = graphprune.plan_of(slim).report["params"]
print(f"{type(slim).__name__}: {before:,} parameters before, {after:,} after")

# The slim model is an ordinary module of the same class: train it, or save it without pickle.
optimizer = torch.optim.SGD(slim.parameters(), lr=0.01)
loss = nn.functional.cross_entropy(slim(images), torch.tensor([0, 1, 2, 3]))
loss.backward()
optimizer.step()
graphprune.save(slim, "slim.safetensors")
again = graphprune.load_weights(TwoBranches(), "slim.safetensors").eval()
assert torch.equal(again(images), slim.eval()(images))
print("saved to slim.safetensors and loaded into a new TwoBranches()")
