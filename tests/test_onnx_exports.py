"""Whole networks as ONNX: exports by both exporters of torch, and trained models of the data folder."""

import io

import numpy as np
import onnx
import pytest
import torch

import graphprune
import onnx_oracle as oracle
from helpers import import_torchvision, randomise
from onnx_masked import masked, unshared

SMALL = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1")
LARGE = (
    "resnet50", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0", "densenet121",
    "efficientnet_b0", "regnet_y_400mf", "googlenet", "mnasnet0_5", "vgg11_bn", "alexnet", "convnext_tiny", "vit_b_16",
    "swin_t",
)  # fmt: skip
REAL = {
    "fastestdet": {},
    "mnist_cntk": {},
    "ppocr_cls": {"x": (1, 3, 48, 192)},
    "ppocr_v3_det": {"x": (1, 3, 96, 128)},
    "resnet20_cifar10_qdq": {},
    "rfb320": {},
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128), "sr": np.array(16000)},
    "squeezenet1_1_caffe2_fp16": {},
    "super_resolution_x3": {},
}
"""Trained models, with the shapes of inputs that have dynamic axes, or their values."""


def exported(name: str, dynamo: bool) -> onnx.ModelProto:
    """A torchvision classifier with random weights and telling statistics, batch of any size."""
    if dynamo:
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    models = import_torchvision().models
    model = randomise(models.get_model(name, weights=None, **({"init_weights": True} if name == "googlenet" else {})))
    example = torch.randn(2, 3, 64, 64) if name not in ("vit_b_16", "alexnet") else torch.randn(2, 3, 224, 224)
    file = io.BytesIO()
    if dynamo:
        shapes = ({0: torch.export.Dim("N")},)
        torch.onnx.export(model.eval(), (example,), dynamic_shapes=shapes, dynamo=True, verbose=False).save(file)
    else:
        axes = {"x": {0: "N"}}
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(model.eval(), (example,), file, dynamo=False, dynamic_axes=axes, **names)
    return onnx.load_from_string(file.getvalue())


def prove(model: onnx.ModelProto, sparsity: float = 0.5, **given) -> onnx.ModelProto:
    """Pruned, valid, carried through, and equal to the masked original as the library verifies it."""
    before = model.SerializeToString(deterministic=True)
    slim = graphprune.optimize(model, sparsity, **given)
    plan = graphprune.plan_of(slim)
    assert plan.report["params"][1] <= (1 - sparsity) * plan.report["params"][0]
    assert oracle.elements(slim) < oracle.elements(model)
    assert model.SerializeToString(deterministic=True) == before
    oracle.same_outside(model, slim)
    if oracle.is_valid(model):
        oracle.valid(slim)
    assert oracle.session(model) is None or oracle.session(slim) is not None
    return slim


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", SMALL)
def test_small_exports(name, dynamo):
    model = exported(name, dynamo)
    slim = prove(model)
    if name == "squeezenet1_1" and not dynamo:  # small enough for the reference evaluator
        plan = graphprune.plan_of(slim)
        feed = {"x": torch.randn(1, 3, 64, 64).numpy()}
        oracle.equal(masked(unshared(model, slim, plan), plan), slim, [feed])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", LARGE)
def test_large_exports(name, dynamo):
    prove(exported(name, dynamo))


@pytest.mark.filterwarnings("ignore:.*not exact.*")
@pytest.mark.parametrize("name", REAL)
def test_trained_models(name, data_dir):
    model = onnx.load(data_dir / "onnx" / f"{name}.onnx")
    feeds = [_feed(model, REAL[name], seed) for seed in range(2)]
    slim = prove(model, example_inputs=feeds[0])
    dense, thin = oracle.session(model), oracle.session(slim)
    for feed in feeds:
        assert [item.shape for item in dense.run(None, feed)] == [item.shape for item in thin.run(None, feed)]


def _feed(model: onnx.ModelProto, shapes: dict, seed: int) -> oracle.Feeds:
    feed = oracle.draw(model, seed=seed)[0]
    for name, given in shapes.items():
        feed[name] = given if isinstance(given, np.ndarray) else oracle.numbers(model, name, given, seed)
    return feed
