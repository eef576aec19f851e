"""Reading and writing ONNX models: nothing is lost, nothing is touched, files appear whole or not at all."""

import os
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

import graphprune
from graphprune.errors import FileFormatError, UnsupportedModelError
from graphprune.frontends.onnx import files, saving, stored

EVERYTHING = """
<ir_version: 10, opset_import: ["": 21, "local": 1, "strange": 3], producer_name: "tests", producer_version: "1.2",
 domain: "a.b", model_version: 7, doc_string: "a model">
g (float[N,4] x, bool c) => (float[N,4] y, float[N,4] z) <float[4] b, float[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}>
{
  k = Constant <value = float[4] {1, 2, 3, 4}> ()
  a = MatMul (x, w)
  d = Add (a, k)
  y = If (c) <then_branch = t () => (float[N,4] u) { u = Relu (d) },
              else_branch = e () => (float[N,4] u) { u = Neg (d) }>
  f = local.twice <times = 3> (d)
  z = strange.Thing <how = "so", much = [1.5, 2.5]> (f, "")
}
<domain: "local", opset_import: ["": 21]>
twice <times> (p) => (q) { r = Identity (p)  q = Add (r, p) }
"""


def everything() -> ModelProto:
    """A model with something in nearly every field."""
    model = onnx.parser.parse_model(EVERYTHING.replace("float[4] b, ", ""))
    model.metadata_props.add(key="author", value="a tester")
    model.metadata_props.add(key="a", value="")
    graph = model.graph
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="graph", value="yes")
    for number, node in enumerate(graph.node):
        node.name, node.doc_string = f"node {number}", f"does {node.op_type}"
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'layer']")
    graph.initializer[0].doc_string = "weights"
    graph.initializer[0].metadata_props.add(key="one", value="1")
    graph.initializer[0].metadata_props.add(key="two", value="2")
    info = graph.value_info.add(name="a", doc_string="a value")
    info.type.CopyFrom(graph.input[0].type)
    info.metadata_props.add(key="value", value="1")
    graph.input[0].metadata_props.add(key="input", value="1")
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    note = graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="k")
    return model


def same(one: ModelProto, other: ModelProto) -> None:
    """Equal in all that has a meaning: not in the order of types, or in fields that are written but empty."""
    left, right = ModelProto(), ModelProto()
    left.CopyFrom(one)
    right.CopyFrom(other)
    for model in (left, right):
        _plain(model)
    assert left == right


def _plain(message: object) -> None:
    if isinstance(message, GraphProto):
        values = {name for node in message.node for name in node.output} | {t.name for t in message.initializer}
        used = [info for info in message.value_info if info.name in values - {out.name for out in message.output}]
        kept = sorted((type(i).FromString(i.SerializeToString()) for i in used), key=lambda info: info.name)
        del message.value_info[:]
        message.value_info.extend(kept)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in value if hasattr(value, "add") else [value]:
                _plain(item)
            if field.name == "type" and not value.ListFields():
                message.ClearField("type")
        elif field.type == field.TYPE_STRING and value == "":
            message.ClearField(field.name)
    if hasattr(message, "metadata_props"):
        ordered = sorted(message.metadata_props, key=lambda entry: entry.key)
        copies = [onnx.StringStringEntryProto(key=entry.key, value=entry.value) for entry in ordered]
        del message.metadata_props[:]
        message.metadata_props.extend(copies)


def mlp(layers: int = 4, width: int = 64) -> ModelProto:
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        array = rng.standard_normal((width, width), dtype=np.float32)
        weights.append(numpy_helper.from_array(array, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"y{layer}"], name=f"layer {layer}"))
        last = f"y{layer}"
    shape = [2, width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """A model whose weights lie in a file beside it."""
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    onnx.save(mlp(), path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    return path


def run(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((2, 64), dtype=np.float32)})[0]


# ---- nothing is lost --------------------------------------------------------------------------------------

MODELS = [
    "fastestdet", "mnist_cntk", "ppocr_cls", "ppocr_v3_det", "resnet20_cifar10_qdq", "rfb320", "silero_vad",
    "squeezenet1_1_caffe2_fp16", "super_resolution_x3",
]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_trained_models_come_back_as_they_were(name, data_dir, tmp_path):
    path = data_dir / "onnx" / f"{name}.onnx"
    before = onnx.load(path)
    after = files.give_back(files.read(path), path)
    same(before, after)
    onnx.checker.check_model(after)
    files.save(files.read(path), tmp_path / "m.onnx")
    same(before, onnx.load(tmp_path / "m.onnx"))


def test_every_field_comes_back():
    model = everything()
    after = files.give_back(files.read(model), model)
    same(model, after)
    assert list(after.graph.initializer[0].metadata_props) == list(model.graph.initializer[0].metadata_props)
    assert [info.name for info in after.graph.value_info] == ["a"], "types are not made up"


def test_the_comparison_sees_differences():
    for change in (
        lambda m: m.metadata_props.add(key="b", value="c"),
        lambda m: m.graph.node[0].ClearField("doc_string"),
        lambda m: m.functions[0].node[0].ClearField("input"),
        lambda m: m.graph.node[3].attribute[0].g.node[0].MergeFrom(onnx.NodeProto(name="other")),
    ):
        other = everything()
        change(other)
        with pytest.raises(AssertionError):
            same(everything(), other)


DTYPES = [
    np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64,
    np.uint64, np.bool_, np.complex64, np.complex128, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float4_e2m1fn,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("size", [0, 3, 2001])
def test_every_element_type_comes_back(dtype, outside, size, tmp_path):
    array = (np.arange(size) % 3).astype(dtype)
    model = helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [onnx.ValueInfoProto(name="y")]),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=11,
    )
    model.graph.initializer.append(ir.to_proto(ir.Tensor(array, name="w")))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=outside, location="w.bin", size_threshold=0)
    read = files.read(path)
    for tensor in (
        read.graph.initializers["w"].const_value,
        ir.from_proto(files.give_back(read, path)).graph.initializers["w"].const_value,
    ):
        assert tensor.numpy().dtype == array.dtype and np.array_equal(tensor.numpy(), array)
    files.save(read, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx.data").exists() == outside
    again = ir.load(tmp_path / "again.onnx").graph.initializers["w"].const_value
    assert np.array_equal(again.numpy(), array)


def test_strings_come_back():
    model = everything()
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"\xff"]))
    same(model, files.give_back(files.read(model), model))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: m.training_info.add(), "ClearField"),
        (lambda m: m.graph.sparse_initializer.add().values.MergeFrom(TensorProto(name="s")), "dense"),
        (lambda m: m.graph.output[0].type.map_type.MergeFrom(onnx.TypeProto.Map(key_type=7)), "map"),
        (
            lambda m: m.graph.node[5].attribute.append(
                onnx.AttributeProto(name="s", type="SPARSE_TENSOR", sparse_tensor=onnx.SparseTensorProto())
            ),
            "sparse",
        ),
    ],
)
def test_what_would_get_lost_is_refused(damage, message):
    model = everything()
    damage(model)
    with pytest.raises(UnsupportedModelError, match=message):
        files.read(model)


# ---- the same kind of thing, and the origin untouched -----------------------------------------------------


def test_a_proto_stays_as_it_was():
    model = everything()
    before = model.SerializeToString(deterministic=True)
    read = files.read(model)
    value = read.graph.initializers["w"]
    read.graph.register_initializer(ir.Value(name="w/1", const_value=value.const_value))  # shared, under another name
    slim = files.give_back(read, model)
    assert isinstance(slim, ModelProto) and [t.name for t in slim.graph.initializer] == ["w", "w/1"]
    slim.graph.initializer[0].name = "changed"
    assert model.SerializeToString(deterministic=True) == before
    assert value.const_value.name == "w"


def test_an_ir_model_stays_as_it_was():
    origin = ir.from_proto(everything())
    tensor, before = origin.graph.initializers["w"].const_value, ir.to_proto(origin)
    read = files.read(origin)
    assert read is not origin and read.graph.initializers["w"].const_value is tensor
    next(iter(read.graph)).name = "changed"
    read.metadata_props["new"] = "1"
    assert files.give_back(read, origin) is read
    same(ir.to_proto(origin), before)
    assert origin.graph.initializers["w"].const_value is tensor


def test_a_surgeon_graph_comes_back_as_one():
    surgeon = pytest.importorskip("onnx_graphsurgeon")
    origin = surgeon.import_onnx(mlp())
    slim = files.give_back(files.read(origin), origin)
    assert isinstance(slim, surgeon.Graph)
    assert [node.name for node in slim.nodes] == [node.name for node in origin.nodes]
    same(surgeon.export_onnx(slim), surgeon.export_onnx(origin))
    odd = surgeon.Graph(nodes=[], inputs=[], outputs=[], opset=17)
    odd.inputs = odd.outputs = [surgeon.Variable("x")]
    with pytest.raises(UnsupportedModelError, match="graphsurgeon"):
        files.read(odd)


@pytest.mark.parametrize("kind", ["path", "proto", "ir", "surgeon"])
def test_pruning_gives_the_same_kind_of_thing(kind, tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx")
    makers = {
        "path": lambda: tmp_path / "m.onnx",
        "proto": mlp,
        "ir": lambda: ir.from_proto(mlp()),
        "surgeon": lambda: pytest.importorskip("onnx_graphsurgeon").import_onnx(mlp()),
    }
    origin = makers[kind]()
    slim = graphprune.analyze(origin).plan(sparsity=0.4).apply(origin)
    assert type(slim) is (ModelProto if kind == "path" else type(origin))
    weights = files.read(slim).graph.initializers.values()
    assert sum(value.const_value.size for value in weights) < 0.6 * 4 * 64 * 64


def test_other_things_are_refused():
    with pytest.raises(UnsupportedModelError, match="GraphProto"):
        files.read(mlp().graph)


def test_unsorted_nodes_are_sorted():
    model = mlp()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert [node.name for node in files.read(model).graph] == [f"layer {number}" for number in range(4)]
    with pytest.raises(FileFormatError, match="sort"):
        files.read(ir.from_proto(model))


def test_one_spelling_of_the_standard_domain():
    model = mlp()
    model.opset_import[0].domain = "ai.onnx"
    assert files.read(model).opset_imports == {"": 17}


def test_unknown_sizes_that_are_written_as_minus_one():
    model = mlp()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert files.read(model).graph.inputs[0].shape[0] == ir.SymbolicDim(None)


# ---- files beside the model -------------------------------------------------------------------------------


def test_no_weight_is_read_before_it_is_used(apart, monkeypatch):
    monkeypatch.setattr(stored.DataFile, "read", lambda *_: pytest.fail("read too early"))
    assert len(files.read(apart).graph.initializers) == 4
    files.read(ir.load(apart))


def test_a_path_gives_all_weights_back(apart):
    same(files.give_back(files.read(apart), apart), mlp())


def test_beside_stays_beside(apart, tmp_path):
    files.save(files.read(apart), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size < 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.onnx", "out.onnx.data"]
    assert np.array_equal(run(tmp_path / "out.onnx"), run(apart))
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


def test_the_same_name_in_and_out(apart):
    before, model = run(apart), files.read(apart)
    first = model.graph.initializers["w0"].const_value
    model.graph.initializers["w0"].const_value = ir.LazyTensor(
        lambda: ir.Tensor(first.numpy() * 2), dtype=first.dtype, shape=first.shape, name="w0"
    )
    files.save(model, apart)
    assert np.allclose(run(apart), 2 * before)
    with pytest.raises(FileFormatError, match="has changed"):
        first.numpy()


def test_weights_that_are_being_read_are_not_overwritten(apart):
    os.rename(apart, apart.with_name("other.onnx"))
    model = files.read(apart.with_name("other.onnx"))
    for target in (apart, apart.with_name("m.onnx.data")):
        with pytest.raises(FileFormatError, match="another name"):
            files.save(model, target)
    assert sorted(path.name for path in apart.parent.iterdir()) == ["m.onnx.data", "other.onnx"]


def fail(*_):
    raise KeyboardInterrupt


def fails_second(monkeypatch):
    """The weights are moved to their place, the program is not."""
    move, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        fail() if len(calls) == 2 else move(source, target)

    monkeypatch.setattr("os.replace", replace)


BREAKS = {
    "while weights are written": lambda patch: patch.setattr(ir.LazyTensor, "tofile", fail),
    "while the program is written": lambda patch: patch.setattr(saving, "to_proto", fail),
    "at the first move": lambda patch: patch.setattr("os.replace", fail),
    "at the second move": fails_second,
}


@pytest.mark.parametrize("moment", BREAKS)
@pytest.mark.parametrize("name", ["m.onnx", "new.onnx"])
def test_a_save_that_breaks_off_leaves_the_old_files(apart, moment, name, monkeypatch):
    before = {path.name: path.read_bytes() for path in apart.parent.iterdir()}
    model = files.read(apart)
    with monkeypatch.context() as patch:
        BREAKS[moment](patch)
        with pytest.raises(KeyboardInterrupt):
            files.save(model, apart.with_name(name))
    assert {path.name: path.read_bytes() for path in apart.parent.iterdir()} == before
    files.give_back(model, apart)


def test_a_file_that_changed_is_not_read(apart):
    model = files.read(apart)
    data = apart.with_name("m.onnx.data")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="has changed since"):
        model.graph.initializers["w0"].const_value.numpy()
    with pytest.raises(FileFormatError, match="has changed since"):
        files.give_back(model, apart)
    with pytest.raises(FileFormatError, match="cut off"):
        files.read(apart)


def test_saving_holds_one_weight_at_a_time(tmp_path):
    """Sixteen weights of 1 MB, each made when it is written."""
    model = ir.from_proto(mlp(layers=16, width=512))
    for value in model.graph.initializers.values():
        value.const_value = ir.LazyTensor(
            lambda: ir.Tensor(np.ones((512, 512), dtype=np.float32)), value.dtype, value.shape, name=value.name
        )
    model.graph.meta[stored.ORIGIN] = stored.Origin(None, frozenset([Path("weights")]))
    tracemalloc.start()
    files.save(model, tmp_path / "m.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "m.onnx.data").stat().st_size == 16 << 20
    assert peak < 3 << 20


def test_weights_above_the_limit_go_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "LIMIT", 1000)
    monkeypatch.setattr(files, "LIMIT", 1000)
    path = tmp_path / "m.onnx"
    onnx.save(mlp(), path)
    slim = files.give_back(files.read(path), path)
    assert isinstance(slim, ir.Model)
    files.save(slim, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists() and np.array_equal(run(tmp_path / "out.onnx"), run(path))


def test_many_weights_beside_the_model_are_not_gathered(apart, monkeypatch):
    monkeypatch.setattr(files, "BESIDE", 1000)
    monkeypatch.setattr(stored.DataFile, "read", lambda *_: pytest.fail("read too early"))
    assert isinstance(files.give_back(files.read(apart), apart), ir.Model)
    path = apart.with_name("whole.onnx")
    onnx.save(mlp(), path)
    assert isinstance(files.give_back(files.read(path), path), ModelProto)


def test_protos_that_are_not_loaded_are_not_saved(apart, tmp_path):
    with pytest.raises(FileFormatError, match="not loaded"):
        files.save(onnx.load(apart, load_external_data=False), tmp_path / "out.onnx")
    with pytest.raises(FileFormatError, match="folder"):
        files.save(mlp(), tmp_path)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("text", ["?", "not a plan", "c$@<O00000"])
def test_damaged_plans_in_metadata(text):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }'
    )
    model.metadata_props.add(key="graphprune.plan", value=text)
    with pytest.raises(graphprune.GraphPruneError, match="damaged"):
        graphprune.plan_of(model)
