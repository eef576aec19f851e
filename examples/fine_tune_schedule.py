"""Train, prune and fine-tune in one loop: digits, half of the multiply-accumulates gone by the end."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import graphprune


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 images of handwritten digits, 8 x 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16, torch.tensor(labels)[order]


def accuracy(model: nn.Module) -> float:
    """The share of right answers on the images that are held back."""
    model.eval()
    with torch.no_grad():
        right = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean().item()
    model.train()
    return right


torch.manual_seed(0)
images, labels = digits()
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
penalty = graphprune.regularizer("group_lasso", model, images[:1], strength=1e-6)
schedule = graphprune.Schedule(sparsity=0.5, begin=50, end=150, every=25, kind="cubic", budget="macs")
pruner = schedule.attach(model, optimizer, images[:1])

for step in range(1, 221):
    batch = torch.randint(0, 1500, (64,))
    loss = nn.functional.cross_entropy(model(images[batch]), labels[batch]) + penalty()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    before = accuracy(model) if schedule.is_due(step) else 0.0
    if pruner.step():
        total, left = pruner.plan.report["macs"]
        print(f"step {step}: {left / total:.0%} of the MACs left, accuracy {before:.1%} -> {accuracy(model):.1%}")

pruner.finish()
print(f"in the end: accuracy {accuracy(model):.1%}, {sum(p.numel() for p in model.parameters()):,} parameters")
graphprune.save(model, "digits.safetensors")  # weights and plan; load_weights(Model(), path) builds it again
