"""ONNX models compiled: what ONNX Runtime computes, or an error that says why not."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from graphprune.backends.compiler import compile_model
from graphprune.errors import CompileError, ExampleInputsError, FileFormatError, UnsupportedModelError

RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model(nodes, inputs, outputs=("y",), weights=None, opset=18, functions=(), domains=()):
    """A model from nodes `(type, inputs, outputs, attributes)`, examples of the inputs and named weights."""
    made = [
        helper.make_node(kind, ins.split(" "), outs.split(" "), domain=domain, **attributes)
        for domain, kind, ins, outs, attributes in nodes
    ]
    graph = helper.make_graph(
        made,
        "graph",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **dict(domains)}.items()]
    result = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(result.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": TensorProto.FLOAT, "tensor(bool)": TensorProto.BOOL, "tensor(int64)": TensorProto.INT64}
    for value, known in zip(graph.output, session.get_outputs(), strict=True):
        value.CopyFrom(helper.make_tensor_value_info(value.name, kinds[known.type], known.shape))
    del result.graph.output[:]
    result.graph.output.extend(graph.output)
    return result


def op(kind, ins, outs="y", domain="", **attributes):
    return domain, kind, ins, outs, attributes


def expected(given, feed):
    text = os.fspath(given) if isinstance(given, Path) else given.SerializeToString()
    return onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, feed)


def assert_same(given, feed, tolerance=1e-5):
    """Compile, run, compare with ONNX Runtime; returns the artifact."""
    artifact = compile_model(given, "x86", feed)
    got = artifact(**feed)
    want = expected(given, feed)
    got = [got] if len(want) == 1 else list(got)
    for have, should in zip(got, want, strict=True):
        assert have.dtype == should.dtype and have.shape == should.shape
        if should.dtype == np.float32:
            assert not np.isfinite(should).all() or should.size == 1 or should.std() > 0
            np.testing.assert_allclose(have, should, rtol=tolerance, atol=tolerance * max(1, np.nanmax(abs(should))))
        else:
            np.testing.assert_array_equal(have, should)
    return artifact


@pytest.mark.parametrize(
    "name, shapes",
    [
        ("mnist_cntk", {"Input3": (1, 1, 28, 28)}),
        ("super_resolution_x3", None),
        ("resnet20_cifar10_qdq", None),
        ("rfb320", {"input": (1, 3, 240, 320)}),
    ],
)
def test_real_models(name, shapes, data_dir):
    path = data_dir / "onnx" / f"{name}.onnx"
    session = onnxruntime.InferenceSession(path)
    shapes = shapes or {
        value.name: [n if isinstance(n, int) else 1 for n in value.shape] for value in session.get_inputs()
    }
    assert_same(path, {name: numbers(*shape) for name, shape in shapes.items()}, 1e-4)


def test_recurrent_network_with_branches(data_dir):
    """Both branches and the shape of the inputs are settled by the constant rate; the LSTM is unrolled."""
    given = onnx.load(data_dir / "onnx" / "silero_vad.onnx")
    rate = next(value for value in given.graph.input if value.name == "sr")
    given.graph.input.remove(rate)
    given.graph.initializer.append(numpy_helper.from_array(np.array(16000, np.int64), "sr"))
    assert_same(given, {"input": numbers(1, 576), "state": numbers(2, 1, 128)}, 1e-4)


@pytest.mark.parametrize("dynamo", [True, False])
def test_exports_of_torch(dynamo):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 22, 3, 2, 1), nn.BatchNorm2d(22), nn.Hardswish())
            self.deep = nn.Sequential(
                nn.Conv2d(11, 11, 3, 1, 1, groups=11), nn.PReLU(11), nn.Conv2d(11, 11, 1), nn.ReLU6()
            )
            self.head = nn.Sequential(nn.LayerNorm(22), nn.Linear(22, 7), nn.GELU())

        def forward(self, x):
            left, right = self.stem(x).chunk(2, 1)
            y = torch.cat([left, self.deep(right)], 1)
            y = y.view(y.shape[0], 2, 11, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
            return self.head(nn.functional.max_pool2d(y, 3, 2, 1).mean((2, 3)))

    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 17, 15)
    nn.init.uniform_(net.stem[1].running_var, 0.5, 1.5)
    if dynamo:
        pytest.importorskip("onnxscript")
        given = torch.onnx.export(net.eval(), (x,), dynamo=True, verbose=False).model_proto
    else:
        buffer = io.BytesIO()
        torch.onnx.export(net.eval(), (x,), buffer, dynamo=False)
        given = onnx.load_from_string(buffer.getvalue())
    name = given.graph.input[0].name
    artifact = assert_same(given, {name: x.numpy()})
    np.testing.assert_allclose(artifact(x.numpy()), net(x).detach().numpy(), rtol=1e-4, atol=1e-5)


X = numbers(2, 5, 7, 6)
W = numbers(9, 5, 3, 3)
M = numbers(4, 6)
CONV = op("Conv", "x w", "c", pads=[1, 1, 1, 1])
HOLES = np.array([[1, -np.inf, np.inf, np.nan], [-np.inf] * 4], np.float32)

# nodes, inputs, weights, opset
OPERATORS = {
    "conv_same_upper": ([op("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2])], {"x": X}, {"w": W}, 18),
    "conv_same_lower": ([op("Conv", "x w", auto_pad="SAME_LOWER", strides=[2, 3])], {"x": X}, {"w": W}, 11),
    "conv_valid": ([op("Conv", "x w", auto_pad="VALID", dilations=[2, 1])], {"x": X}, {"w": W}, 7),
    "max_pool_same_lower": ([CONV, op("MaxPool", "c", auto_pad="SAME_LOWER", kernel_shape=[2, 3], strides=[2, 2])], {"x": X}, {"w": W}, 12),
    "max_pool_ceil": ([CONV, op("MaxPool", "c", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {"x": X}, {"w": W}, 12),
    "average_pool": ([CONV, op("AveragePool", "c", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1])], {"x": X}, {"w": W}, 7),
    "average_pool_with_border": ([CONV, op("AveragePool", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)], {"x": X}, {"w": W}, 18),
    "lp_pool": ([op("LpPool", "x", kernel_shape=[2, 2], strides=[2, 2])], {"x": X}, {}, 18),
    "global_pools": ([CONV, op("GlobalMaxPool", "c", "a"), op("GlobalAveragePool", "c", "b"), op("Add", "a b")], {"x": X}, {"w": W}, 8),
    "conv_transpose": ([op("ConvTranspose", "x w", strides=[2, 2], output_shape=[14, 13])], {"x": X}, {"w": numbers(5, 4, 3, 3)}, 11),
    "clip_attributes": ([CONV, op("Clip", "c", min=0.0, max=0.5)], {"x": X}, {"w": W}, 7),
    "clip_inputs": ([CONV, op("Clip", "c  high")], {"x": X, "high": np.array(0.3, np.float32)}, {"w": W}, 13),
    "gemm": ([op("Gemm", "x w b", transA=1, transB=1, alpha=0.5, beta=2.0)], {"x": M}, {"w": numbers(3, 4), "b": numbers(3)}, 7),
    "gemm_of_inputs": ([op("Gemm", "x w", transB=1)], {"x": M, "w": numbers(3, 6)}, {}, 13),
    "prelu": ([CONV, op("PRelu", "c s")], {"x": X}, {"w": W, "s": numbers(9, 1, 1)}, 9),
    "gather_scalar": ([op("Gather", "x i", axis=1)], {"x": X}, {"i": np.int64(-2)}, 13),
    "gather_run": ([op("Gather", "x i", axis=1)], {"x": X}, {"i": np.array([0, 2, 4])}, 13),
    "gather_mixed": ([op("Gather", "x i", axis=-1)], {"x": X}, {"i": np.array([[5, 0], [-1, 2]])}, 13),
    "gather_computed": ([op("Gather", "x i", axis=0)], {"x": M, "i": np.array([3, -1, 0])}, {}, 13),
    "layer_norm_short_scale": ([op("LayerNormalization", "x s", axis=2)], {"x": X}, {"s": numbers(6)}, 17),
    "layer_norm_statistics": ([op("LayerNormalization", "x s", "n m d", axis=3), op("Add", "n m", "a"), op("Mul", "a d")], {"x": X}, {"s": numbers(6)}, 17),
    "batch_norm": ([op("BatchNormalization", "x a a a v")], {"x": X}, {"a": numbers(5), "v": abs(numbers(5)) + 1}, 9),
    "group_norm": ([op("GroupNormalization", "x a b", num_groups=5)], {"x": X}, {"a": numbers(5), "b": numbers(5)}, 21),
    "einsum": ([op("Einsum", "x w", equation="bchw,kc->bhwk")], {"x": X}, {"w": numbers(3, 5)}, 12),
    "power": ([op("Pow", "x two")], {"x": X}, {"two": np.int64(2)}, 12),
    "is_inf": ([op("IsInf", "x", detect_negative=0)], {"x": HOLES}, {}, 10),
    "maximum_of_nothing": ([op("ReduceMax", "x", axes=[1])], {"x": HOLES[1:]}, {}, 13),
    "shapes": ([op("Shape", "x", "s", start=1, end=3), op("Concat", "one s rest", "t", axis=0), op("Reshape", "x t")], {"x": X}, {"one": np.array([1]), "rest": np.array([-1])}, 15),
    "defined_by_others": ([op("Celu", "x", "a", alpha=0.7), op("MeanVarianceNormalization", "a")], {"x": X}, {}, 13),
    "quantised": ([op("QuantizeLinear", "x s z", "q"), op("DequantizeLinear", "q s z")], {"x": X}, {"s": np.float32(0.05), "z": np.int8(3)}, 13),
    "fused_matmul": ([op("FusedMatMul", "x w", domain="com.microsoft", transB=1, alpha=0.25)], {"x": M}, {"w": numbers(3, 6)}, 18),
    "skip_layer_norm": ([op("SkipLayerNormalization", "x k s b", domain="com.microsoft")], {"x": numbers(2, 3, 6), "k": numbers(2, 3, 6)}, {"s": numbers(6), "b": numbers(6)}, 18),
    "gelus": ([op("Gelu", "x", "a", domain="com.microsoft"), op("FastGelu", "a", "b", domain="com.microsoft"), op("QuickGelu", "b", domain="com.microsoft")], {"x": X}, {}, 18),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name):
    nodes, inputs, weights, opset = OPERATORS[name]
    assert_same(model(nodes, inputs, weights=weights, opset=opset, domains=[("com.microsoft", 1)]), inputs)


RESIZES = [
    {"mode": "nearest"},
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "nearest", "coordinate_transformation_mode": "align_corners", "nearest_mode": "ceil"},
    {"mode": "linear"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
]


@pytest.mark.parametrize("sizes", [(2, 5, 14, 12), (2, 5, 11, 4)])
@pytest.mark.parametrize("attributes", RESIZES, ids=str)
def test_resize(attributes, sizes):
    weights = {"sizes": np.array(sizes)}
    assert_same(
        model([op("Resize", "x   sizes", **attributes)], {"x": X}, weights=weights),
        {"x": X},
    )


@pytest.mark.parametrize("kind, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent(kind, gates, direction):
    ways, size = 1 + (direction == "bidirectional"), 5
    x = numbers(4, 2, 3)
    weights = {
        "w": numbers(ways, gates * size, 3),
        "r": numbers(ways, gates * size, size),
        "b": numbers(ways, 2 * gates * size),
    }
    options = {"linear_before_reset": 1} if kind == "GRU" else {}
    node = op(kind, "x w r b", "a h", hidden_size=size, direction=direction, **options)
    assert_same(model([node], {"x": x}, ("a", "h"), weights), {"x": x})


def test_dynamic_axes_are_fixed_by_examples():
    given = model([op("Relu", "x")], {"x": M})
    given.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    given.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert assert_same(given, {"x": numbers(9, 6)}).inputs[0].shape == (9, 6)
    assert compile_model(given, "x86", numbers(3, 6)).outputs[0].shape == (3, 6)
    with pytest.raises(ExampleInputsError, match=r"'x' has the shape \[batch, 6\]"):
        compile_model(given, "x86")
    with pytest.raises(ExampleInputsError, match=r"its example has \[3, 5\]"):
        compile_model(given, "x86", (numbers(3, 5),))
    with pytest.raises(ExampleInputsError, match="no input 'z'"):
        compile_model(given, "x86", {"z": M})


def test_kinds_of_models(tmp_path):
    given = model([op("Exp", "in.1", "a"), op("Neg", "a", "b")], {"in.1": M}, ("a", "b"))
    before = given.SerializeToString()
    path = tmp_path / "model.onnx"
    onnx.save(given, path)
    for kind in (given, onnx_ir.from_proto(given), onnx_graphsurgeon.import_onnx(given), path, str(path)):
        artifact = compile_model(kind, "x86")
        a, b = artifact(M)
        assert [spec.name for spec in (*artifact.inputs, *artifact.outputs)] == ["in.1", "a", "b"]
        np.testing.assert_allclose(a, np.exp(M), rtol=1e-5)
        np.testing.assert_array_equal(b, -a)
    assert given.SerializeToString() == before


def test_weights_in_a_file_of_their_own(tmp_path):
    given = model([op("MatMul", "x w")], {"x": M}, weights={"w": numbers(6, 40)})
    want = expected(given, {"x": M})[0]
    path = tmp_path / "model.onnx"
    onnx.save(given, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").stat().st_size > 900
    np.testing.assert_allclose(compile_model(path, "x86")(M), want, rtol=1e-4, atol=1e-5)


def test_functions_of_the_model():
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Celu", ["b"], ["c"])]
    function = helper.make_function("mine", "twice", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    given = model([op("twice", "x", domain="mine")], {"x": X}, functions=[function], domains=[("mine", 1)])
    assert_same(given, {"x": X})


def test_branch_that_is_taken():
    def branch(kind, name):
        return helper.make_graph([helper.make_node(kind, ["x"], ["r"]), helper.make_node("Abs", ["r"], [name])], kind, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, M.shape)])  # fmt: skip

    for flag in (True, False):
        node = op("If", "flag", then_branch=branch("Sin", "t"), else_branch=branch("Cos", "e"))
        assert_same(model([node], {"x": M}, weights={"flag": np.array(flag)}), {"x": M})
    given = model([node], {"x": M, "flag": np.array(True)})
    with pytest.raises(CompileError, match="control flow"):
        compile_model(given, "x86", {"x": M, "flag": np.array(True)})


REFUSED = {
    "NonZero": (op("NonZero", "x"), "the size of its result depends"),
    "SequenceConstruct": (op("SequenceConstruct", "x x", "y"), "sequences"),
    "RandomNormalLike": (op("RandomNormalLike", "x"), "RandomNormalLike"),
    "Relu": (op("Relu", "x", domain="com.example"), "com.example.Relu"),
    "BatchNormalization": (op("BatchNormalization", "x a a a a", "y p q", training_mode=1), "training mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_node(name):
    node, message = REFUSED[name]
    graph = helper.make_graph(
        [helper.make_node(node[1], node[2].split(), node[3].split(), "guilty", domain=node[0], **node[4])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None) if name != "SequenceConstruct" else helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(3, np.float32), "a")],
    )  # fmt: skip
    if name != "SequenceConstruct":
        graph.output[0].type.tensor_type.shape.dim.add()
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    with pytest.raises(CompileError, match=f"'guilty' .*{message}"):
        compile_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), "x86")


def test_other_element_types_are_refused_by_name():
    for kind, name in (
        (TensorProto.DOUBLE, "double"),
        (TensorProto.STRING, "string"),
    ):
        values = [helper.make_tensor_value_info(n, kind, [2]) for n in "xy"]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", values[:1], values[1:])
        with pytest.raises(UnsupportedModelError, match=f"'x' is {name}"):
            compile_model(helper.make_model(graph), "x86")


def test_damaged_files(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model([op("Relu", "x")], {"x": M}).SerializeToString()[:-20])
    with pytest.raises(FileFormatError):
        compile_model(path, "x86")
    path.write_bytes(b"hello")
    with pytest.raises(FileFormatError):
        compile_model(path, "x86")
    with pytest.raises(FileFormatError, match="does not exist"):
        compile_model(tmp_path / "none.onnx", "x86")
    with pytest.raises(UnsupportedModelError, match="cannot compile a int"):
        compile_model(3, "x86")


def test_one_framework_is_enough(tmp_path):
    """ONNX models are compiled where torch is missing, and torch modules where onnx is."""
    path = tmp_path / "model.onnx"
    onnx.save(model([op("Relu", "x")], {"x": M}), path)
    for missing, program in (
        ("torch", f"compile_model({str(path)!r}, 'x86')"),
        ("onnx", "import torch; compile_model(torch.nn.ReLU(), 'x86', torch.ones(2))"),
    ):
        text = f"import sys; sys.modules[{missing!r}] = None\n"
        text += f"from graphprune.backends.compiler import compile_model\n{program}"
        root = Path(__file__).parents[1]
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=root)
        assert done.returncode == 0, done.stderr
