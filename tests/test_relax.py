"""Modules of TVM: read, pruned, rewritten and verified; the oracle is torch, the runner is TVM itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn
from tvm import relax

import graphprune
import relax_oracle as oracle
from graphprune.errors import (
    ExampleInputsError,
    NothingToPruneError,
    PlanError,
    UnsupportedModelError,
    VerifyError,
)
from graphprune.frontends.relax.program import Program
from helpers import import_torchvision
from networks import Net, build, conv, pool

PATTERNS = """chain residual concat split chunk_glu shuffle depthwise grouped transposed squeeze_excite tied_head
    channel_pad grouped_heads unbind_qkv""".split()
MORE = """residual_flip swap_concat pixel_unshuffle grouped_residual conv1d mlp upsample repeat heads stack slice
    depthwise_multiplier transposed_grouped transposed_depthwise conv3d instance_norm einsum embedding roll_residual
    padded_heads strided_slice index_list zeros_concat nhwc repeat_interleave hard_coded_view two_outputs
    casts""".split()


@pytest.mark.parametrize("name", [*PATTERNS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_patterns_equal_the_masked_network(name: str) -> None:
    net, x = build(name)
    oracle.check(net, x, sparsity=0.2)


# ---- programs that importers do not make -----------------------------------------------------------------


def built(write, *shapes, dtype: str = "float32") -> tvm.IRModule:
    """A module whose main function is written by `write(builder, *inputs)`."""
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{place}", relax.TensorType(shape, dtype)) for place, shape in enumerate(shapes)]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(write(builder, *inputs))
        builder.emit_func_output(result)
    return builder.get()


def weight(*shape: int, seed: int = 0, dtype: str = "float32") -> relax.Expr:
    numbers = np.random.default_rng(seed + sum(shape)).uniform(0.5, 1.5, shape)
    return relax.const(numbers * np.random.default_rng(seed).choice([-1, 1], shape), dtype)


def positive(*shape: int) -> relax.Expr:
    return relax.const(np.random.default_rng(0).uniform(0.5, 1.5, shape), "float32")


def two_layers(b, x):
    hidden = b.emit(relax.op.nn.relu(b.emit(relax.op.matmul(x, weight(6, 16)))))
    return b.emit(relax.op.matmul(hidden, weight(16, 3)))


def dropped(plan: graphprune.Plan) -> int:
    return sum(before - after for _, _, before, after in plan.widths())


def test_other_layouts() -> None:
    """Axes in the order of TensorFlow: the channels come last, and kernels are (height, width, in, out)."""
    op = relax.op.nn

    def write(b, x):
        layout = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
        y = b.emit(op.conv2d(x, weight(3, 3, 3, 8), padding=1, **layout))
        normed = b.emit(op.batch_norm(y, weight(8), weight(8, seed=1), weight(8, seed=2), positive(8), axis=3))
        y = b.emit(op.relu(b.emit(relax.TupleGetItem(normed, 0))))
        y = b.emit(op.conv2d(y, weight(3, 3, 1, 8), padding=1, groups=8, **layout))
        y = b.emit(op.max_pool2d(y, (2, 2), (2, 2), layout="NHWC"))
        y = b.emit(op.conv2d(y, weight(1, 1, 8, 4), **layout))
        return b.emit(relax.op.mean(y, [1, 2]))

    module = built(write, (2, 8, 8, 3))
    slim = graphprune.optimize(module, 0.4)
    assert graphprune.verify(module, slim).sensitivity > 1e-6
    shapes = {name: leaf.value.shape for name, leaf in Program.of(slim).constants.items()}
    assert shapes["lv.weight"][3] == shapes["lv4.weight"][3] == shapes["lv6.weight"][2] < 8


def test_blocked_layouts_are_locked() -> None:
    def write(b, x):
        y = b.emit(relax.op.layout_transform(x, index_map=lambda n, c, h, w: (n, c // 4, h, w, c % 4)))
        return b.emit(relax.op.nn.conv2d(y, weight(2, 1, 1, 1, 4, 4), data_layout="NCHW4c", kernel_layout="OIHW4i4o"))

    with pytest.raises(NothingToPruneError, match="layout NCHW4c"):
        graphprune.optimize(built(write, (1, 4, 6, 6)), 0.5)


def test_norms_over_a_width_are_inexact_and_verified() -> None:
    """Layer norm and group norm over what is pruned: the masked original takes statistics over what lives."""

    def write(b, x):
        y = b.emit(relax.op.matmul(x, weight(6, 16)))
        y = b.emit(relax.op.nn.layer_norm(y, weight(16), weight(16, seed=1), axes=[-1]))
        y = b.emit(relax.op.nn.group_norm(y, weight(16), weight(16, seed=1), 4, 1, []))
        return b.emit(relax.op.matmul(y, weight(16, 3)))

    module = built(write, (4, 6))
    with pytest.raises(NothingToPruneError):
        graphprune.optimize(module, 0.4, exact=True)
    with pytest.warns(UserWarning, match="layer norm|layer_norm"):
        slim = graphprune.optimize(module, 0.4)
    seen = graphprune.verify(module, slim)
    assert seen.error < 1e-12 and not graphprune.plan_of(slim).exact


def test_root_mean_square_norms_are_repaired() -> None:
    def write(b, x):
        y = b.emit(relax.op.matmul(x, weight(6, 16)))
        y = b.emit(relax.op.nn.rms_norm(y, weight(16), axes=[-1], epsilon=0.1))
        square = b.emit(relax.op.mean(b.emit(relax.op.square(y)), [-1], keepdims=True))
        root = b.emit(relax.op.rsqrt(b.emit(relax.op.add(square, relax.const(0.2, "float32")))))
        y = b.emit(relax.op.multiply(b.emit(relax.op.multiply(y, root)), weight(16, seed=3)))
        return b.emit(relax.op.matmul(y, weight(16, 3)))

    module = built(write, (4, 6))
    slim = graphprune.optimize(module, 0.4, exact=True)
    plan = graphprune.plan_of(slim)
    assert len(plan.repairs) == 2 and dropped(plan)
    assert graphprune.verify(module, slim).error < 1e-12


def test_attention_of_one_operator() -> None:
    """Heads go as a whole; where widths go, the scale is what it was before."""

    def write(b, x):
        heads = [
            b.emit(relax.op.reshape(b.emit(relax.op.matmul(x, weight(8, 16, seed=seed))), (2, 5, 4, 4)))
            for seed in (1, 2, 3)
        ]
        y = b.emit(relax.op.nn.attention(*heads))
        return b.emit(relax.op.matmul(b.emit(relax.op.reshape(y, (2, 5, 16))), weight(16, 3)))

    module = built(write, (2, 5, 8))
    for policy, shape in (("heads", (2, 5, 2, 4)), ("dims", (2, 5, 4, 2))):
        slim = graphprune.optimize(module, 0.5, policy=policy)
        assert graphprune.verify(module, slim).sensitivity > 1e-6
        call = next(
            s.value
            for s in Program.of(slim).steps
            if getattr(s.value, "op", None) == tvm.ir.Op.get("relax.nn.attention")
        )
        assert tuple(map(int, call.args[0].ty.shape)) == shape
        assert (call.attrs.scale is not None) == (policy == "dims")


def test_positions_bounds_and_shapes_follow() -> None:
    """take by known positions, slices, splits and targets of reshapes, all of channels."""

    def write(b, x):
        y = b.emit(relax.op.matmul(x, weight(6, 24)))
        order = relax.const(np.random.default_rng(0).permutation(24), "int64")
        y = b.emit(relax.op.take(y, order, axis=1))
        parts = b.emit(relax.op.split(y, [10, 16], axis=1))
        first, last = b.emit(relax.TupleGetItem(parts, 0)), b.emit(relax.TupleGetItem(parts, 2))
        middle = b.emit(relax.op.strided_slice(y, [1], [10], [16]))
        joined = b.emit(relax.op.concat([last, middle, first], axis=-1))
        tall = b.emit(relax.op.reshape(joined, (4, 24, 1)))
        return b.emit(relax.op.matmul(b.emit(relax.op.squeeze(tall, [2])), weight(24, 3)))

    module = built(write, (4, 6))
    slim = graphprune.optimize(module, 0.4)
    assert graphprune.verify(module, slim).error < 1e-12
    sizes = {step.name: step.value for step in Program.of(slim).steps}
    assert len(sizes["lv1"].args[1].value.numpy()) == int(sizes["lv"].ty.shape[1]) < 24


# ---- symbolic sizes --------------------------------------------------------------------------------------


def test_symbolic_sizes_stay_symbolic() -> None:
    net = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    x = torch.randn(3, 3, 8, 8)
    module = oracle.imported(net, x, dynamic_shapes={"input": {0: torch.export.Dim("batch")}})
    slim = graphprune.optimize(module, 0.5, example_inputs=x)
    assert "batch" in str(slim["main"].params[0].ty) or not isinstance(slim["main"].params[0].ty.shape[0], int)
    assert graphprune.verify(module, slim).runs == 4, "other sizes were not tried"
    expected = oracle.masked(net, module, graphprune.plan_of(slim))
    y = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        assert np.allclose(oracle.run(slim, y)[0], expected(y.double()).numpy(), atol=1e-5)
    with pytest.raises(ExampleInputsError, match="3 axes|4 axes"):
        graphprune.optimize(module, 0.5, example_inputs=torch.randn(3, 8, 8))


def test_channels_merged_with_a_symbolic_axis_stay() -> None:
    size = tvm.tirx.Var("n", "int64")

    def write(b, x):
        y = b.emit(relax.op.matmul(x, weight(6, 16)))
        z = b.emit(relax.op.nn.relu(y))
        flat = b.emit(relax.op.reshape(y, [size * 16]))
        return b.emit(relax.Tuple([flat, b.emit(relax.op.matmul(z, weight(16, 3)))]))

    with pytest.raises((NothingToPruneError, graphprune.GraphPruneError), match="sizes of outputs|symbolic"):
        graphprune.optimize(built(write, (size, 6)), 0.4)


# ---- what is locked, and what is refused -----------------------------------------------------------------


def with_lowered(module: tvm.IRModule) -> tvm.IRModule:
    """The same module, all operators as loops."""
    return relax.transform.LegalizeOps()(module)


def test_lowered_code_keeps_what_it_reads() -> None:
    with pytest.raises(NothingToPruneError, match="call_tir"):
        graphprune.optimize(with_lowered(built(two_layers, (4, 6))), 0.4)


def test_beside_lowered_code_the_rest_is_pruned_and_verified_as_it_is() -> None:
    lowered = with_lowered(built(lambda b, x: b.emit(relax.op.nn.relu(x)), (4, 3)))
    relu = next(item for _, item in lowered.functions_items() if not isinstance(item, relax.Function))

    def write(b, x):
        own = b.add_func(relu, "own_relu")
        return b.emit(relax.call_tir(own, [two_layers(b, x)], relax.TensorType((4, 3), "float32")))

    module = built(write, (4, 6))
    slim = graphprune.optimize(module, 0.4)
    assert dropped(graphprune.plan_of(slim))
    assert graphprune.verify(module, slim).precision.tolerance > 1e-9
    assert "operator call_tir has no rule" in graphprune.analyze(module).explain()


def test_weights_that_are_parameters_are_refused_with_the_way_out() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    program = torch.export.export(net, (torch.randn(2, 6),))
    module = relax.frontend.torch.from_exported_program(program, keep_params_as_input=True)
    with pytest.raises(UnsupportedModelError, match=r"takes 4 weights as parameters.*p_0_weight.*BindParams"):
        graphprune.optimize(module, 0.4)
    plain = built(lambda b, x, w: b.emit(relax.op.matmul(x, w)), (4, 6), (6, 5))
    with pytest.raises(UnsupportedModelError, match=r"holds no weights.*BindParams\('main'"):
        graphprune.optimize(plain, 0.4)
    module, weights = relax.frontend.detach_params(module)
    names = [var.name for var in module["main"].params[1:]]
    bound = relax.transform.BindParams("main", dict(zip(names, weights["main"], strict=True)))(module)
    assert dropped(graphprune.plan_of(graphprune.optimize(bound, 0.4)))


def test_control_flow_and_modules_without_a_function_are_refused() -> None:
    builder = relax.BlockBuilder()
    flag, x = relax.Var("flag", relax.TensorType((), "bool")), relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [flag, x]):
        branch = relax.If(flag, relax.op.nn.relu(x), relax.op.negative(x))
        builder.emit_func_output(builder.emit(branch))
    with pytest.raises(UnsupportedModelError, match="is a condition"):
        graphprune.analyze(builder.get())
    with pytest.raises(UnsupportedModelError, match="no Relax function"):
        graphprune.analyze(tvm.IRModule({}))


def test_zero_points_are_locked_and_scales_follow() -> None:
    def write(zero: int):
        def network(b, x):
            y = b.emit(relax.op.matmul(x, weight(6, 16)))
            points = relax.const(np.full(3, zero), "int8")
            numbers = relax.const(np.random.default_rng(0).integers(-9, 9, (16, 3)), "int8")
            return b.emit(relax.op.matmul(y, b.emit(relax.op.dequantize(numbers, positive(3), points, 1))))

        return built(network, (4, 6))

    slim = graphprune.optimize(write(0), 0.4)
    assert graphprune.verify(write(0), slim).error < 1e-12
    with pytest.raises(NothingToPruneError, match="zero point"):
        graphprune.optimize(write(3), 0.4)


def test_sizes_that_are_read_as_numbers_are_locked() -> None:
    def write(b, x):
        y = b.emit(relax.op.matmul(x, weight(6, 16)))
        b.emit(relax.op.shape_to_tensor(b.emit(relax.op.shape_of(y))))
        return b.emit(relax.op.matmul(y, weight(16, 3)))

    with pytest.raises(NothingToPruneError, match="shape_of"):
        graphprune.optimize(built(write, (4, 6)), 0.4)


def test_vectors_that_exporters_merged_are_two() -> None:
    """One constant is the bias of two layers: they are not tied to one another by it."""

    def write(b, x):
        bias = weight(16)
        y = b.emit(relax.op.add(b.emit(relax.op.matmul(x, weight(6, 16))), bias))
        z = b.emit(relax.op.add(b.emit(relax.op.matmul(b.emit(relax.op.nn.relu(y)), weight(16, 16, seed=5))), bias))
        return b.emit(relax.op.matmul(b.emit(relax.op.nn.relu(z)), weight(16, 3)))

    module = built(write, (4, 6))
    slim = graphprune.optimize(module, 0.5, criterion="random")
    plan = graphprune.plan_of(slim)
    kept = [index[0].tolist() for name, index in plan.kept.items() if plan.shapes[name] == (16,)]
    assert len(kept) == 2 and kept[0] != kept[1]
    assert graphprune.verify(module, slim).error < 1e-12


def test_steps_of_one_name_are_told_apart() -> None:
    """Names in Relax are hints: passes may give several variables the same one."""

    def write(b, x):
        lines = [x]
        for name in ("lv", "lv", "lv1", "lv"):
            width = 6 if len(lines) == 1 else 16
            value = b.normalize(relax.op.matmul(lines[-1], weight(width, 16, seed=len(lines))))
            lines.append(relax.DataflowVar(name, value.ty))
            b.emit_normalized(relax.VarBinding(lines[-1], value))
        return b.emit(relax.op.matmul(lines[-1], weight(16, 3)))

    module = built(write, (4, 6))
    names = list(Program.of(module).constants)
    slim = graphprune.optimize(module, 0.4)
    assert list(Program.of(slim).constants) == names and len(set(names)) == 5
    assert graphprune.verify(module, slim).error < 1e-12


# ---- plans, passes, masks --------------------------------------------------------------------------------


def test_plans_travel_and_compose() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.randn(4, 6)
    module = oracle.imported(net, x)
    narrow = graphprune.optimize(net, 0.4, example_inputs=x)
    carried = graphprune.plan_of(narrow).apply(module)
    with torch.no_grad():
        assert np.allclose(oracle.run(carried, x)[0], narrow(x).numpy(), atol=1e-5)
    twice = graphprune.optimize(carried, 0.3)
    whole = graphprune.Plan.from_json(graphprune.plan_of(twice).to_json())
    assert np.array_equal(oracle.run(whole.apply(module), x)[0], oracle.run(twice, x)[0])
    with pytest.raises(PlanError, match="another model"):
        whole.apply(built(two_layers, (4, 6)))


def test_modules_are_saved_as_tvm_saves_them() -> None:
    module = built(two_layers, (4, 6))
    slim = graphprune.optimize(module, 0.4)
    loaded = tvm.ir.load_json(tvm.ir.save_json(slim))
    assert graphprune.verify(module, loaded).error < 1e-12
    with pytest.raises(UnsupportedModelError, match="tvm.ir.save_json"):
        graphprune.save(slim, "slim.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    """Weights keep their type; verification widens both programs."""

    def write(b, x):
        y = b.emit(relax.op.nn.relu(b.emit(relax.op.matmul(x, weight(6, 16, dtype=dtype)))))
        return b.emit(relax.op.matmul(y, weight(16, 3, dtype=dtype)))

    module = built(write, (4, 6), dtype=dtype)
    slim = graphprune.optimize(module, 0.4)
    assert {str(one.ty.dtype) for one in Program.of(slim).constants.values()} == {dtype}
    assert graphprune.verify(module, slim).error < 1e-12


def test_a_wrong_program_is_found_and_the_step_named() -> None:
    module = built(two_layers, (4, 6))
    slim = graphprune.optimize(module, 0.4)
    plan = graphprune.plan_of(slim)
    narrow = Program.of(slim)
    other = weight(*map(int, narrow.constants["lv2.x2"].value.shape), seed=9)
    from graphprune.frontends.relax.rebuild import Rebuilder

    class Wrong(Rebuilder):
        def constant(self, step, place, constant):
            return other if self.program.leaves.get((step.name, place)) == "lv2.x2" else constant

    with pytest.raises(VerifyError, match="first at lv2"):
        graphprune.verify(module, Wrong(narrow).run(), plan)


def test_a_pass_among_others() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(4, 6)
    module = oracle.imported(net, x)
    passes = [graphprune.RelaxPass(0.5, budget="macs"), relax.transform.LegalizeOps(), relax.transform.FuseOps()]
    slim = tvm.transform.Sequential(passes)(module)
    plan = graphprune.plan_of(slim)
    assert plan.report["macs"][1] <= plan.report["macs"][0] / 2
    assert isinstance(passes[0], tvm.transform.ModulePass) and passes[0].info.name == "graphprune.RelaxPass"
    with torch.no_grad():
        expected = oracle.masked(net, module, plan)(x.double()).numpy()
    assert np.allclose(oracle.run(slim, x)[0], expected, atol=1e-5)


def test_errors_come_out_of_a_pipeline_as_they_are() -> None:
    module = built(two_layers, (4, 6))
    with pytest.raises(graphprune.errors.BudgetError, match="must stay"):
        tvm.transform.Sequential([graphprune.RelaxPass(0.9999)])(module)
    with pytest.raises(graphprune.errors.OptionError, match="did you mean 'budget'"):
        graphprune.RelaxPass(0.5, budgets="macs")


def test_single_weights_become_zero() -> None:
    module = built(two_layers, (4, 6))
    sparse = graphprune.optimize(module, 0.5, structure="unstructured")
    masks = graphprune.masks_of(sparse)
    zeros = sum(int((Program.of(sparse).weights(name) == 0).sum()) for name in masks.kept)
    assert zeros == sum(int((~mask).sum()) for mask in masks.kept.values()) >= (6 * 16 + 16 * 3) // 2
    assert graphprune.verify(module, sparse).error < 1e-12


# ---- whole networks --------------------------------------------------------------------------------------


def test_resnet_18() -> None:
    net = import_torchvision().models.resnet18(num_classes=10)
    oracle.check(net, torch.randn(1, 3, 32, 32), sparsity=0.4, budget="macs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    """mobilenet_v2 mobilenet_v3_small densenet121 shufflenet_v2_x1_0 regnet_x_400mf squeezenet1_1
    mnasnet0_5 vgg11_bn convnext_tiny""".split(),
)
def test_networks_of_torchvision(name: str) -> None:
    module = oracle.imported(getattr(import_torchvision().models, name)(), torch.randn(1, 3, 64, 64))
    slim = graphprune.optimize(module, 0.4, exact=True, verify=False)
    plan = graphprune.plan_of(slim)
    assert dropped(plan) and plan.report["params"][1] <= plan.report["params"][0] * 0.6
    assert graphprune.verify(module, slim, thorough=False).error < 1e-9


def test_a_trained_network_as_torch_prunes_it(data_dir, monkeypatch) -> None:
    """The plan of the torch module on the imported one: the same scores, for images of CIFAR-10."""
    monkeypatch.syspath_prepend(data_dir)
    from graphdata import cifar10, nchw
    from resnet_cifar import resnet

    net = resnet(20, str(data_dir / "cifar10_models" / "resnet20_cifar10.pt")).eval()
    images = torch.from_numpy(nchw(cifar10("test_a")[0][:8]))
    module = oracle.imported(net, images)
    narrow = graphprune.optimize(net, 0.3, example_inputs=images, budget="macs")
    slim = graphprune.plan_of(narrow).apply(module)
    assert dropped(graphprune.plan_of(slim))
    with torch.no_grad():
        expected = narrow(images).numpy()
    found = oracle.run(slim, images)[0]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max() and expected.std() > 0.1


def test_a_network_from_onnx(tmp_path) -> None:
    from tvm.relax.frontend.onnx import from_onnx

    net = Net(lambda m, x: m.head(pool(F.relu(m.a(x)) + m.b(x))), a=conv(3, 8), b=conv(3, 8, 1), head=nn.Linear(8, 4))
    x = torch.randn(2, 3, 8, 8)
    oracle.randomise(net).eval()
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    import onnx

    module = from_onnx(onnx.load(tmp_path / "net.onnx"), keep_params_in_input=False)
    slim = graphprune.optimize(module, 0.4)
    plan = graphprune.plan_of(slim)
    assert dropped(plan)
    with torch.no_grad():
        assert np.allclose(oracle.run(slim, x)[0], oracle.masked(net, module, plan)(x.double()).numpy(), atol=1e-5)


def test_transformers() -> None:
    """A Llama with fewer heads of keys than of queries, through the importer of graphprune's own backend."""
    transformers = pytest.importorskip("transformers")
    from graphprune.backends.import_torch import import_program

    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, intermediate_size=24, vocab_size=20, use_cache=False)
    net = oracle.randomise(transformers.LlamaForCausalLM(config)).eval()
    tokens = torch.randint(0, 20, (1, 5))
    with torch.no_grad():
        program = torch.export.export(net, (tokens,), strict=False)
    module = import_program(program)
    slim = graphprune.optimize(module, 0.4, exact=True, verify=False)
    assert dropped(graphprune.plan_of(slim))
    assert graphprune.verify(module, slim, thorough=False).sensitivity > 1e-6
