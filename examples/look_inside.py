"""The stages of optimize, one by one: analysis, plan, apply, verify."""

import torch
from torch import nn

import graphprune

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(512, 10),
).eval()
image = torch.randn(1, 3, 8, 8)

# What hangs together, what it costs, what is locked and why.
analysis = graphprune.analyze(model, image)
print(analysis.explain())


# The decision: which indices of which axes stay.
plan = analysis.plan(sparsity=0.4, budget="macs", keep=["6.*"], multiple_of=4)
for name, axis, before, after in plan.widths():
    print(f"{name}, axis {axis}: {before} -> {after}")
print("kept channels of the first convolution:", plan.kept.get("0.weight", {}).get(0, "all"))

# The same plan, saved, loaded, applied, and checked against the original with the same channels set to zero.
plan.save("plan.json")
plan = graphprune.Plan.load("plan.json")
slim = plan.apply(model)
verified = graphprune.verify(model, slim, plan, example_inputs=image, thorough=True)
print(f"pruned equals masked: relative error {verified.error:.0e} in float64")
