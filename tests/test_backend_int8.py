"""Quantised ONNX models compute in integers: exactly what the definition says, and what ONNX Runtime gives."""

import re
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

import onnx_integers
from emulation import emulator
from graphprune.backends.compiler import compile_model
from graphprune.backends.facts import facts_of
from graphprune.backends.import_onnx import import_model
from graphprune.backends.measuring import Meter
from graphprune.backends.pipeline import llvm_target, pipeline
from graphprune.backends.targets import TARGETS, get_target
from graphprune.backends.tuning import workloads

INTEGER_TARGETS = [name for name, target in TARGETS.items() if target.dots and target.family == "x86"]
RUNS = [pytest.param(n, marks=pytest.mark.skipif(bool(TARGETS[n].missing_features()), reason=f"not a machine for {n}"))
        for n in INTEGER_TARGETS]  # fmt: skip
rng = np.random.default_rng(0)


class Block(nn.Module):
    """Residual addition, pools, a depthwise and a pointwise convolution, groups, odd channel counts."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 20, 3, padding=1, stride=2), nn.Conv2d(20, 20, 3, padding=1)
        self.deep, self.point = nn.Conv2d(20, 20, 3, padding=1, groups=20), nn.Conv2d(20, 36, 1)
        self.parts, self.head = nn.Conv2d(36, 32, 3, groups=4, dilation=2), nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.first(x) + x)
        x = nn.functional.max_pool2d(torch.relu(self.point(self.deep(x))), 2)
        return self.head(torch.relu(self.parts(x)).mean((2, 3)))


class Joined(nn.Module):
    """Branches joined along channels that fill no vectors."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 19, 1), nn.Conv2d(24, 13, 3, padding=1)
        self.last = nn.Conv2d(32, 8, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.last(torch.cat([torch.relu(self.left(x)), self.right(x)], 1))


class Transformer(nn.Module):
    """One block: attention and products of several rows."""

    def __init__(self):
        super().__init__()
        self.norm, self.packed, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.wide, self.narrow = nn.Linear(32, 70), nn.Linear(70, 32)

    def forward(self, x):
        q, k, v = self.packed(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(1, 2) / 5.6).softmax(-1) @ v)
        return x + self.narrow(nn.functional.gelu(self.wide(x)))


NETWORKS = {
    "block": (Block, (1, 3, 22, 22)),
    "joined": (Joined, (1, 3, 12, 12)),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(30, 50), nn.ReLU(), nn.Linear(50, 33), nn.ReLU(), nn.Linear(33, 7)),
        (5, 30),
    ),
    "transformer": (Transformer, (2, 9, 32)),
}
KINDS = {
    "asymmetric": dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=False),
    "per channel": dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True),
    "signed": dict(activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=True),
    "unsigned weights": dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8, per_channel=False),
    "symmetric": dict(activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=False,
                      extra_options={"ActivationSymmetric": True, "WeightSymmetric": True}),
    "operators": dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
                      quant_format=QuantFormat.QOperator),
}  # fmt: skip


class Samples(CalibrationDataReader):
    def __init__(self, name, shape):
        self.samples = iter([{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.samples, None)


def quantised(name, tmp_path, **options):
    """A quantised network as ONNX Runtime's tool makes it, and an input."""
    torch.manual_seed(1)
    build, shape = NETWORKS[name]
    path, target = str(tmp_path / "float.onnx"), str(tmp_path / "quantised.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            build().eval(), (torch.randn(shape),), path, dynamo=False, input_names=["x"], opset_version=17
        )
        quantize_static(path, target, Samples("x", shape), **{"quant_format": QuantFormat.QDQ, **options})
    return onnx.load(target), rng.standard_normal(shape).astype(np.float32)


def onnx_runtime(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def step_of(model):
    """The scale of the last quantisation before the output."""
    makers = {output: node for node in model.graph.node for output in node.output}
    numbers = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return float(numbers[makers[model.graph.output[0].name].input[1]].reshape(-1)[0])


def kernels(artifact):
    return [facts["schedule"] for facts in artifact.manifest["kernels"].values()]


def qdq(nodes, numbers, x_shape, y_shape, kind="uint8", result=None):
    """A model from nodes and constants whose input x and output y are quantised tensors."""
    elem = {
        "uint8": TensorProto.UINT8,
        "int8": TensorProto.INT8,
        "float32": TensorProto.FLOAT,
        "int32": TensorProto.INT32,
    }
    ends = [[helper.make_tensor_value_info("x", elem[kind], x_shape)],
            [helper.make_tensor_value_info("y", elem[result or kind], y_shape)]]  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "quantised", *ends, initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def convolution(channels, out, kernel, size, data="uint8", zero=3, group=1, scales=1, relu=False, **attributes):
    """dequantize -> Conv -> quantize, all the way in bytes."""
    numbers = {
        "xs": np.float32(0.02), "xz": np.array(zero, data), "ys": np.float32(0.11), "yz": np.array(7, data),
        "w": rng.integers(-127, 128, (out, channels // group, kernel, kernel)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.01, scales).astype(np.float32).reshape(() if scales == 1 else -1),
        "wz": np.zeros(() if scales == 1 else scales, np.int8),
        "b": rng.integers(-5000, 5000, out).astype(np.int32),
    }  # fmt: skip
    numbers["bs"] = np.broadcast_to(numbers["ws"] * numbers["xs"], () if scales == 1 else (out,)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0),
        helper.make_node("Conv", ["xf", "wf", "bf"], ["c"], group=group, **attributes),
        *([helper.make_node("Relu", ["c"], ["r"])] if relu else []),
        helper.make_node("QuantizeLinear", ["r" if relu else "c", "ys", "yz"], ["y"]),
    ]
    pads, stride = (
        attributes.get("pads", [kernel // 2 if "auto_pad" in attributes else 0] * 4),
        attributes.get("strides", [1, 1]),
    )
    gap = attributes.get("dilations", [1, 1])
    result = [(size + pads[a] + pads[a + 2] - (kernel - 1) * gap[a] - 1) // stride[a] + 1 for a in range(2)]
    return qdq(nodes, numbers, [2, channels, size, size], [2, out, *result], data)


CONVOLUTIONS = {
    "plain": dict(channels=32, out=32, kernel=3, size=9, pads=[1, 1, 1, 1]),
    "odd channels": dict(channels=37, out=51, kernel=3, size=8, pads=[0, 1, 1, 0], scales=51),
    "an image": dict(channels=3, out=24, kernel=7, size=20, strides=[2, 2], pads=[3, 3, 3, 3]),
    "pointwise": dict(channels=64, out=40, kernel=1, size=7, scales=40, relu=True),
    "strided pointwise": dict(channels=20, out=40, kernel=1, size=9, strides=[2, 2]),
    "signed": dict(channels=16, out=16, kernel=3, size=8, data="int8", zero=-5, pads=[1, 1, 1, 1], relu=True),
    "depthwise": dict(channels=40, out=40, kernel=3, size=9, group=40, pads=[1, 1, 1, 1], scales=40),
    "signed depthwise": dict(channels=24, out=24, kernel=5, size=9, group=24, data="int8", zero=11, strides=[2, 2],
                             pads=[2, 2, 2, 2]),
    "groups": dict(channels=64, out=32, kernel=3, size=7, group=2, pads=[1, 1, 1, 1]),
    "narrow groups": dict(channels=24, out=36, kernel=3, size=7, group=4, dilations=[2, 2]),
    "same size": dict(channels=16, out=24, kernel=3, size=8, auto_pad="SAME_UPPER", zero=9),
    "deep": dict(channels=512, out=16, kernel=3, size=4, pads=[1, 1, 1, 1], zero=255),
}  # fmt: skip


@pytest.mark.parametrize("target", RUNS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_exact(name, target):
    model = convolution(**CONVOLUTIONS[name])
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    bounds = np.iinfo(CONVOLUTIONS[name].get("data", "uint8"))
    x = rng.integers(bounds.min, bounds.max + 1, shape).astype(bounds.dtype)
    x[0] = bounds.max  # the largest sums
    artifact = compile_model(model, target)
    wanted = onnx_integers.run(model, {"x": x})[0]
    np.testing.assert_array_equal(artifact(x), wanted)
    assert len(np.unique(wanted)) > 20
    made = [kernel for kernel in artifact.manifest["kernels"].values() if "quantize" in kernel["description"]]
    assert [kernel["schedule"] in ("convolution", "window") for kernel in made] == [True]


@pytest.mark.parametrize("target", RUNS)
@pytest.mark.parametrize("rows, inner, columns", [((1,), 64, 40), ((3, 5), 50, 33), ((64,), 128, 64), ((7,), 1024, 16)])
def test_products_are_exact(rows, inner, columns, target):
    numbers = {
        "xs": np.float32(0.02), "xz": np.uint8(130), "ys": np.float32(0.2), "yz": np.uint8(128),
        "w": rng.integers(-128, 128, (inner, columns)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.01, columns).astype(np.float32), "wz": np.zeros(columns, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=1),
        helper.make_node("MatMul", ["xf", "wf"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["y"]),
    ]
    model = qdq(nodes, numbers, [*rows, inner], [*rows, columns])
    x = rng.integers(0, 256, (*rows, inner)).astype(np.uint8)
    artifact = compile_model(model, target)
    np.testing.assert_array_equal(artifact(x), onnx_integers.run(model, {"x": x})[0])
    assert "matmul" in kernels(artifact)


def test_the_largest_sums_do_not_saturate():
    """255 times 127, all of them: instructions that add pairs in 16 bits would lose here."""
    model = convolution(64, 16, 3, 6, zero=0)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(np.full((16, 64, 3, 3), 127, np.int8), "w"))
        if tensor.name == "ys":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(2.0 * 37), "ys"))
    x = np.full((2, 64, 6, 6), 255, np.uint8)
    result = compile_model(model, "x86")(x)
    np.testing.assert_array_equal(result, onnx_integers.run(model, {"x": x})[0])


@pytest.mark.parametrize("name, kind", [
    *(("block", kind) for kind in KINDS), ("joined", "signed"), ("joined", "operators"), ("mlp", "operators"),
    ("mlp", "unsigned weights"), ("transformer", "per channel"),
])  # fmt: skip
def test_networks_equal_onnx_runtime(name, kind, tmp_path):
    model, x = quantised(name, tmp_path, **KINDS[kind])
    artifact = compile_model(model, "x86", x)
    result, wanted = artifact(x), onnx_runtime(model, x)
    result = result[0] if isinstance(result, tuple) else result
    step = step_of(model)
    steps = np.abs(result - wanted) / step
    # Sums of floats between integers (additions, norms, softmax) may round a tie the other way, and that spreads.
    assert steps.max() < 3.01 and (steps > 0.5).mean() < 0.25, (steps.max(), (steps > 0.5).mean())
    assert np.abs(wanted).max() > 10 * step


@pytest.mark.parametrize("kind", ["asymmetric", "per channel", "signed", "symmetric"])
def test_a_chain_of_products_is_exact(kind, tmp_path):
    model, x = quantised("mlp", tmp_path, **KINDS[kind])
    result = compile_model(model, "x86", x)(x)
    np.testing.assert_array_equal(result, onnx_integers.run(model, {"x": x})[0])


@pytest.mark.parametrize("zero", [None, 3])
@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("target", ["x86", "x86-avx2"])
def test_integer_products_of_onnx(kind, zero, target):
    bounds = np.iinfo(kind)
    numbers = {"w": rng.integers(-128, 128, (36, 20)).astype(np.int8)}
    inputs = ["x", "w"] + ([] if zero is None else ["z"])
    if zero is not None:
        numbers["z"] = np.array(zero, kind)
    model = qdq([helper.make_node("MatMulInteger", inputs, ["y"])], numbers, [4, 36], [4, 20], kind, "int32")
    x = rng.integers(bounds.min, bounds.max + 1, (4, 36)).astype(kind)
    wanted = (x.astype(np.int64) - (zero or 0)) @ numbers["w"].astype(np.int64)
    np.testing.assert_array_equal(compile_model(model, target)(x), wanted)


def test_rounding_is_half_to_even():
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])]
    x = np.array([[-300, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.4999, 400]], np.float32)
    for kind, zero in (("int8", 1), ("uint8", 100)):
        model = qdq(nodes, {"s": np.float32(1), "z": np.array(zero, kind)}, [1, 9], [1, 9], "float32", kind)
        for target in ("x86", "x86-avx2"):
            np.testing.assert_array_equal(compile_model(model, target)(x), onnx_runtime(model, x))


def test_arm_has_dot_products_too():
    """Signed bytes, lowered by 128; the code is made here and looked at."""
    import tvm

    for network in (convolution(**CONVOLUTIONS["plain"]), convolution(**CONVOLUTIONS["pointwise"])):
        module = pipeline("arm-dotprod")(import_model(network, None).module)
        rules = {facts.schedule for name, facts in facts_of(module).items() if "convolution" in name}
        assert rules == {"convolution"}
        built = tvm.compile(module, target=llvm_target("arm-dotprod"), relax_pipeline=None)
        parts = [built.mod, *built.mod.imports]
        assert any(re.search(r"\bsdot\b", part.inspect_source("asm")) for part in parts if part.kind == "llvm")


@pytest.mark.parametrize("name", ["odd channels", "an image", "signed", "signed depthwise", "groups"])
def test_arm_is_exact(name):
    machine, model = emulator(), convolution(**CONVOLUTIONS[name])
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    bounds = np.iinfo(CONVOLUTIONS[name].get("data", "uint8"))
    x = rng.integers(bounds.min, bounds.max + 1, shape).astype(bounds.dtype)
    x[0] = bounds.max
    result = machine.run(compile_model(model, "arm-dotprod"), torch.from_numpy(x))[0]
    np.testing.assert_array_equal(result.numpy(), onnx_integers.run(model, {"x": x})[0])


def test_products_on_arm_are_exact(tmp_path):
    machine = emulator()
    model, x = quantised("mlp", tmp_path, **KINDS["signed"])
    result = machine.run(compile_model(model, "arm-dotprod", x), torch.from_numpy(x))[0]
    np.testing.assert_array_equal(result.numpy(), onnx_integers.run(model, {"x": x})[0])


def test_without_the_instruction_floats_do_the_work(tmp_path):
    model, x = quantised("block", tmp_path, **KINDS["per channel"])
    result, wanted = compile_model(model, "x86-avx2", x)(x), onnx_runtime(model, x)
    assert (np.abs(result - wanted) / step_of(model)).max() < 3.01


def test_integers_are_tuned():
    model = convolution(**CONVOLUTIONS["plain"])
    target = get_target("x86")
    if not target.dots:
        pytest.skip("this machine has no dot products of bytes")
    work = workloads(import_model(model, None).module, target)[0]
    assert work.candidates[0].integers and len(work.candidates) > 1
    with Meter(target, 1) as meter:
        assert meter(work.candidates[0], work.candidates[1]).seconds


def test_a_product_that_might_overflow_stays_float():
    """A bias near the end of int32: the sum would wrap."""
    model = convolution(64, 16, 1, 4)
    for tensor in model.graph.initializer:
        if tensor.name == "b":
            tensor.CopyFrom(numpy_helper.from_array(np.full(16, 2**31 - 100, np.int32), "b"))
    x = np.full((2, 64, 4, 4), 255, np.uint8)
    np.testing.assert_array_equal(compile_model(model, "x86")(x), onnx_integers.run(model, {"x": x})[0])


def test_trained_network(data_dir, monkeypatch):
    """A network that was trained and quantised: the same classes as in ONNX Runtime."""
    monkeypatch.syspath_prepend(str(data_dir))
    from graphdata import cifar10, nchw

    model = onnx.load(data_dir / "onnx" / "resnet20_cifar10_qdq.onnx")
    name = model.graph.input[0].name
    artifact = compile_model(model, "x86", {name: np.zeros((1, 3, 32, 32), np.float32)})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    array = nchw(cifar10("test_a")[0][:50])
    same = [np.argmax(artifact(i[None])) == np.argmax(session.run(None, {name: i[None]})[0]) for i in array]
    assert np.mean(same) >= 0.98
