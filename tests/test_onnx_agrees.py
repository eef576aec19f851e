"""A module and its ONNX export: the same groups are found in both, and a plan made on one fits the other."""

import copy
import io
import warnings
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import graphprune
from agreement import assert_same, counterparts, matrices
from graphprune.errors import PlanError
from graphprune.sketches import alike, sketch
from helpers import import_torchvision, randomise

pytestmark = pytest.mark.filterwarnings("ignore")

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _models():
    return import_torchvision().models


def _vit(heads=4):
    sizes = {"image_size": 64, "patch_size": 16, "num_layers": 2, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 10}
    return _models().VisionTransformer(num_heads=heads, **sizes)


def _resnet(blocks=(1, 1, 1, 1), **more):
    models = _models()
    return models.ResNet(models.resnet.Bottleneck, blocks, num_classes=10, **more)


NETS = {
    "resnet18": lambda: _models().resnet18(),
    "mobilenet_v3_small": lambda: _models().mobilenet_v3_small(),
    "shufflenet_v2_x0_5": lambda: _models().shufflenet_v2_x0_5(),
    "squeezenet1_1": lambda: _models().squeezenet1_1(),
    "densenet": lambda: _models().DenseNet(growth_rate=8, block_config=(2, 3, 2), num_init_features=16),
    "vit": _vit,
    "regnet_y_400mf": lambda: _models().regnet_y_400mf(),
    "grouped": lambda: _resnet(groups=4, width_per_group=8),
    "googlenet": lambda: _models().googlenet(init_weights=True),
    "swin": lambda: _models().SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10),
    "mobilenet_v2": lambda: _models().mobilenet_v2(),
    "efficientnet_b0": lambda: _models().efficientnet_b0(),
    "mnasnet0_5": lambda: _models().mnasnet0_5(),
    "resnet50": lambda: _models().resnet50(),
    "densenet121": lambda: _models().densenet121(),
    "convnext_tiny": lambda: _models().convnext_tiny(),
    "vit_b_16": lambda: _models().VisionTransformer(64, 16, 12, 12, 768, 3072),
}
QUICK = ("resnet18", "squeezenet1_1", "densenet", "vit", "grouped")
SCRIPTED = (*QUICK, "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf", "googlenet")
"""The older exporter is quick; the newer one takes half a minute for some of these."""

STRIDED = ("swin", "convnext_tiny")
"""What the newer exporter makes of pooling after a permutation: it flattens and gathers by positions that it computes
from the batch when it runs. They cannot be known before, so the channels of that stage are locked in the export."""

SLOW = [(name, d) for d in (False, True) for name in NETS if name not in (QUICK if d else SCRIPTED) + STRIDED * d]
CASES = [(name, False) for name in SCRIPTED] + [(name, True) for name in QUICK]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]


@cache
def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise(NETS[name]()).eval()


def export(module: nn.Module, dynamo: bool) -> onnx.ModelProto:
    file = io.BytesIO()
    if dynamo:
        pytest.importorskip("onnxscript")
        shapes = ({0: torch.export.Dim("N")},)
        torch.onnx.export(module, (X,), dynamic_shapes=shapes, dynamo=True, verbose=False).save(file)
    else:
        names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}
        torch.onnx.export(module, (X,), file, dynamo=False, **names)
    return onnx.load_from_string(file.getvalue())


@cache
def exported(name: str, dynamo: bool) -> onnx.ModelProto:
    return export(built(name), dynamo)


def outputs(model: "nn.Module | onnx.ModelProto") -> np.ndarray:
    if isinstance(model, nn.Module):
        with torch.no_grad():
            return model(X).numpy()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]


def apart(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max() / np.abs(one).max())


@pytest.mark.parametrize(("name", "dynamo"), CASES)
def test_the_frontends_agree(name, dynamo):
    ours, theirs = graphprune.analyze(built(name), X), graphprune.analyze(exported(name, dynamo), (X,))
    assert_same(ours, theirs)
    found = counterparts(ours, theirs)
    used = [matrix for matrix in matrices(ours) if "aux" not in matrix and "position_bias" not in matrix]
    assert len(found) == len(used), "tensors that the exporter keeps were not recognised"


def test_comparing_tells_differences():
    """Two programs on the same weights, one of which adds what the other keeps apart."""
    convs = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)])

    class Net(nn.Module):
        def __init__(self, added):
            super().__init__()
            self.convs, self.added = convs, added

        def forward(self, x):
            one, other = self.convs[0](x), self.convs[1](x)
            return self.convs[2](one + other) if self.added else self.convs[2](one) + self.convs[2](other).relu().exp()

    first, second = graphprune.analyze(Net(True), X), graphprune.analyze(Net(False), X)
    assert_same(first, first)
    third = graphprune.analyze(export(nn.Sequential(convs[0], convs[2]), False), (X,))
    for other in (second, third):
        with pytest.raises(AssertionError):
            assert_same(first, other)


@pytest.mark.parametrize(("name", "dynamo"), CASES)
def test_plans_travel(name, dynamo):
    module, model = built(name), exported(name, dynamo)
    sparsity = 0.2 if name in ("vit", "vit_b_16", "swin") else 0.5  # what heads and the widths of MLPs can give
    ours = graphprune.analyze(module, X).plan(sparsity, exact=False)
    slim = ours.apply(module)
    there = ours.apply(model)
    assert graphprune.plan_of(there).report["macs"] == ours.report["macs"]
    assert ours.report["macs"][1] < ours.report["macs"][0]
    assert apart(outputs(slim), outputs(there)) < 1e-4
    theirs = graphprune.analyze(model, (X,)).plan(sparsity, exact=False, criterion="l1")
    assert apart(outputs(theirs.apply(model)), outputs(theirs.apply(module))) < 1e-4


@pytest.mark.parametrize("name", ["resnet18", "vit", "grouped"])
def test_what_travelled_is_verified(name):
    module, model = built(name), exported(name, False)
    ours, theirs = graphprune.analyze(module, X).plan(0.3), graphprune.analyze(model, (X,)).plan(0.3)
    assert graphprune.verify(model, ours.apply(model)).error < 1e-9
    assert graphprune.verify(module, theirs.apply(module)).error < 1e-9
    whole = graphprune.Plan.from_json(ours.to_json())
    assert outputs(whole.apply(model)).tolist() == outputs(ours.apply(model)).tolist()


def test_the_export_of_the_pruned_module_is_the_pruned_export():
    plan = graphprune.analyze(built("grouped"), X).plan(0.5)
    assert any(index.ndim == 2 for axes in plan.kept.values() for index in axes.values()), "no groups were sliced"
    again = export(plan.apply(built("grouped")), False)
    slim = plan.apply(exported("grouped", False))
    assert sorted(map(_sizes, again.graph.initializer)) == sorted(map(_sizes, slim.graph.initializer))
    assert apart(outputs(again), outputs(slim)) < 1e-5


def _sizes(tensor: onnx.TensorProto) -> list[int]:
    return list(tensor.dims)


def test_sizes_of_one_name_are_equal():
    """The export calls batch times heads by one name in all layers, which lose different numbers of heads."""
    kept = ["*encoder_layer_1.self_attention.in_proj_bias"]
    plan = graphprune.analyze(exported("vit", True), (X,)).plan(0.25, keep=kept)
    assert any("encoder_layer_0.self_attention.in_proj_bias" in name for name in plan.kept)
    slim = plan.apply(exported("vit", True))
    slim.graph.output.extend(slim.graph.value_info)
    session = onnxruntime.InferenceSession(slim.SerializeToString(), providers=["CPUExecutionProvider"])
    feed, found = {session.get_inputs()[0].name: X.numpy()}, {}
    for value, array in zip(slim.graph.output, session.run(None, feed), strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, array.shape, strict=True):
            assert not dim.HasField("dim_value") or dim.dim_value == size
            if dim.dim_param:
                found.setdefault(dim.dim_param, set()).add(size)
    assert found and all(len(sizes) == 1 for sizes in found.values()), found


def test_a_module_under_other_names():
    module = built("grouped")
    plan = graphprune.analyze(module, X).plan(0.5)
    wrapped = nn.Sequential(copy.deepcopy(module)).eval()
    assert apart(outputs(plan.apply(module)), outputs(plan.apply(wrapped))) < 1e-6


def test_retrained_weights():
    """Known by name in one export; unknown in the other, which renames folded weights."""
    module = built("grouped")
    plan = graphprune.analyze(module, X).plan(0.5)
    with torch.no_grad():
        other = copy.deepcopy(module)
        for parameter in other.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    named, nameless = export(other, True), export(other, False)
    assert apart(outputs(plan.apply(other)), outputs(plan.apply(named))) < 1e-4
    with pytest.raises(PlanError, match=r"conv1.weight of shape \(64, 3, 7, 7\), and no tensor here is known"):
        plan.apply(nameless)
    with pytest.raises(PlanError, match="no tensor here is known"):
        graphprune.analyze(nameless, (X,)).plan(0.5).apply(module)


@pytest.mark.parametrize("blocks", [(2, 1, 1, 1), (1, 1, 1, 2)])
def test_plans_of_other_models(blocks):
    """More layers of the same names and sizes; one would go along, or stay as it is."""
    torch.manual_seed(0)
    small, large = randomise(_resnet()).eval(), randomise(_resnet(blocks)).eval()
    large.load_state_dict(small.state_dict(), strict=False)
    ours, theirs = graphprune.analyze(small, X).plan(0.5), graphprune.analyze(export(large, False), (X,)).plan(0.5)
    for refused in (lambda: ours.apply(export(large, False)), lambda: ours.apply(large), lambda: theirs.apply(small)):
        with pytest.raises(PlanError, match="another model"):
            refused()
    with pytest.raises(PlanError, match="another model"):
        ours.apply(exported("squeezenet1_1", False))


def test_edited_plans():
    model = exported("grouped", False)

    def plan():
        return graphprune.analyze(built("grouped"), X).plan(0.5)

    name = next(n for n, axes in plan().kept.items() if n.endswith("0.conv1.weight") and 0 in axes)
    fewer, other, more = plan(), plan(), plan()
    fewer.kept[name][0] = fewer.kept[name][0][:-1]
    gone = np.setdiff1d(np.arange(other.shapes[name][0]), other.kept[name][0])[0]
    other.kept[name][0] = np.sort(np.append(other.kept[name][0][1:], gone))
    del more.kept[name]
    for edited in (fewer, other, more):
        with pytest.raises(PlanError, match=r"edited|another model"):
            edited.apply(model)


def test_what_is_locked_here():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.both = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), False

        def forward(self, x):
            hidden = self.a(x).relu()
            return (self.b(hidden), hidden) if self.both else self.b(hidden)

    net = Net()
    plan = graphprune.analyze(net, X).plan(0.5)
    net.both = True
    with pytest.raises(PlanError, match=r"locked here.*output of the program"):
        plan.apply(export(net, False))


def test_layers_that_are_equal_are_not_told_apart():
    """Their export renames or merges them, and nothing says which is which."""
    layer = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    net = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(layer), nn.Linear(64, 5))
    plan = graphprune.analyze(net, X).plan(0.4, criterion="random")
    model = export(net, False)
    assert not any(t.name.endswith("0.weight") for t in model.graph.initializer), "names survived"
    with pytest.raises(PlanError):
        plan.apply(model)


def test_other_sizes_of_inputs():
    """Costs keep their ratio for any batch, but not for other images."""
    plan = graphprune.analyze(built("grouped"), X[:1]).plan(0.5)
    model = exported("grouped", False)
    assert graphprune.plan_of(plan.apply(model, (X,))).kept
    with pytest.raises(PlanError, match="pass example_inputs of the sizes"):
        graphprune.analyze(built("grouped"), X[:, :, ::2, :50]).plan(0.5).apply(model, (X,))


def test_a_verification_needs_a_plan_of_its_own_kind():
    module, model = built("grouped"), exported("grouped", False)
    plan = graphprune.analyze(module, X).plan(0.5)
    with pytest.raises(graphprune.errors.ExampleInputsError, match="plan"):
        graphprune.verify(model, plan.apply(model), plan)


def test_sketches():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((40, 7, 3)).astype(np.float32)
    scale = rng.standard_normal((40, 1, 1)).astype(np.float32)
    assert alike(sketch(matrix), sketch(matrix * scale))
    assert alike(sketch(matrix), sketch(matrix.astype(np.float16)))
    assert alike(sketch(matrix), sketch(np.where(np.arange(40)[:, None, None] < 10, 0, matrix)))
    assert not alike(sketch(matrix), sketch(matrix[::-1]))
    assert not alike(sketch(matrix), sketch(matrix + 0.1 * rng.standard_normal(matrix.shape)))
    assert not alike(sketch(matrix), sketch(matrix * 0)) and not alike(sketch(matrix), [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sketch(np.zeros((3, 4)))
