"""Models that people use, without example inputs, in float64 against the masked original."""

import warnings

import pytest
import torch

import graphprune
import oracle
from helpers import import_torchvision, randomise

NAMES = ["resnet50", "densenet121", "mobilenet_v3_large", "regnet_y_400mf", "shufflenet_v2_x1_0", "googlenet"]


def build(name):
    models = import_torchvision().models
    torch.manual_seed(0)
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomise(getattr(models, name)(weights=None, **extra)).eval()


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_parameters(name):
    module = build(name)
    slim = graphprune.optimize(module, sparsity=0.5)
    assert type(slim) is type(module)
    total = sum(parameter.numel() for parameter in module.parameters())
    assert 0.49 * total < sum(parameter.numel() for parameter in slim.parameters()) <= 0.5 * total
    inputs = (torch.randn(1, 3, 64, 64),)
    assert slim(*inputs).shape == (1, 1000)
    assert oracle.error(module, slim, inputs) < 1e-9


def test_a_transformer_loses_its_inner_widths():
    module = build("vit_b_16")
    slim = graphprune.optimize(module, sparsity=0.4, exact=True)
    assert oracle.error(module, slim, (torch.randn(1, 3, 224, 224),)) < 1e-9
    assert slim.encoder.layers[0].mlp[0].out_features < 3072


def test_a_detector_keeps_its_class():
    models = import_torchvision().models
    torch.manual_seed(0)
    few = {"rpn_pre_nms_top_n_test": 30, "rpn_post_nms_top_n_test": 10, "box_score_thresh": 0.0}
    few |= {"min_size": 64, "max_size": 96, "box_detections_per_img": 5}
    build = models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    module = randomise(build(weights=None, weights_backbone=None, **few)).eval()
    slim = graphprune.optimize(module, example_inputs=([torch.rand(3, 64, 96)],), verify=False)
    assert type(slim) is type(module)
    assert graphprune.verify(module, slim, thorough=False).error < 1e-9


MORE = """alexnet convnext_tiny efficientnet_b0 inception_v3 mnasnet1_0 mobilenet_v2 resnext50_32x4d squeezenet1_1
    swin_t vgg11_bn wide_resnet50_2""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_families(name):
    module = build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights of efficientnet give outputs that hardly move
        slim = graphprune.optimize(module, sparsity=0.4)  # raises where verification fails
    plan = graphprune.plan_of(slim)
    assert plan.report["params"][1] <= 0.6 * plan.report["params"][0]


def test_trained_resnet20(data_dir, monkeypatch):
    monkeypatch.syspath_prepend(str(data_dir))
    from graphdata import cifar10, nchw
    from resnet_cifar import resnet

    module = resnet(20, str(data_dir / "cifar10_models" / "resnet20_cifar10.pt"))
    slim = graphprune.optimize(module, 0.15, example_inputs=torch.randn(1, 3, 32, 32))
    images, labels = cifar10("test_a")
    images = torch.from_numpy(nchw(images[:500]))
    assert oracle.error(module, slim, (images[:16],)) < 1e-9
    with torch.no_grad():
        right = (slim(images).argmax(1).numpy() == labels[:500]).mean()
    assert right > 0.5, "far above chance without any training"
