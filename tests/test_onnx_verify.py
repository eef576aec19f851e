"""ONNX models against their masked originals: inexact and repaired norms, precision, inputs, and what must fail."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import graphprune
from graphprune.errors import ExampleInputsError, VerifyError
from graphprune.frontends.onnx import run
from graphprune.frontends.onnx.checking import first_difference, inputs_of, runner
from graphprune.frontends.onnx.masked import masked
from graphprune.frontends.onnx.read import prepare
from onnx_build import net, rows
from onnx_networks import NETWORKS

IMAGE = "float[2,3,8,8] x"
INEXACT = {
    "layer_norm": rows("m = LayerNormalization(r, g, h)", g=(16,), h=(16,)),
    "written_out": rows(
        "u = ReduceMean<axes=[-1]>(r) c = Sub(r, u) s = Mul(c, c) v = ReduceMean<axes=[-1]>(s) "
        "w = Sqrt(v) m = Div(c, w)"
    ),
    "group_norm": net(
        IMAGE,
        "a = Conv(x, w1) n = GroupNormalization<num_groups=4>(a, g, h) y = Conv(n, w2)",
        opset=21,
        out="float[2,4,8,8] y",
        w1=(16, 3, 1, 1),
        g=(16,),
        h=(16,),
        w2=(4, 16, 1, 1),
    ),
    "mean": rows("e = ReduceMean<axes=[2], keepdims=1>(r) m = Sub(r, e)"),
    "inside_heads": net(
        "float[2,5,6] x",
        "a = MatMul(x, w1) s = Reshape(a, split) n = LayerNormalization(s, g, h) "
        "j = Reshape(n, join) y = MatMul(j, w2)",
        out="float[2,5,4] y",
        w1=(6, 24),
        split=[2, 5, 3, 8],
        g=(8,),
        h=(8,),
        join=[2, 5, 24],
        w2=(24, 4),
    ),
}


def pruned(pattern, **options):
    plan = graphprune.analyze(pattern.model).plan(options.pop("sparsity", 0.4), **options)
    return plan, plan.apply(pattern.model)


@pytest.mark.parametrize("name", INEXACT)
def test_inexact_operators_see_what_lives(name):
    pattern = INEXACT[name]
    if name == "inside_heads":  # the policy is a part of the analysis
        plan = graphprune.analyze(pattern.model, policy="dims").plan(0.4, exact=False)
        slim = plan.apply(pattern.model)
    else:
        plan, slim = pruned(pattern, exact=False)
    assert not plan.exact and plan.kept
    seen = graphprune.verify(pattern.model, slim, plan)
    assert seen.error < 1e-12 and seen.sensitivity > 1e-3 and seen.precision.name == "float64"
    feeds = inputs_of(pattern.model, plan, None, 0)
    plain = run.Runner(masked(prepare(ir.from_proto(pattern.model)), plan), feeds)(feeds)
    assert np.abs(plain[0] - runner(slim, feeds)(feeds)[0]).max() > 1e-6, "masking alone would do"


@pytest.mark.parametrize("name", ["rms_norm", "rms_norm_written_out", "microsoft_simplified_layer_norm"])
def test_repairs_are_rounded_alike(name):
    plan, slim = pruned(NETWORKS[name](), exact=True)
    assert plan.repairs
    assert graphprune.verify(NETWORKS[name]().model, slim, plan).error < 1e-12


def changed(slim, name):
    wrong = onnx.ModelProto()
    wrong.CopyFrom(slim)
    (tensor,) = [one for one in wrong.graph.initializer if one.name == name]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), name))
    return wrong


@pytest.mark.parametrize("weight", ["w1", "w2"])
def test_names_the_first_node_that_differs(weight):
    pattern = NETWORKS["chain_opset_17"]()
    plan, slim = pruned(pattern)
    first = next(one.output[0] for one in slim.graph.node if weight in one.input)
    with pytest.raises(VerifyError, match=rf"first at {first}: Conv \(conv\) \[{first}\]: error"):
        graphprune.verify(pattern.model, changed(slim, weight), plan)
    feeds = inputs_of(pattern.model, plan, None, 0)
    assert first_difference(pattern.model, slim, plan, feeds) == "an output, although every operation agrees"


def test_the_wrong_channels_are_found_out():
    pattern = NETWORKS["chain_opset_17"]()
    plan, slim = pruned(pattern)
    for tensor in slim.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), "w1"))
    with pytest.raises(VerifyError, match="differs from the masked original"):
        graphprune.verify(pattern.model, slim, plan)


def test_precision_is_stated():
    pattern = rows("m = Atan(r)")
    plan, slim = pruned(pattern)
    seen = graphprune.verify(pattern.model, slim, plan)
    assert seen.precision.tolerance == 1e-5
    assert "(allowed 1e-05) in float64, but Atan in float32, 4 runs" in str(seen)
    with pytest.raises(VerifyError, match="float64, but Atan in float32"):
        graphprune.verify(pattern.model, changed(slim, "w2"), plan)


def test_other_sizes_are_run_too():
    """A program that is right for the example sizes alone is no slim form of one that takes any."""
    pattern = NETWORKS["gemm"]()
    plan, slim = pruned(pattern)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(slim)
    batch = plan.inputs["onnx"]["x"]["shape"][0]
    fixed.graph.initializer.append(onnx.numpy_helper.from_array(np.array([batch, 6]), "fixed"))
    fixed.graph.node[0].input[0] = "same"
    fixed.graph.node.insert(0, onnx.helper.make_node("Reshape", ["x", "fixed"], ["same"]))
    assert graphprune.verify(pattern.model, fixed, plan, thorough=False).runs == 1
    with pytest.raises(VerifyError):
        graphprune.verify(pattern.model, fixed, plan)
    assert graphprune.verify(pattern.model, slim, plan).runs == 4


def test_outputs_that_are_left_out():
    """Two recurrent layers of which only the last states are read: their first outputs have no names."""
    weights = {"w": (1, 48, 6), "r": (1, 48, 12), "v": (1, 48, 6), "s": (1, 48, 12), "w2": (12, 4)}
    body = "o, h = LSTM<hidden_size=12>(x, w, r) p, g = LSTM<hidden_size=12>(x, v, s) t = Add(h, g) y = MatMul(t, w2)"
    model = net("float[T,N,6] x", body, **weights).model
    for node in model.graph.node[:2]:
        node.output[0] = ""
    slim = graphprune.optimize(model, 0.4)
    before, after = graphprune.plan_of(slim).report["params"]
    assert after <= 0.6 * before
    assert graphprune.verify(model, slim).error <= 1e-9


def test_large_models_run_as_stored(monkeypatch):
    monkeypatch.setattr(run, "LARGEST", 100)
    pattern = rows("m = Erf(r)")
    plan, slim = pruned(pattern)
    seen = graphprune.verify(pattern.model, slim, plan)
    assert seen.precision.tolerance == 1e-4 and seen.precision.name.startswith("float32, as stored: more than")
    assert 0 < seen.error < 1e-5 or seen.error == 0
    with pytest.raises(VerifyError, match="as stored"):
        graphprune.verify(pattern.model, changed(slim, "w2"), plan)


def test_inputs():
    model = NETWORKS["chain_opset_17"]().model
    plan = graphprune.analyze(model).plan(0.3)
    first, again, other = (inputs_of(model, plan, None, seed)["x"] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other) and first.dtype == np.float32
    given = {"x": np.full_like(first, 5) + np.float32(0.01) * first}
    drawn = inputs_of(model, plan, given, 0)["x"]
    assert drawn.shape == first.shape and abs(drawn.mean() - 5) < 0.1 and drawn.std() < 0.1
    plan.inputs = None
    with pytest.raises(ExampleInputsError, match="example inputs"):
        inputs_of(model, plan, None, 0)


def test_whole_numbers_stay_in_their_range():
    model = net(
        "int64[2,5] i", "f = Cast<to=7>(i) e = Gather(table, f) y = MatMul(e, w)", table=(11, 6), w=(6, 4)
    ).model
    plan = graphprune.Plan({}, {}, {}, "", graphprune.analyze(model).inputs)
    drawn = np.stack([inputs_of(model, plan, None, seed)["i"] for seed in range(20)])
    assert drawn.min() == 0 and drawn.max() == 10 and drawn.dtype == np.int64
    given = {"i": np.array([[3, 4, 5, 3, 4]] * 2)}
    assert set(inputs_of(model, plan, given, 1)["i"].ravel().tolist()) <= {3, 4, 5}


def test_sizes_that_the_model_does_not_take():
    model = net("float[N,6] x", "y = MatMul(x, w)", out="float[N,4] y", w=(6, 4)).model
    with pytest.raises(VerifyError, match="Incompatible dimensions"):
        runner(model, {"x": np.zeros((2, 5), np.float32)})
    ready = runner(model, {"x": np.zeros((2, 6), np.float32)})
    with pytest.raises(VerifyError, match=r"sizes \{'x': \(3, 6\)\}"):
        ready({"x": np.zeros((3, 6), np.float32)})
    with pytest.raises(ExampleInputsError, match="'x'"):
        runner(model, {"x": np.zeros((2, 6), np.float32)})({})


@pytest.mark.parametrize("name", ["qdq_per_channel", "qdq_residual", "qlinear_conv", "matmul_integer"])
def test_quantised_channels_are_masked_to_their_zero(name):
    pattern = NETWORKS[name]()
    plan, slim = pruned(pattern, sparsity=pattern.sparsity)
    seen = graphprune.verify(pattern.model, slim, plan)
    assert seen.error < 1e-12 and seen.sensitivity > 1e-3 and seen.precision.name == "float64"


def test_a_single_number_may_be_kept():
    model = net("float[N,6] x", "a = Gemm(x, w1) s = Add(a, c) y = Gemm(s, w2)", w1=(6, 16), c=0.5, w2=(16, 4)).model
    assert graphprune.plan_of(graphprune.optimize(model, 0.4, keep=["c"])).kept
