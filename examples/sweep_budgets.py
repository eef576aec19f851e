"""What does accuracy cost? A sweep over budgets and criteria on digits, and a picture of the Pareto front."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import graphprune

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(images))
images, labels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16, torch.tensor(labels)[order]
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10),
)  # fmt: skip

optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for _ in range(120):
    batch = torch.randint(0, 1200, (64,))
    loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """The share of right answers on the images that are held back."""
    return (model(images[1200:]).argmax(1) == labels[1200:]).float().mean().item()


# Every combination is pruned, verified and scored; every point is in the file as soon as it is finished, so that the
# same call goes on where it was interrupted. executor="processes" or "ray" spreads it.
found = graphprune.sweep(
    model,
    sparsities=(0.5, 0.7, 0.8, 0.9, 0.95, 0.999),
    criteria=("l2", "reconstruction"),
    budgets="macs",
    recover=[False, True],
    score=accuracy,
    data=[images[:256]],
    example_inputs=images[:1],
    out="digits.jsonl",
)
print(found)

best = found.best(macs=0.2)
print(f"at most a fifth of the MACs: {found.name(best)}, {best.score:.1%} of the answers right")
small = found.smallest("macs", drop=0.01)
print(f"at most one point below the dense model: {small.left('macs'):.1%} of the MACs, by {found.name(small)}")
print("on the front:", [f"{point.left('macs'):.0%}: {point.score:.1%}" for point in found.pareto("macs")])
found.plot("digits.png", "macs", title="digits: accuracy against multiply-adds")

# The options of a point are those of optimize.
slim = graphprune.optimize(model, **best.options, data=[images[:256]], example_inputs=images[:1])
assert accuracy(slim) == best.score
