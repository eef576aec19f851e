"""What the passes leave behind, seen in the module itself."""

import pytest
import torch
import tvm
from torch import nn
from tvm import relax, s_tir, tirx

from graphprune.backends.import_torch import import_program
from graphprune.backends.layout import merge, pack_constant, positions
from graphprune.backends.pipeline import kernel_passes, llvm_target, optimize_passes, pipeline
from graphprune.backends.schedules import apply_schedules, is_scheduled
from graphprune.backends.targets import get_target
from graphprune.backends.tiling import register_tile


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 21, 3, padding=1), nn.BatchNorm2d(21), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(21, 21, 3, padding=1, groups=21), nn.BatchNorm2d(21), nn.Hardswish(), nn.Conv2d(21, 40, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 30), nn.LayerNorm(30), nn.Softmax(-1),
    ).eval()  # fmt: skip


def imported(model, *inputs):
    return import_program(torch.export.export(model, inputs, strict=False))


def operators(module):
    """Names of the Relax operators called in the main function."""
    names = []
    relax.analysis.post_order_visit(
        module["main"],
        lambda node: names.append(node.op.name) if isinstance(node, relax.Call) and hasattr(node.op, "name") else None,
    )
    return names


def lowered(target, passes):
    module = imported(network(), torch.randn(1, 3, 16, 16))
    with llvm_target(target):
        return tvm.transform.Sequential(passes)(module)


@pytest.fixture(scope="module", params=["x86-avx512", "x86-avx2"])
def target(request):
    return get_target(request.param)


def test_nothing_is_left_of_batch_norm_and_convolution(target):
    assert any("batch_norm" in name for name in operators(imported(network(), torch.randn(1, 3, 16, 16))))
    module = lowered(target, optimize_passes(target))
    names = operators(module)
    assert not [name for name in names if "batch_norm" in name or "conv2d" in name or "matmul" in name]
    # The scales of batch norm went into the weights: nothing multiplies but hardswish, which does so twice.
    assert names.count("relax.multiply") == 2


def test_every_kernel_has_a_schedule(target):
    module = lowered(target, optimize_passes(target) + kernel_passes(target))
    kernels = [function for _, function in module.functions_items() if isinstance(function, tirx.PrimFunc)]
    assert len(kernels) > 5
    assert all(is_scheduled(function) for function in kernels)
    text = "\n".join(function.script() for function in kernels)
    assert f"T.vectorized(T.int64({target.vector_width}))" in text and "T.parallel" in text


def test_convolution_bias_and_activation_are_one_kernel(target):
    module = lowered(target, optimize_passes(target) + kernel_passes(target))
    names = [name.name_hint for name, _ in module.functions_items()]
    assert any("convolution" in name and "add" in name and "relu" in name for name in names)


def test_equal_layers_share_a_kernel(target):
    model = nn.Sequential(*(nn.Conv2d(16, 16, 5, padding=2) for _ in range(5))).eval()
    module = imported(model, torch.randn(1, 16, 8, 8))
    with llvm_target(target):
        module = tvm.transform.Sequential(optimize_passes(target) + kernel_passes(target))(module)
    convolutions = [name for name, _ in module.functions_items() if "convolution" in name.name_hint]
    assert len(convolutions) == 1


def test_rules_are_tried_in_order(target):
    asked = []

    def refuse(function, target):
        asked.append(function)
        return None

    module = lowered(target, [*optimize_passes(target), *kernel_passes(target)[:-1]])
    with llvm_target(target):
        scheduled = apply_schedules(target, rules=(refuse,))(module)
    assert asked and not all(
        is_scheduled(function) for _, function in scheduled.functions_items() if isinstance(function, tirx.PrimFunc)
    )


def test_pipeline_works_on_any_module():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.nn.relu(relax.op.add(x, x)))
        builder.emit_func_output(out)
    executable = tvm.compile(builder.get(), target=llvm_target("x86-avx2"), relax_pipeline=pipeline("x86-avx2"))
    data = torch.randn(4, 8)
    got = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(data.numpy())).numpy()
    torch.testing.assert_close(torch.from_numpy(got), (data + data).relu())


def test_segments():
    assert merge((16, 3), 16) == (19,) and merge((3, 16), 16) == (3, 16)
    assert positions((3, 2), 4).tolist() == [0, 1, 2, 4, 5]
    packed = pack_constant(torch.arange(5.0).reshape(1, 5, 1, 1).numpy(), (3, 2), 4, fill=9)
    assert packed.reshape(-1).tolist() == [0, 1, 2, 9, 3, 4, 9, 9]


@pytest.mark.parametrize("columns", [1, 7, 13, 17, 19, 56, 112])
@pytest.mark.parametrize("registers", [12, 16])
def test_tiles_waste_little(columns, registers):
    tile = register_tile(columns, 4, registers)
    computed = -(-columns // tile.width) * tile.width
    assert tile.width * tile.depth <= registers and computed <= max(columns * 1.16, columns + 1)
    assert columns % register_tile(columns, 4, registers, exact=True).width == 0


def statements(node):
    """A statement and all statements in it."""
    yield node
    parts = [getattr(node, name) for name in ("body", "block", "then_case", "else_case") if hasattr(node, name)]
    for part in [*parts, *getattr(node, "seq", ())]:
        if part is not None:
            yield from statements(part)


def first_rows(module, name):
    """Of an image that a kernel writes, blocked or in one row, the first place that each parallel piece writes to."""
    function = next(f for key, f in module.functions_items() if name in key.name_hint and isinstance(f, tirx.PrimFunc))
    found = list(statements(function.body))
    loops = [node for node in found if isinstance(node, tirx.For)]
    places = [
        node.iter_values[2]
        for node in found
        if isinstance(node, s_tir.SBlockRealize)
        and [write.source.same_as(function.params[-1]) for write in node.block.writes] == [True]
    ]

    def at(piece):
        analyzer = tvm.sym.Analyzer()
        for loop in loops:
            value = piece if loop.kind == tirx.ForKind.PARALLEL else 0
            analyzer.bind(loop.loop_var, tirx.const(value, loop.loop_var.ty.dtype))
        return int(analyzer.simplify(places[-1]))

    return [at(piece) for loop in loops if loop.kind == tirx.ForKind.PARALLEL for piece in range(int(loop.extent))]


@pytest.mark.parametrize("size, by_rows", [(28, True), (4, False)])
def test_threads_share_large_images_by_rows(target, size, by_rows):
    """A thread that takes the upper part of an image in all kernels finds there what it wrote before."""
    model = nn.Sequential(
        nn.Conv2d(64, 208, 1), nn.ReLU(), nn.Conv2d(208, 208, 3, padding=1, groups=208), nn.Conv2d(208, 72, 1)
    )
    module = imported(model.eval(), torch.randn(1, 64, size, size))
    with llvm_target(target):
        module = tvm.transform.Sequential(optimize_passes(target) + kernel_passes(target))(module)
    for name in ("fused_convolution_add_relu", "fused_depthwise", "fused_convolution1"):
        rows = first_rows(module, name)
        assert len(rows) > 4, name
        if by_rows:
            assert max(rows) > 0 and rows == sorted(rows), name
        else:
            assert max(rows) == 0 or rows != sorted(rows), name
