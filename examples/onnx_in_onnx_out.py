"""Prune an ONNX model by its path, save it, and carry the plan of a module over to its export."""

import numpy
import onnxruntime
import torch
from torch import nn

import graphprune

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
).eval()  # fmt: skip
image = torch.randn(2, 3, 16, 16)
torch.onnx.export(model, (image,), "model.onnx", input_names=["image"], dynamic_axes={"image": {0: "n"}}, dynamo=False)

# One call: analysed, pruned, verified in ONNX Runtime. The result is an onnx.ModelProto.
slim = graphprune.optimize("model.onnx", sparsity=0.5)
graphprune.save(slim, "slim.onnx")
before, after = graphprune.plan_of("slim.onnx").report["params"]
print(f"slim.onnx: {after:,} of {before:,} parameters")
print(graphprune.verify("model.onnx", "slim.onnx"))

# A plan that was made on the module fits its export: tensors are found again by their contents and names.
plan = graphprune.analyze(model, image).plan(sparsity=0.5)
carried = plan.apply("model.onnx")
module = plan.apply(model)
session = onnxruntime.InferenceSession(carried.SerializeToString())
numpy.testing.assert_allclose(
    session.run(None, {"image": image.numpy()})[0], module(image).detach().numpy(), rtol=1e-3, atol=1e-4
)
print("the pruned export computes what the pruned module computes")
