"""Models in float64: every expansion against the kernels in float32, and against references in float64."""

import itertools
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphprune.errors import VerifyError
from graphprune.frontends.onnx.kernels import REFUSING, signature
from graphprune.frontends.onnx.run import Runner, outputs
from graphprune.frontends.onnx.wide import EXPANSIONS
from graphprune.frontends.onnx.widen import widened

RNG = np.random.default_rng(7)


def numbers(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def model_of(op, feeds, opset=18, stored=(), outputs=1, domain="", elem=TensorProto.FLOAT, **attrs):
    """A model of one node: arrays are inputs, those named in `stored` initializers, None is left out."""
    names = [name if array is not None else "" for name, array in feeds.items()]
    node = helper.make_node(
        op, names, [f"y{place}" for place in range(outputs)], name="the_node", domain=domain, **attrs
    )
    kept = {name: array for name, array in feeds.items() if name in stored and array is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
        if array is not None and name not in kept
    ]
    results = [helper.make_tensor_value_info(name, elem, None) for name in node.output]
    tensors = [numpy_helper.from_array(array, name) for name, array in kept.items()]
    graph = helper.make_graph([node], "one", inputs, results, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run_wide(model, feeds):
    """The outputs in float64; it is an error where anything stays in float32."""
    given = {value.name: feeds[value.name] for value in model.graph.input}
    runner = Runner(ir.from_proto(model), given)
    assert runner.precision.name == "float64", runner.precision
    return runner(given)


def plain(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: feeds[value.name] for value in model.graph.input})


def reference(model, feeds):
    """The reference implementation of the standard on inputs in float64."""
    wide = {
        value.name: feeds[value.name].astype(np.float64) if feeds[value.name].dtype == np.float32 else feeds[value.name]
        for value in model.graph.input
    }
    return ReferenceEvaluator(model).run(None, wide)


def agree(found, expected, tolerance):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == np.shape(other)
        scale = max(float(np.abs(other).max(initial=0)), 1e-30)
        assert float(np.abs(one.astype(np.float64) - other).max(initial=0)) <= tolerance * scale


def check(model, feeds, expected=None, tolerance=1e-12):
    found = run_wide(model, feeds)
    assert all(array.dtype in (np.float64, np.int64, np.bool_) for array in found)
    agree(found, plain(model, feeds), 2e-5)
    if expected is not None:
        agree(found, expected, tolerance)


def torch_conv(x, w, bias, transposed=False, **options):
    import torch

    dims = x.ndim - 2
    name = f"conv_transpose{dims}d" if transposed else f"conv{dims}d"
    tensors = [None if one is None else torch.from_numpy(one.astype(np.float64)) for one in (x, w, bias)]
    return getattr(torch.nn.functional, name)(*tensors, **options).numpy()


CONVOLUTIONS = [
    dict(zip(("dims", "kernel", "stride", "dilation", "pad", "groups"), case, strict=True))
    for case in itertools.product((1, 2, 3), (1, 3), (1, 2), (1, 2), (0, 1), (1, 2, 4))
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: "-".join(map(str, case.values())))
def test_convolution(case):
    dims, groups = case["dims"], case["groups"]
    x = numbers(2, 4, *(7, 6, 5)[:dims])
    feeds = {"x": x, "w": numbers(8, 4 // groups, *[case["kernel"]] * dims), "b": numbers(8)}
    repeated = {
        "strides": [case["stride"]] * dims,
        "dilations": [case["dilation"]] * dims,
        "pads": [case["pad"]] * 2 * dims,
    }
    model = model_of("Conv", feeds, stored=("w", "b"), group=groups, **repeated)
    options = {"stride": case["stride"], "dilation": case["dilation"], "padding": case["pad"], "groups": groups}
    check(model, feeds, [torch_conv(*feeds.values(), **options)])


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["Conv", "AveragePool", "LpPool", "MaxPool", "ConvTranspose"])
def test_automatic_padding(op, auto_pad):
    feeds = {"x": numbers(1, 3, 8, 7)} | ({"w": numbers(3, 3, 3, 2)} if op.startswith("Conv") else {})
    kernel = {} if op.startswith("Conv") else {"kernel_shape": [3, 2]}
    check(model_of(op, feeds, auto_pad=auto_pad, strides=[2, 2], **kernel), feeds)


def test_uneven_padding_and_opset_7():
    feeds = {"x": numbers(1, 2, 5, 6), "w": numbers(3, 2, 3, 3)}
    for opset in (7, 11, 22):
        check(model_of("Conv", feeds, opset, pads=[0, 2, 1, 0], strides=[1, 2]), feeds)


def test_large_windows_are_worked_off_in_pieces(monkeypatch):
    from graphprune.frontends.onnx import wide_windows

    monkeypatch.setattr(wide_windows, "LARGEST", 500)
    feeds = {"x": numbers(1, 4, 9, 9), "w": numbers(4, 2, 3, 3)}
    check(model_of("Conv", feeds, group=2), feeds, [torch_conv(feeds["x"], feeds["w"], None, groups=2)])
    feeds = {"x": numbers(1, 4, 9, 9)}
    check(model_of("AveragePool", feeds, kernel_shape=[3, 3]), feeds)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride, pad, more", [(1, 0, 0), (2, 1, 1), (3, 1, 0), (2, 0, 1)])
def test_transposed_convolution(dims, groups, stride, pad, more):
    feeds = {"x": numbers(2, 4, *(5, 4, 3)[:dims]), "w": numbers(4, 3, *[3] * dims), "b": numbers(3 * groups)}
    repeated = {"strides": [stride] * dims, "pads": [pad] * 2 * dims, "output_padding": [more] * dims}
    model = model_of("ConvTranspose", feeds, group=groups, **repeated)
    options = {"stride": stride, "padding": pad, "output_padding": more, "groups": groups}
    check(model, feeds, [torch_conv(*feeds.values(), transposed=True, **options)])


def test_transposed_convolution_to_a_given_size():
    feeds = {"x": numbers(1, 2, 5, 5), "w": numbers(2, 3, 3, 3)}
    check(model_of("ConvTranspose", feeds, strides=[2, 2], output_shape=[10, 9]), feeds)
    check(model_of("ConvTranspose", feeds, dilations=[2, 2], pads=[1, 0, 0, 1]), feeds)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
def test_average_pool(include, ceil, pads):
    feeds = {"x": numbers(2, 3, 8, 7)}
    options = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": pads, "ceil_mode": ceil, "count_include_pad": include}
    model = model_of("AveragePool", feeds, 19, **options)
    check(model, feeds)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("opset", [7, 13])
def test_global_pool(op, opset):
    feeds = {"x": numbers(2, 3, 5, 4)}
    check(model_of(op, feeds, opset), feeds)


@pytest.mark.parametrize("opset", [7, 12, 22])
def test_max_pool(opset):
    feeds = {"x": numbers(2, 3, 8, 7)}
    check(model_of("MaxPool", feeds, opset, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), feeds)


RESIZES = [
    {"mode": mode, "coordinate_transformation_mode": how}
    for mode in ("nearest", "linear", "cubic")
    for how in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
]


@pytest.mark.parametrize("options", RESIZES, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("opset", [11, 13, 19])
def test_resize(options, opset):
    x, empty = numbers(1, 3, 6, 5), np.zeros(0, np.float32)
    feeds = {"x": x, "roi": empty, "scales": np.array([1, 1, 2, 1.5], np.float32)}
    check(model_of("Resize", feeds, opset, stored=("roi", "scales"), **options), feeds)
    if opset > 11:
        sized = {"x": x, "roi": empty, "scales": None, "sizes": np.array([1, 3, 4, 9])}
        check(model_of("Resize", sized, opset, stored=("roi", "sizes"), **options), sized)


def test_resize_by_antialias_and_upsample():
    feeds = {"x": numbers(1, 3, 8, 9), "roi": None, "scales": np.array([1, 1, 0.5, 0.4], np.float32)}
    check(model_of("Resize", feeds, 18, stored=("scales",), mode="linear", antialias=1), feeds)
    for opset, mode in itertools.product((7, 9), ("nearest", "linear")):
        scales = np.array([1, 1, 2, 3], np.float32)
        old = {"x": feeds["x"]} | ({"scales": scales} if opset > 8 else {})
        given = {"mode": mode} | ({} if opset > 8 else {"scales": scales.tolist()})
        check(model_of("Upsample", old, opset, stored=("scales",), **given), old)


POINTWISE = {
    "Elu": [{}, {"alpha": 0.7}],
    "Celu": [{"alpha": 0.7}],
    "Selu": [{}, {"alpha": 1.2, "gamma": 0.9}],
    "LeakyRelu": [{}, {"alpha": 0.3}],
    "ThresholdedRelu": [{}, {"alpha": 0.4}],
    "Softplus": [{}],
    "Softsign": [{}],
    "HardSigmoid": [{}, {"alpha": 0.3, "beta": 0.4}],
    "Sinh": [{}],
    "Cosh": [{}],
    "Tan": [{}],
    "Erf": [{}],
}
CASES = [(op, attrs, opset) for op, given in POINTWISE.items() for attrs in given for opset in (12, 18, 22)]


@pytest.mark.parametrize("op, attrs, opset", CASES)
def test_pointwise(op, attrs, opset):
    feeds = {"x": numbers(3, 40) * 2}
    model = model_of(op, feeds, opset, **attrs)
    if op == "Erf":
        from scipy.special import erf

        check(model, feeds, [erf(feeds["x"].astype(np.float64))], 2e-15)
    else:  # the reference holds numbers of attributes in float32 in places
        check(
            model,
            feeds,
            reference(model, feeds),
            1e-6 if attrs or op in ("Selu", "LeakyRelu", "HardSigmoid") else 1e-12,
        )


def test_erf_is_exact_to_rounding():
    from scipy.special import erf

    x = np.concatenate([np.linspace(-8, 8, 20001), [0.0, 1e-300, -1e-9, 1e30, np.inf, -np.inf]])
    feeds = {"x": x.astype(np.float32)}
    found = run_wide(model_of("Erf", feeds), feeds)[0]
    assert np.abs(found - erf(feeds["x"].astype(np.float64))).max() < 1e-14
    assert found[20001] == 0


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    import torch

    feeds = {"x": numbers(3, 40) * 2}
    model = model_of("Gelu", feeds, 20, approximate=approximate)
    expected = torch.nn.functional.gelu(torch.from_numpy(feeds["x"]).double(), approximate=approximate).numpy()
    check(model, feeds, [expected], 2e-8)  # the standard writes numbers such as sqrt(2) in float32


@pytest.mark.parametrize("opset", [9, 16, 22])
def test_sums_of_inputs_and_slopes(opset):
    feeds = {"a": numbers(2, 3, 4), "b": numbers(2, 3, 4), "c": numbers(3, 1)}
    check(model_of("Mean", feeds, opset), feeds)
    sloped = {"x": numbers(2, 3, 4), "slope": numbers(3, 1)}
    check(model_of("PRelu", sloped, opset, stored=("slope",)), sloped)
    feeds = {"x": numbers(2, 3, 4)}
    check(model_of("HardSwish", feeds, max(opset, 14)), feeds)
    check(
        model_of("NonZero", {"x": np.float32([[0, 1e-30, 2], [0, 0, -1]])}, opset, elem=TensorProto.INT64),
        {"x": np.float32([[0, 1e-30, 2], [0, 0, -1]])},
    )
    check(model_of("Clip", feeds, 7, min=-0.5, max=0.25), feeds)
    check(model_of("Clip", feeds, 7, max=0.25), feeds)


@pytest.mark.parametrize("opset", [9, 13, 18, 22])
def test_normalisations(opset):
    x = numbers(2, 4, 5, 3)
    feeds = {"x": x, "scale": numbers(4), "bias": numbers(4)}
    check(model_of("InstanceNormalization", feeds, opset, epsilon=1e-3), feeds)
    check(model_of("LRN", {"x": x}, opset, size=3, alpha=0.1, beta=0.6, bias=1.5), {"x": x})
    check(model_of("MeanVarianceNormalization", {"x": x}, opset), {"x": x})
    if opset >= 17:
        layer = {"x": x, "scale": numbers(3), "bias": numbers(3)}
        check(model_of("LayerNormalization", layer, opset), layer)
    if opset >= 21:
        grouped = {"x": x, "scale": numbers(4), "bias": numbers(4)}
        check(model_of("GroupNormalization", grouped, opset, num_groups=2), grouped)


def test_operators_of_the_newest_opsets():
    x = numbers(2, 4, 8)
    feeds = {"x": x, "scale": numbers(8)}
    model = model_of("RMSNormalization", feeds, 23, epsilon=1e-3)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + np.float32(1e-3)) * feeds["scale"]
    agree(run_wide(model, feeds), [expected], 1e-12)
    qkv = {"q": numbers(1, 2, 5, 4), "k": numbers(1, 2, 6, 4), "v": numbers(1, 2, 6, 4)}
    check(model_of("Attention", qkv, 23), qkv)
    rotated = {"x": numbers(1, 2, 5, 4), "cos": numbers(1, 5, 2), "sin": numbers(1, 5, 2)}
    check(model_of("RotaryEmbedding", rotated, 23), rotated)


@pytest.mark.parametrize("axis, shape, size", [(0, (4, 3), ()), (0, (4, 3), 4), (1, (4, 3, 2), 3), (-1, (4, 3), 3)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("opset", [13, 19, 21])
def test_quantisation(axis, shape, size, dtype, opset):
    scale = np.asarray(RNG.uniform(0.01, 2, size), np.float32)
    zero = np.asarray(RNG.integers(1, 20, size), dtype)
    low = np.asarray(RNG.integers(-100 if dtype == np.int8 else 0, 100, shape)).astype(dtype)
    feeds = {"x": low, "scale": scale, "zero": zero}
    model = model_of("DequantizeLinear", feeds, opset, axis=axis)
    spread = (
        [1] * len(shape) if size == () else [-1 if place == axis % len(shape) else 1 for place in range(len(shape))]
    )
    wide = (low.astype(float) - zero.astype(float).reshape(spread)) * scale.astype(float).reshape(spread)
    check(model, feeds, [wide])
    feeds = {"x": numbers(*shape) * 30, "scale": scale, "zero": zero}
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of("QuantizeLinear", feeds, opset, axis=axis, elem=elem)
    (found,) = run_wide(model, feeds)
    assert found.dtype == dtype and np.array_equal(found, plain(model, feeds)[0])


def test_quantisation_in_blocks():
    feeds = {"x": RNG.integers(-100, 100, (4, 6)).astype(np.int8), "scale": np.abs(numbers(4, 2)) + 0.1}
    check(model_of("DequantizeLinear", feeds, 21, axis=1, block_size=3), feeds)


RECURRENT = [
    (op, direction, *flags)
    for op in ("LSTM", "GRU", "RNN")
    for direction in ("forward", "reverse", "bidirectional")
    for flags in ((False, False, False), (True, True, False), (True, False, True))
]


@pytest.mark.parametrize("op, direction, biased, begun, ragged", RECURRENT)
@pytest.mark.parametrize("opset", [9, 14, 22])
def test_recurrent(op, direction, biased, begun, ragged, opset):
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    feeds = {
        "x": numbers(5, 2, 3),
        "w": numbers(ways, gates * 4, 3),
        "r": numbers(ways, gates * 4, 4),
        "b": numbers(ways, gates * 8) if biased else None,
        "lengths": np.array([5, 3], np.int32) if ragged else None,
        "h": numbers(ways, 2, 4) if begun else None,
    }
    if op == "LSTM":
        feeds |= {"c": numbers(ways, 2, 4) if begun else None, "p": numbers(ways, 12) if biased else None}
    options = {"linear_before_reset": int(begun)} if op == "GRU" else {}
    count = 3 if op == "LSTM" else 2
    check(model_of(op, feeds, opset, outputs=count, hidden_size=4, direction=direction, **options), feeds)


def test_recurrent_against_torch():
    import torch

    layer = torch.nn.LSTM(3, 4).double()
    x = numbers(5, 2, 3)

    def gates(tensor):  # torch: i f g o; ONNX: i o f g
        i, f, g, o = tensor.detach().numpy().astype(np.float32).reshape(4, 4, -1)
        return np.concatenate([i, o, f, g])

    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter.float().double())
        expected = layer(torch.from_numpy(x).double())[0].numpy()
    bias = np.concatenate([gates(layer.bias_ih_l0).ravel(), gates(layer.bias_hh_l0).ravel()])
    feeds = {"x": x, "w": gates(layer.weight_ih_l0)[None], "r": gates(layer.weight_hh_l0)[None], "b": bias[None]}
    found = run_wide(model_of("LSTM", feeds, 14, hidden_size=4), feeds)[0]
    agree([found[:, 0]], [expected], 1e-12)


def test_operators_that_onnxruntime_fuses():
    x, square = numbers(2, 5, 8), numbers(8, 8)
    for op, feeds in {
        "Gelu": {"x": x},
        "BiasGelu": {"x": x, "b": numbers(8)},
        "FastGelu": {"x": x, "b": numbers(8)},
        "QuickGelu": {"x": x},
        "FusedMatMul": {"x": x, "w": square},
        "SkipLayerNormalization": {"x": x, "s": numbers(2, 5, 8), "g": numbers(8), "b": numbers(8)},
    }.items():
        check(model_of(op, feeds, domain="com.microsoft"), feeds)
    image = {"x": numbers(1, 4, 6, 6), "w": numbers(4, 4, 3, 3), "b": numbers(4), "z": numbers(1, 4, 4, 4)}
    check(model_of("FusedConv", image, domain="com.microsoft", activation="Relu"), image)
    slope = [0.3]
    check(model_of("FusedConv", image, domain="com.microsoft", activation="LeakyRelu", activation_params=slope), image)
    flat = {"a": numbers(3, 4), "b": numbers(5, 4), "c": numbers(5)}
    check(model_of("FusedGemm", flat, domain="com.microsoft", activation="Relu", transB=1), flat)


def test_fused_attention():
    packed = {"x": numbers(2, 5, 8), "w": numbers(8, 24), "b": numbers(24)}
    check(model_of("Attention", packed, domain="com.microsoft", num_heads=2), packed)
    parts = {"q": numbers(2, 5, 8), "k": numbers(2, 6, 8), "v": numbers(2, 6, 8), "b": numbers(24)}
    check(model_of("MultiHeadAttention", parts, domain="com.microsoft", num_heads=4), parts)


def test_an_operator_without_float64_is_remembered():
    feeds = {"x": numbers(2, 3)}
    runner = Runner(ir.from_proto(model_of("Atan", feeds)), feeds)
    assert runner.precision.name == "float64, but Atan in float32" and runner.precision.tolerance == 1e-5
    agree(runner(feeds), [np.arctan(feeds["x"])], 1e-6)


def test_integers_run_as_they_are():
    feeds = {
        "x": RNG.integers(0, 255, (1, 3, 6, 6)).astype(np.uint8),
        "xs": np.float32(0.02),
        "xz": np.uint8(3),
        "w": RNG.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "ys": np.float32(0.5),
        "yz": np.uint8(1),
    }
    feeds = {name: np.asarray(array) for name, array in feeds.items()}
    stored = tuple(name for name in feeds if name != "x")
    model = model_of("QLinearConv", feeds, 13, stored=stored, elem=TensorProto.UINT8)
    (found,) = run_wide(model, feeds)
    assert np.array_equal(found, plain(model, feeds)[0]) and found.std() > 0


@pytest.mark.parametrize("elem", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_becomes_double(elem):
    text = (
        '<ir_version: 9, opset_import: ["": 17]> net (T[1, 4] x) => (T[1, 4] y) '
        "{ c = Constant <value = float {0.5}> () d = CastLike (c, x) z = Mul (x, d) e = Erf (z) "
        "f = Cast <to = 1> (e) g = Cast <to = CODE> (f) y = Mul (g, g) }"
    )
    name = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}[elem]
    model = onnx.parser.parse_model(text.replace("T[", f"{name}[").replace("CODE", str(elem)))
    from scipy.special import erf

    x = np.array([[0.25, 1, -2, 0.1]])
    assert np.abs(outputs(ir.from_proto(model), {"x": x})[0] - erf(x / 2) ** 2).max() < 1e-15


BRANCHES = """<ir_version: 9, opset_import: ["": 17]>
net (float[2, 3] x, bool c) => (float[2, 3] y)
<float[1] k = {0.1}>
{
  a = Erf (x)
  b = If (c) <
    then_branch = one () => (float[2, 3] p) { h = Constant <value_float = 0.5> () q = Mul (a, h) p = Erf (q) },
    else_branch = two () => (float[2, 3] r) { r = Add (a, k) }
  >
  n = Constant <value = int64 {3}> ()
  t = Constant <value = bool {1}> ()
  y = Loop (n, t, b) <
    body = step (int64 i, bool s, float[2, 3] v) => (bool o, float[2, 3] w)
      { o = Identity (s) u = Erf (v) w = Add (u, x) }
  >
}"""


@pytest.mark.parametrize("branch", [True, False])
def test_inside_branches_and_loops(branch):
    from scipy.special import erf

    x = numbers(2, 3)
    found = outputs(ir.from_proto(onnx.parser.parse_model(BRANCHES)), {"x": x, "c": np.array(branch)})[0]
    wide = x.astype(np.float64)
    value = erf(0.5 * erf(wide)) if branch else erf(wide) + np.float32(0.1).astype(np.float64)
    for _ in range(3):
        value = erf(value) + wide
    assert np.abs(found - value).max() < 1e-14


def test_functions_of_the_model():
    text = """<ir_version: 9, opset_import: ["": 18, "own": 1]>
    net (float[2, 3] x) => (float[2, 3] y) { y = own.twice <by = 3.0> (x) }
    <domain: "own", opset_import: ["": 18]>
    twice <by> (a) => (b) { f = Constant <value_float : float = @by> () e = Erf (a) b = Mul (e, f) }"""
    from scipy.special import erf

    x = numbers(2, 3)
    found = outputs(ir.from_proto(onnx.parser.parse_model(text)), {"x": x})[0]
    assert np.abs(found - 3 * erf(x.astype(np.float64))).max() < 1e-14


def test_sizes_that_only_a_run_knows():
    """The positions of what is not zero size a convolution: its shape is seen in a run."""
    text = """<ir_version: 9, opset_import: ["": 17]> net (float[10] x) => (float[1, 2, n] y)
    <float[2, 1, 3] w = {1, 2, 3, 4, 5, 6}, int64[3] s = {1, 1, -1}>
    { p = NonZero (x) f = Cast <to = 1> (p) v = Reshape (f, s) y = Conv (v, w) }"""
    x = np.float32([0, 1, 0, 2, 3, 4, 0, 0, 5, 6])
    runner = Runner(ir.from_proto(onnx.parser.parse_model(text)), {"x": x})
    assert runner.precision.name == "float64"
    assert runner({"x": x})[0].shape == (1, 2, 4)


def test_the_model_given_is_not_touched():
    feeds = {"x": numbers(1, 4, 6, 6), "w": numbers(4, 4, 3, 3)}
    model = ir.from_proto(model_of("Conv", feeds, stored=("w",)))
    before = ir.to_proto(model).SerializeToString()
    runner = Runner(model, {"x": feeds["x"]}, ["y0"])
    assert len(runner({"x": feeds["x"]})) == 2
    assert ir.to_proto(model).SerializeToString() == before


def test_an_operator_that_nobody_knows_is_named():
    model = model_of("Mystery", {"x": numbers(2)}, domain="com.microsoft")
    with pytest.raises(VerifyError, match="Mystery"):
        outputs(ir.from_proto(model), {"x": numbers(2)})


def test_kernels_that_refuse_do_so():
    """Where ONNX Runtime learns them, they leave the list."""
    for domain, op in REFUSING:
        gates = 4 if op == "LSTM" else 3
        feeds = {"x": numbers(3, 1, 2), "w": numbers(1, gates * 2, 2), "r": numbers(1, gates * 2, 2)}
        feeds = {name: array.astype(np.float64) for name, array in feeds.items()}
        model = model_of(op, feeds, 14, domain=domain, elem=TensorProto.DOUBLE, hidden_size=2)
        with pytest.raises(Exception, match="does not support double"):
            plain(model, feeds)


def test_every_expansion_is_needed():
    """Nothing in the table has a kernel in float64 in every opset, but norms whose eps may need all its digits."""
    fine = ("DequantizeLinear", "QuantizeLinear", "RMSNormalization", "SimplifiedLayerNormalization")
    opsets = (7, 9, 11, 13, 18, 22)
    for domain, op in EXPANSIONS:
        known = [signature(domain, op, opset if domain == "" else 1) for opset in (*opsets, 23)]
        double = [one.runs({one.inputs[0][1]: ir.DataType.DOUBLE}) for one in known if one is not None]
        assert op in fine or not all(double), op


DATA = Path(os.environ.get("GRAPHPRUNE_DATA", ""), "onnx")


@pytest.mark.parametrize(
    "name", ["fastestdet", "mnist_cntk", "rfb320", "ppocr_cls", "resnet20_cifar10_qdq", "silero_vad"]
)
def test_real_models(name):
    """Float64 is close to float32; the weights of these are trained."""
    if not os.environ.get("GRAPHPRUNE_DATA"):
        pytest.skip("set GRAPHPRUNE_DATA to the folder with trained models")
    model = ir.load(DATA / f"{name}.onnx")
    given = {"input": (1, 576), "state": (2, 1, 128)} if name == "silero_vad" else {}
    feeds = {
        value.name: numbers(
            *given.get(
                value.name,
                [size if isinstance(size, int) else (1, 3, 32, 64)[place] for place, size in enumerate(value.shape)],
            )
        )
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    }
    feeds |= {"sr": np.array(16000)} if name == "silero_vad" else {}
    runner = Runner(model, feeds)
    assert runner.precision.name == "float64"
    session = onnxruntime.InferenceSession(DATA / f"{name}.onnx", providers=["CPUExecutionProvider"])
    agree(runner(feeds), session.run(None, feeds), 1e-3)


def test_many_models_share_nothing():
    model = ir.from_proto(model_of("Erf", {"x": numbers(2)}))
    assert widened(model).model is not widened(model).model
