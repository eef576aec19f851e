"""Calibration data for ONNX models: statistics and recovery as PyTorch and plain numpy say, bad data refused."""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
from graphprune.contractions import matrix_of, weight_of
from graphprune.errors import CriterionError, DataError, OptionError
from graphprune.frontends.onnx.products import Product, contraction_in, nodes_of
from graphprune.frontends.onnx.read import prepare
from graphprune.frontends.onnx.walk import Walk
from helpers import randomise
from onnx_build import net

ALL = ("inputs", "products")


class Residual(nn.Module):
    """Two blocks that add to a stream, one behind a batch norm and scaled, one through a permuted linear layer."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.wide, self.norm = nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.narrow, self.last = nn.Conv2d(24, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.up, self.down = nn.Linear(12, 32), nn.Linear(32, 12, bias=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = self.last(self.narrow(torch.relu(self.norm(self.wide(x)))))
        x = torch.relu(x + (y if self.scale == 1 else self.scale * y))
        y = self.down(torch.relu(self.up(x.permute(0, 2, 3, 1))))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


def unscaled() -> nn.Module:
    return Residual(1.0)


def grouped(depthwise: bool = True) -> nn.Module:
    """Every kind of convolution."""
    third = nn.Conv2d(16, 16, 3, padding=1, groups=16 if depthwise else 1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=4, padding=2, dilation=2), nn.ReLU(), third, nn.ReLU(),
        nn.ConvTranspose2d(16, 24, 3, stride=2, padding=1, output_padding=1, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


def in_groups() -> nn.Module:
    return grouped(depthwise=False)


def normed() -> nn.Module:
    """Batch norms behind convolutions, with statistics of the images below."""
    parts = [nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)]
    layers = [layer for conv in parts for layer in (conv, nn.BatchNorm2d(24), nn.ReLU())]
    module = randomise(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)))
    for part in module:
        part.momentum = None  # the mean of all batches
    with torch.no_grad():
        for batch in images(8):
            module(torch.from_numpy(batch))
    return module


def exported(module: nn.Module, path: Path, norms: bool = False, fixed: int | None = None) -> str:
    """The path of an export; with `norms` they are not folded, with `fixed` the batch has that size."""
    file, mode = str(path / "net.onnx"), torch.onnx.TrainingMode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(fixed or 2, 3, 8, 8),), file, input_names=["x"], output_names=["y"],
            dynamic_axes=None if fixed else {"x": {0: "N"}, "y": {0: "N"}}, dynamo=False,
            training=mode.PRESERVE if norms else mode.EVAL,
        )  # fmt: skip
    return file


def images(number: int = 4, samples: int = 16, seed: int = 0) -> list[np.ndarray]:
    """Batches of images of few patterns, so that channels can stand in for each other."""
    patterns = np.random.default_rng(7).standard_normal((6, 3, 8, 8))
    random = np.random.default_rng(seed)
    mixed = [np.einsum("nr,rchw->nchw", random.standard_normal((samples, 6)), patterns) for _ in range(number)]
    return [(batch + 0.1 * random.standard_normal(batch.shape)).astype(np.float32) for batch in mixed]


def run(model, x: np.ndarray) -> np.ndarray:
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source).run(None, {"x": x})[0]


def error(model, slim, seed: int = 99) -> float:
    """The relative squared error of outputs on data that nothing was fitted on."""
    (x,) = images(1, 64, seed)
    expected, found = run(model, x), run(slim, x)
    return float(np.square(found - expected).sum() / np.square(expected).sum())


@pytest.fixture(autouse=True)
def quiet():
    torch.manual_seed(0)


# ---- statistics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [grouped, Residual])
def test_statistics_are_those_of_torch(make, tmp_path):
    module, data = randomise(make()).eval(), images(3, 8)
    path = exported(module, tmp_path, norms=True)
    expected = graphprune.analyze(module, torch.zeros(2, 3, 8, 8)).collect(ALL, [torch.from_numpy(x) for x in data])
    found = graphprune.analyze(path).collect(ALL, data)
    weights = [name for name in found.inputs if name in expected.inputs]  # linear layers are renamed
    assert len(found.inputs) == len(expected.inputs) and found.samples == 24
    assert [len(weights) >= 3, set(weights) <= set(found.products)] == [True, True]
    for name in weights:
        for moment in ("mean", "magnitude", "square", "zeros"):
            np.testing.assert_allclose(
                getattr(found.inputs[name], moment), getattr(expected.inputs[name], moment), atol=1e-5
            )
        np.testing.assert_allclose(found.products[name].weight, expected.products[name].weight)
        second = expected.products[name].second
        np.testing.assert_allclose(found.products[name].second, second, atol=1e-5 * np.abs(second).max())
        assert (found.products[name].axis, found.inputs[name].axis) == (
            expected.products[name].axis,
            expected.inputs[name].axis,
        )
    replaced = {name: 0.9 * products.weight.reshape(len(products.weight), -1, products.weight.shape[3])
                for name, products in found.products.items() if name in weights}  # fmt: skip
    assert found.trial(replaced) == pytest.approx(expected.trial(replaced), rel=1e-3) and found.trial(replaced) > 1e-4
    assert found.trial({}) == pytest.approx(0.0, abs=1e-10)


_SIDES = st.integers(0, 2)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_features_times_the_matrix_are_the_convolution(data):
    """Kernels, strides, dilations, paddings, groups of every kind: against ONNX Runtime itself."""
    draw, transposed = data.draw, data.draw(st.booleans())
    dims, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    pair = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    kernel, strides, dilations = pair(1, 3), pair(1, 3), pair(1, 2)
    auto = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto.startswith("SAME"):
        dilations = [1] * dims if not transposed else dilations
    attrs = f'group={groups}, strides={strides}, dilations={dilations}, kernel_shape={kernel}, auto_pad="{auto}"'
    if auto == "NOTSET":
        attrs += f", pads={[min(draw(_SIDES), k - 1) for _ in range(2) for k in kernel]}"
    if transposed:
        attrs += f", output_padding={[draw(st.integers(0, max(s, 1) - 1)) for s in strides]}"
    shape = (4 * groups, 2, *kernel) if transposed else (2 * groups, 4, *kernel)
    sizes = ",".join(str(draw(st.integers(5, 8))) for _ in kernel)
    kind = "ConvTranspose" if transposed else "Conv"
    model = net(f"float[N,{4 * groups},{sizes}] x", f"y = {kind}<{attrs}>(x, w)", w=shape).model
    _agrees(model)


@pytest.mark.parametrize("body", ["y = MatMul(x, w)", "y = Gemm(x, w, b)", "y = Gemm<transB=1>(x, v, b)"])
def test_features_times_the_matrix_are_the_product(body):
    _agrees(net("float[N,5] x", body, w=(5, 4), v=(4, 5), b=(4,)).model)


def _agrees(model: onnx.ModelProto) -> None:
    import onnx_ir as ir

    analysis, own = graphprune.analyze(model), prepare(ir.from_proto(model))
    node = analysis.graph.nodes[-1]
    contraction = contraction_in(node, nodes_of(own))
    assert contraction is not None
    value = own.graph.inputs[0]
    sizes = [3, *(size for size in value.shape if isinstance(size, int))]
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
    y = run(model, x)
    product = Product.of(contraction, nodes_of(own)[node.name], x, y)
    weight = analysis.weights(contraction.weight)
    matrix = matrix_of(contraction, weight)
    assert product.fits and np.array_equal(weight_of(contraction, matrix, weight.shape), weight)
    rows = np.random.default_rng(1).permutation(product.positions)[:50]
    bias = 0 if contraction.bias is None else analysis.weights(contraction.bias)
    np.testing.assert_allclose(product.features(rows) @ matrix + bias, product.targets(rows), rtol=1e-3, atol=1e-4)


def test_a_walk_gives_what_a_run_gives(tmp_path):
    """Also where a weight moved on the way; what came before is not computed again."""
    import onnx_ir as ir

    from graphprune.frontends.onnx.batches import batches_of
    from graphprune.frontends.onnx.writing import numbers_of, write

    model = ir.load(exported(randomise(Residual()).eval(), tmp_path))
    convs = [node for node in model.graph if node.op_type == "Conv"]
    walk = Walk(model, list(batches_of(model, images(2, 4))))
    (first, _), second = walk.at([convs[1].inputs[0].name]), convs[1]
    assert first[second.inputs[0].name].min() == 0  # behind a relu
    walk.at([second.outputs[0].name], moving=[second])
    write(model, second, 1, 2 * numbers_of(second, 1))
    found = [values["y"] for values in walk.at(["y"])]
    for x, y in zip(images(2, 4), found, strict=True):
        np.testing.assert_allclose(y, run(ir.to_proto(model), x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("criterion", ["wanda", "activation_mean", "activation_variance", "apoz", "reconstruction"])
def test_criteria_that_look_at_data_choose_as_for_torch(criterion, tmp_path):
    module, data = randomise(grouped()).eval(), images(2, 16)
    path = exported(module, tmp_path)
    found = graphprune.analyze(path).plan(0.3, criterion=criterion, data=data, multiple_of=1)
    torch_data = [torch.from_numpy(x) for x in data]
    expected = graphprune.analyze(module, torch.zeros(2, 3, 8, 8)).plan(0.3, criterion=criterion, data=torch_data)
    assert found.kept.keys() == expected.kept.keys() and found.kept
    for name, axes in expected.kept.items():
        assert all(np.array_equal(index, found.kept[name][axis]) for axis, index in axes.items())


def test_dead_channels_go_first(tmp_path):
    """Channels that are never active cost nothing, and the data shows which they are."""
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4)).eval()
    with torch.no_grad():
        module[0].bias[::2] = -1000.0
    path = exported(module, tmp_path)
    slim = graphprune.optimize(path, 0.45, criterion="activation_mean", data=images(), multiple_of=1)
    assert graphprune.plan_of(slim).kept["0.weight"][0].tolist() == list(range(1, 16, 2))
    assert error(path, slim) < 1e-10


# ---- recovery --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [in_groups, unscaled])
@pytest.mark.parametrize("method", ["least_squares", "bias"])
def test_recovery_comes_close_to_that_of_torch(make, method, tmp_path):
    module, data = randomise(make()).eval(), images()
    path = exported(module, tmp_path, norms=True)
    plan = graphprune.analyze(path).plan(0.4, multiple_of=1)
    plain = plan.apply(path)
    slim = graphprune.optimize(path, 0.4, multiple_of=1, data=data, recover=method)
    assert graphprune.plan_of(slim).widths() == plan.widths() and plan.widths()
    (x,) = images(1, 64, 99)
    torch_data = [torch.from_numpy(batch) for batch in data]
    other = graphprune.optimize(module, 0.4, example_inputs=torch.zeros(2, 3, 8, 8), data=torch_data, recover=method)
    expected, theirs = run(path, x), other(torch.from_numpy(x)).detach().numpy()
    reference = float(np.square(theirs - expected).sum() / np.square(expected).sum())
    assert error(path, slim) < 0.7 * error(path, plain)
    assert error(path, slim) < 1.1 * reference + 1e-6
    report = graphprune.plan_of(slim).report["recovery"]
    assert report["after"] < report["before"] and report["samples"] == 64
    assert all(layer["after"] <= layer["before"] for layer in report["layers"] if not layer["note"])


@pytest.mark.parametrize("make", [grouped, Residual])
@pytest.mark.parametrize("norms", [False, True])
def test_recovery_lowers_the_error_on_other_data(make, norms, tmp_path):
    """Depthwise layers among what is pruned, and a scaled result in front of a stream."""
    path, data = exported(randomise(make()), tmp_path, norms), images()
    plain, slim = (
        graphprune.optimize(path, 0.5, multiple_of=1, data=data, recover=recover) for recover in (False, True)
    )
    assert graphprune.plan_of(plain).widths() == graphprune.plan_of(slim).widths() != []
    assert error(path, slim) < 0.5 * error(path, plain)


@pytest.mark.parametrize(
    "middle", ["f = Mul(e, half)", "f = Mul(e, each)", "f = BatchNormalization(e, s, o, m, v)", ""]
)
def test_what_can_be_made_up_for_is(middle):
    """Of channels that come in pairs one goes: the rest can do all of it, whatever leads to the stream."""
    random = np.random.default_rng(0)
    pairs = np.repeat(random.standard_normal((12, 16, 3, 3)).astype(np.float32), 2, axis=0)
    weights = {"w": (16, 3, 3, 3), "a": pairs / 12, "b": (16, 24, 3, 3), "h": (4, 16, 1, 1), "half": 0.25}
    weights |= {name: random.uniform(0.5, 2.0, 16).astype(np.float32) for name in ("s", "o", "m", "v")}
    weights["each"] = random.uniform(0.5, 2.0, (16, 1, 1)).astype(np.float32)
    pads, stream = "<pads=[1,1,1,1]>", "f" if middle else "e"
    body = f"t = Conv{pads}(x, w) r = Relu(t) c = Conv{pads}(r, a) d = Relu(c) e = Conv{pads}(d, b) {middle} "
    body += f"g = Add(r, {stream}) k = Relu(g) y = Conv(k, h)"
    model = net("float[N,3,8,8] x", body, **{name: item for name, item in weights.items() if name in body}).model
    odd = {
        "criterion": lambda tensor: np.tile([1.0, 0.0], tensor.shape[tensor.axis] // 2),
        "keep": ["w", "h"],
        "verify": False,
    }
    plain, slim = (
        graphprune.optimize(model, 0.3, **odd, multiple_of=1, data=images(), recover=recover)
        for recover in (False, True)
    )
    kept = graphprune.plan_of(slim).kept["a"][0]
    assert kept.size < 24 and set(range(0, 24, 2)) <= set(kept.tolist())
    assert error(model, slim) < 0.02 * error(model, plain)


def test_a_constant_that_nothing_else_makes_up_for(tmp_path):
    """Channels that never change are worth a bias: recovery by biases alone gives back all of it."""
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten()).eval()
    with torch.no_grad():
        module[0].weight[::2], module[0].bias[::2] = 0.0, 1.0
    path = exported(module, tmp_path)
    options = {"sparsity": 0.45, "criterion": "activation_variance", "data": images(), "multiple_of": 1}
    plain, slim = (graphprune.optimize(path, **options, recover=recover) for recover in (False, "bias"))
    assert graphprune.plan_of(slim).kept["0.weight"][0].size < 16
    assert error(path, plain) > 1e-2 and error(path, slim) < 1e-9


def test_batch_norm_is_estimated_anew(tmp_path):
    """The statistics are those that numpy finds in front of the norms of the result."""
    path, data = exported(normed(), tmp_path, norms=True), images()
    plain = graphprune.optimize(path, 0.4, multiple_of=1)
    slim = graphprune.optimize(path, 0.4, multiple_of=1, data=data, recover="batch_norm")
    assert error(path, slim) < 0.9 * error(path, plain)
    tensors = {item.name: onnx.numpy_helper.to_array(item) for item in slim.graph.initializer}
    norms = [node for node in slim.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 3
    for node in norms:
        probe = onnx.ModelProto.FromString(slim.SerializeToString())
        del probe.graph.output[:]
        probe.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
        seen = np.concatenate([run(probe, batch) for batch in data])
        np.testing.assert_allclose(tensors[node.input[3]], seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(tensors[node.input[4]], seen.var((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_models_with_a_fixed_batch_get_pieces(tmp_path):
    """One sample at a time gives the statistics and the weights that batches give."""
    module, data = randomise(Residual()).eval(), images(2, 8)
    (tmp_path / "one").mkdir()
    path, single = exported(module, tmp_path), exported(module, tmp_path / "one", fixed=1)
    whole, pieces = (graphprune.analyze(model).collect(ALL, data) for model in (path, single))
    assert pieces.samples == whole.samples == 16 and pieces.products
    for name, products in whole.products.items():
        np.testing.assert_allclose(
            pieces.products[name].second, products.second, atol=1e-5 * np.abs(products.second).max()
        )
    plain, slim = (
        graphprune.optimize(single, 0.4, multiple_of=1, data=data, recover=recover) for recover in (False, True)
    )
    (x,) = images(1, 32, 99)
    outputs = [np.concatenate([run(model, one[None]) for one in x]) for model in (single, plain, slim)]
    before, after = (np.square(found - outputs[0]).sum() for found in outputs[1:])
    assert after < 0.5 * before


def test_what_looks_affine_and_is_not(tmp_path):
    """A PRelu or a mean in front of a stream is not undone: the layer is fitted where its own result stands."""
    weights = {"w": (16, 3, 3, 3), "a": (24, 16, 3, 3), "b": (16, 24, 3, 3), "s": (16, 1, 1), "h": (4, 16, 1, 1)}
    pads = "<pads=[1,1,1,1]>"
    body = f"t = Conv{pads}(x, w) r = Relu(t) c = Conv{pads}(r, a) d = Relu(c) e = Conv{pads}(d, b) "
    for middle in ("f = PRelu(e, s) g = Add(r, f)", "g = Mean(r, e)"):
        used = {name: shape for name, shape in weights.items() if name != "s" or "PRelu" in middle}
        model = net("float[N,3,8,8] x", f"{body} {middle} k = Relu(g) y = Conv(k, h)", **used).model
        plain, slim = (
            graphprune.optimize(model, 0.4, multiple_of=1, data=images(), recover=recover) for recover in (False, True)
        )
        assert graphprune.plan_of(slim).kept and error(model, slim) < error(model, plain)


def test_several_inputs_by_order_and_by_name():
    weights = {"w": (6, 16), "v": (6, 16), "u": (16, 3)}
    body = "a = MatMul(x, w) b = MatMul(z, v) c = Add(a, b) d = Relu(c) y = MatMul(d, u)"
    model = net("float[N,6] x, float[N,6] z", body, **weights).model
    random = np.random.default_rng(0)
    pairs = [(random.random((8, 6), np.float32), random.random((8, 6), np.float32)) for _ in range(2)]
    analysis = graphprune.analyze(model)
    ways = [
        pairs,
        [{"z": z, "x": x} for x, z in pairs],
        [((x, z), np.zeros(8)) for x, z in pairs],
        [tuple(map(torch.from_numpy, pair)) for pair in pairs],
        iter(pairs),
    ]
    found = [analysis.collect(ALL, data).inputs["v"].mean for data in ways]
    assert all(np.array_equal(one, found[0]) for one in found)
    np.testing.assert_allclose(found[0], np.concatenate([z for _, z in pairs]).mean(axis=0), rtol=1e-6)


def test_the_model_given_is_left_alone(tmp_path):
    path, data = exported(randomise(Residual()).eval(), tmp_path), images()
    model = onnx.load(path)
    before = model.SerializeToString()
    slim = graphprune.optimize(model, 0.4, criterion="reconstruction", data=data, recover=True, multiple_of=1)
    assert model.SerializeToString() == before
    plain = graphprune.analyze(model).plan(0.4, multiple_of=1).apply(model)
    kept = plain.SerializeToString()
    from graphprune.frontends.onnx.models import recover

    analysis = graphprune.analyze(model)
    better, _ = recover(model, plain, graphprune.plan_of(plain), analysis, data, "least_squares")
    assert plain.SerializeToString() == kept != better.SerializeToString()
    assert all(np.array_equal(batch, other) for batch, other in zip(data, images(), strict=True))
    onnx.checker.check_model(slim, full_check=True)


def test_weights_in_constant_nodes_and_shared_biases():
    """A bias that two layers share is split where one of them moves; weights may lie in Constant nodes."""
    from onnx_build import in_constants

    weights = {"w": (16, 3, 3, 3), "v": (16, 16, 3, 3), "u": (4, 16, 3, 3), "b": (16,)}
    body = "c = Conv(x, w, b) r = Relu(c) d = Conv(r, v, b) s = Relu(d) y = Conv(s, u)"
    for pattern in (plain := net("float[N,3,8,8] x", body, **weights), in_constants(plain)):
        options = {"sparsity": 0.4, "multiple_of": 1, "data": images()}
        before = graphprune.optimize(pattern.model, **options)
        after = graphprune.optimize(pattern.model, **options, recover=True)
        assert error(pattern.model, after) < 0.5 * error(pattern.model, before)
        onnx.checker.check_model(after, full_check=True)


# ---- bad data --------------------------------------------------------------------------------------------


def spoilt(value: float) -> np.ndarray:
    (x,) = images(1, 4)
    x[2, 1] = value
    return x


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "no batches"),
        (iter(()), "no batches"),
        (np.zeros((4, 3, 8, 8), np.float32), "not an iterable of batches"),
        ({"x": np.zeros((4, 3, 8, 8), np.float32)}, "not an iterable of batches"),
        (3, "not an iterable of batches"),
        ([None], "batch 0 of data= is NoneType"),
        (["image.png"], "batch 0 of data= is str"),
        ([images(1)[0], images(1)[0][0]], r"batch 1 of data=: input x has shape .*\(3, 8, 8\)"),
        ([np.zeros((2, 4, 8, 8), np.float32)], "batch 0 of data=: input x has shape"),
        ([np.zeros((2, 3, 8, 8), np.int64)], "float32.*int64"),
        ([np.zeros((0, 3, 8, 8), np.float32)], "empty: input x"),
        ([spoilt(np.nan)], "input x of batch 0 of data= holds values that are NaN"),
        ([images(1)[0], spoilt(np.inf)], "input x of batch 1 of data= holds values that are NaN or infinite"),
        ([{"y": np.zeros((2, 3, 8, 8), np.float32)}], r"the inputs \['y'\] where the model has x"),
        ([(images(1)[0],) * 3], "3 inputs where the model has x"),
    ],
)
def test_bad_data_is_refused(data, says, tmp_path):
    model = onnx.load(exported(randomise(grouped()).eval(), tmp_path))
    before = model.SerializeToString()
    data = list(data) if isinstance(data, list) else data
    with pytest.raises(DataError, match=says):
        graphprune.optimize(model, 0.3, criterion="wanda", data=data)
    if not hasattr(data, "__next__"):
        with pytest.raises(DataError, match=says):
            graphprune.optimize(model, 0.3, recover=True, data=data)
    assert model.SerializeToString() == before


def test_batches_on_which_the_model_does_not_run():
    """Sizes that the inputs allow and the model does not."""
    model = net(
        "float[N,3,H,W] x", "c = Conv(x, w) f = Flatten(c) y = Gemm<transB=1>(f, v)", w=(16, 3, 3, 3), v=(4, 64)
    )
    example = np.zeros((2, 3, 4, 4), np.float32)
    with pytest.raises(DataError, match=r"does not run on batch 1 of data= .*\(2, 3, 9, 9\)"):
        data = [example, np.zeros((2, 3, 9, 9), np.float32)]
        graphprune.optimize(model.model, 0.3, criterion="wanda", example_inputs=example, data=data)


def test_what_needs_more_than_a_run_is_refused(tmp_path):
    path, data = exported(randomise(Residual()).eval(), tmp_path), images(1)
    for criterion in ("taylor", "fisher"):
        with pytest.raises(CriterionError, match="gradients.*choose one of.*reconstruction"):
            graphprune.optimize(path, 0.3, criterion=criterion, data=data)
    with pytest.raises(DataError, match="pass data="):
        graphprune.optimize(path, 0.3, recover=True)
    with pytest.raises(DataError, match="no batch norm.*least_squares"):
        graphprune.optimize(path, 0.3, recover="batch_norm", data=data)
    with pytest.raises(OptionError, match="recover"):
        graphprune.optimize(path, 0.3, recover="magic", data=data)


def test_a_fixed_batch_wants_enough_samples(tmp_path):
    path = exported(randomise(grouped()).eval(), tmp_path, fixed=4)
    with pytest.raises(DataError, match="2 samples where the model takes 4 at a time"):
        graphprune.optimize(path, 0.3, criterion="wanda", data=images(1, 2))
    assert graphprune.analyze(path).collect(ALL, images(2, 9)).samples == 16  # one sample of nine is left over


# ---- trained networks ------------------------------------------------------------------------------------


def test_a_trained_network_recovers(data_dir, tmp_path):
    """ResNet-20: a third of the multiply-accumulates goes; accuracy on images that nothing was fitted on."""
    sys.path.insert(0, str(data_dir))
    from graphdata import cifar10, nchw
    from resnet_cifar import resnet

    module = resnet(20, str(data_dir / "cifar10_models/resnet20_cifar10.pt")).eval()
    file = str(tmp_path / "resnet20.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, 3, 32, 32),), file, input_names=["x"], dynamic_axes={"x": {0: "N"}}, dynamo=False
        )
    x, y = cifar10("test_a")
    data = [nchw(x[start : start + 64]) for start in range(1000, 1128, 64)]
    x, y = nchw(x[:500]), y[:500]

    def accuracy(model) -> float:
        return float((run(model, x).argmax(1) == y).mean())

    options = {"sparsity": 1 / 3, "budget": "macs", "multiple_of": 1, "verify": False, "data": data}
    plain, slim = (graphprune.optimize(file, **options, recover=recover) for recover in (False, True))
    assert graphprune.plan_of(slim).report["macs"][1] <= 2 / 3 * graphprune.plan_of(slim).report["macs"][0]
    assert accuracy(file) > 0.9 > 0.7 > accuracy(plain)
    assert accuracy(slim) > 0.82


@pytest.mark.parametrize("name", ["rfb320", "ppocr_cls"])
def test_real_models_run_through(name, data_dir):
    """A detector with a fixed batch of one, and a classifier of open sizes with its weights in Constant nodes."""
    shape = {"rfb320": (3, 240, 320), "ppocr_cls": (3, 48, 96)}[name]
    random = np.random.default_rng(0)
    data = [random.standard_normal((3, *shape)).astype(np.float32)]
    slim = graphprune.optimize(
        str(data_dir / f"onnx/{name}.onnx"), 0.2, criterion="wanda", verify=False, data=data, recover="bias",
        example_inputs=data[0][:1],
    )  # fmt: skip
    report = graphprune.plan_of(slim).report["recovery"]
    assert report["samples"] == 3 and report["after"] < report["before"]
