"""Bad ONNX input is refused by an error of ours that names the place and the way out; nothing is read elsewhere."""

import os
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import ModelProto, TensorProto, helper

import graphprune
import onnx_mutations
from graphprune.errors import FileFormatError, UnsupportedModelError
from graphprune.frontends.onnx import files
from onnx_networks import NETWORKS

SMALL = """
<ir_version: 8, opset_import: ["": 17]>
g (float[2,4] x) => (float[2,4] y) <float[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, float[4] b = {1, 2, 3, 4}>
{ a = MatMul (x, w)  c = Add (a, b)  y = Softmax <axis = 1> (c) }
"""


def small() -> ModelProto:
    model = onnx.parser.parse_model(SMALL)
    for node in model.graph.node:
        node.name = f"the {node.op_type}"
    return model


# ---- files ------------------------------------------------------------------------------------------------

CONTENTS = {
    "empty": (b"", "empty"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "torch checkpoint"),
    "pickle": (b"\x80\x02}q\x00.", "torch checkpoint"),
    "safetensors": (b"\x40\0\0\0\0\0\0\0{\"w\": {}}", "safetensors"),
    "json": (b'{"irVersion": "8"}', "binary form"),
    "html": (b"<!DOCTYPE html><html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "keras": (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "Keras"),
    "tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 50, "TensorFlow Lite"),
    "ort": (b"\x1c\0\0\0ORTM" + b"\0" * 50, "ONNX Runtime"),
    "gguf": (b"GGUF\3\0\0\0", "GGUF"),
    "gzip": (b"\x1f\x8b\x08\0", "unpack"),
    "noise": (b"\xff" * 100, "damaged"),
    "text": (b"<ir_version: 8>", "web page or XML"),
    "zeros": (b"\0" * 1000, "damaged"),
    "another message": (TensorProto(name="x").SerializeToString(), "no graph|damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENTS)
def test_other_files(kind, tmp_path):
    data, message = CONTENTS[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=message) as caught:
        graphprune.analyze(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_cut_off(tmp_path):
    path, data = tmp_path / "m.onnx", small().SerializeToString()
    refused = 0
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises((FileFormatError, UnsupportedModelError)):
            files.read(path)
        refused += 1
    assert refused == len(data)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.onnx", "/dev/zero", "x\0y", "x" * 5000, ""):
        with pytest.raises(FileFormatError):
            files.read(path)


def test_a_file_above_two_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "m.onnx"
    with open(path, "wb") as file:
        file.truncate(2**31)
    with pytest.raises(FileFormatError, match="2.0 GiB.*external_data"):
        files.read(path)


def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(small().SerializeToString())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(FileFormatError, match="cannot be read"):
        files.read(path)


# ---- models -----------------------------------------------------------------------------------------------


def tensor(model, **changes):
    for name, value in changes.items():
        field = getattr(model.graph.initializer[0], name)
        if hasattr(field, "append"):
            del field[:]
            field.extend(value)
        else:
            setattr(model.graph.initializer[0], name, value)


def node(model, place, *, inputs=None, outputs=None, **changes):
    found = model.graph.node[place]
    for side, names in ((found.input, inputs), (found.output, outputs)):
        if names is not None:
            del side[:]
            side.extend(names)
    for name, value in changes.items():
        setattr(found, name, value)


def cast(found):
    found.op_type = "Cast"
    found.ClearField("attribute")


def nest(model):
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["z0"])], "g", [], [onnx.ValueInfoProto(name="z0")])
    for depth in range(1, 32):
        inner = helper.make_node("Loop", ["", "", "x"], [f"z{depth}"], body=body)
        body = helper.make_graph([inner], "g", [], [onnx.ValueInfoProto(name=f"z{depth}")])
    model.graph.node.append(body.node[0])


def function(model, name, calls):
    model.functions.add(name=name, domain="own", input=["p"], output=["q"]).node.add(
        op_type=calls, domain="own", input=["p"], output=["q"]
    )
    model.functions[-1].opset_import.add(domain="own", version=1)
    if all(entry.domain != "own" for entry in model.opset_import):
        model.opset_import.add(domain="own", version=1)


def attribute(**fields):
    return lambda m: m.graph.node[2].attribute[0].MergeFrom(onnx.AttributeProto(**fields))


BROKEN = {
    "no graph": (lambda m: m.ClearField("graph"), "no graph"),
    "no IR version": (lambda m: m.ClearField("ir_version"), "IR version 0"),
    "IR version of the future": (lambda m: setattr(m, "ir_version", 99), "IR version 99.*upgrade"),
    "no opset": (lambda m: m.ClearField("opset_import"), "opset"),
    "opset of the future": (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999.*upgrade"),
    "opset of the past": (lambda m: setattr(m.opset_import[0], "version", 6), "opset 6.*version_converter"),
    "opset zero": (lambda m: setattr(m.opset_import[0], "version", 0), "begin at 1"),
    "opset twice": (lambda m: m.opset_import.add(domain="ai.onnx", version=9), "twice"),
    "a domain that is not imported": (lambda m: node(m, 0, domain="other"), "the MatMul.*'other'.*opset_import"),
    "no operator": (lambda m: node(m, 0, op_type=""), "the MatMul.*no operator"),
    "an unknown name": (lambda m: node(m, 1, inputs=["a", "nothing"]), "the Add.*'nothing'.*no input, initializer"),
    "a cycle": (lambda m: node(m, 0, inputs=["c", "w"]), "wait.*the (MatMul|Add).*the (MatMul|Add)"),
    "a node that reads itself": (lambda m: node(m, 0, inputs=["a", "w"]), "the MatMul.*-> .*the MatMul"),
    "two nodes of one output": (lambda m: node(m, 1, outputs=["a"]), "the Add.*'a'.*the MatMul"),
    "a node that gives an input": (lambda m: node(m, 1, outputs=["x"]), "the Add.*'x'.*input or initializer"),
    "one node with an output twice": (lambda m: node(m, 1, outputs=["c", "c"]), "the Add"),
    "two initializers of one name": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "initializer 'w'"),
    "two inputs of one name": (lambda m: m.graph.input.append(m.graph.input[0]), "input 'x'"),
    "two outputs of one name": (lambda m: m.graph.output.append(m.graph.output[0]), "output 'y'"),
    "an output that nothing gives": (lambda m: setattr(m.graph.output[0], "name", "z"), "output 'z'"),
    "an input without a name": (lambda m: setattr(m.graph.input[0], "name", ""), "without a name"),
    "an input without a type": (lambda m: m.graph.input[0].ClearField("type"), "input 'x'.*no type"),
    "too few inputs": (lambda m: node(m, 0, inputs=["x"]), "the MatMul.*1 inputs.*takes 2"),
    "too many inputs": (lambda m: node(m, 0, inputs=["x", "w", "b"]), "the MatMul.*3 inputs.*takes 2"),
    "an input left out": (lambda m: node(m, 0, inputs=["x", ""]), "the MatMul.*lacks its input 'B'"),
    "too many outputs": (lambda m: node(m, 0, outputs=["a", "a2"]), "the MatMul.*2 outputs"),
    "an unknown attribute": (lambda m: m.graph.node[0].attribute.add(name="odd", type="INT"), "the MatMul.*'odd'"),
    "an attribute of another type": (attribute(type="FLOAT"), "'axis'.*the Softmax.*FLOAT.*INT"),
    "an attribute of unknown type": (lambda m: m.graph.node[2].attribute[0].ClearField("type"), "'axis'.*unknown type"),
    "an attribute twice": (lambda m: m.graph.node[2].attribute.append(m.graph.node[2].attribute[0]), "'axis'"),
    "a reference outside of functions": (attribute(ref_attr_name="outer"), "'axis'.*function"),
    "a required attribute left out": (lambda m: cast(m.graph.node[2]), "'to'"),
    "graphs in graphs in graphs": (nest, "deep|damaged"),
    "two functions of one name": (lambda m: function(m, "f", "Relu") or function(m, "f", "Relu"), "function"),
    "functions that run each other": (lambda m: function(m, "f", "h") or function(m, "h", "f"), "runs itself"),
    "metadata twice": (lambda m: [m.metadata_props.add(key="k", value=v) for v in "ab"], "'k'"),
    "an unknown element type": (lambda m: tensor(m, data_type=999), "'w'.*element type 999"),
    "no element type": (lambda m: tensor(m, data_type=0), "'w'.*element type 0"),
    "too few numbers": (lambda m: tensor(m, dims=[4, 5]), "'w'.*\\[4, 5\\].*20 numbers.*16"),
    "too few bytes": (lambda m: tensor(m, float_data=[], raw_data=b"\0" * 63), "'w'.*64 bytes.*63"),
    "no numbers": (lambda m: tensor(m, float_data=[]), "'w'.*16 numbers.*0"),
    "a negative size": (lambda m: tensor(m, dims=[4, -4]), "'w'.*\\[4, -4\\]"),
    "sizes that overflow": (lambda m: tensor(m, dims=[2**32, 2**32]), "'w'.*4294967296"),
    "sizes that overflow beside a zero": (lambda m: tensor(m, dims=[0, 2**62, 2**62]), "'w'"),
    "huge sizes": (lambda m: tensor(m, dims=[2**31, 2**8]), "'w'"),
    "an input of huge size": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2**62),
        "'x'.*4611686018427387904",
    ),
    "an input of unknown type": (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99), "'x'.*99"),
    "strings as bytes": (lambda m: tensor(m, data_type=8, raw_data=b"x"), "'w'.*strings"),
    "a tensor in segments": (lambda m: setattr(m.graph.initializer[0].segment, "end", 1), "segments"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("way", ["path", "proto"])
def test_broken_models(kind, way, tmp_path):
    damage, message = BROKEN[kind]
    model = small()
    damage(model)
    origin = model
    if way == "path":
        origin = tmp_path / "m.onnx"
        origin.write_bytes(model.SerializeToString())
    with pytest.raises((FileFormatError, UnsupportedModelError), match=f"(?i){message}"):
        files.read(origin)


def test_the_model_is_whole_without_damage():
    assert len(files.read(small()).graph) == 3


@pytest.mark.parametrize("field", ["node", "value", "operator", "text attribute", "doc string", "metadata"])
def test_names_that_are_no_text(field, tmp_path):
    model, mark = small(), "UNIQUE"
    if field == "node":
        model.graph.node[0].name = mark
    elif field == "value":
        node(model, 0, outputs=[mark])
        node(model, 1, inputs=[mark, "b"])
    elif field == "operator":
        model.graph.node[0].op_type = mark
    elif field == "text attribute":
        model.graph.node.add(op_type="DepthToSpace", input=["a"], output=["d"]).attribute.extend(
            [helper.make_attribute("mode", mark), helper.make_attribute("blocksize", 2)]
        )
    elif field == "doc string":
        model.graph.doc_string = mark
    else:
        model.metadata_props.add(key=mark, value="x")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString().replace(b"UNIQUE", b"\xff\xfeIQUE"))
    with pytest.raises((FileFormatError, UnsupportedModelError)):
        files.give_back(files.read(path), path)


def test_subgraphs_see_what_is_outside_of_them():
    body = helper.make_graph([helper.make_node("Add", ["a", "b"], ["u"])], "g", [], [onnx.ValueInfoProto(name="u")])
    model = small()
    model.graph.initializer.append(helper.make_tensor("on", TensorProto.BOOL, [], [True]))
    model.graph.node.insert(0, helper.make_node("If", ["on"], ["v"], "the If", then_branch=body, else_branch=body))
    read = files.read(model)
    assert [item.op_type for item in read.graph] == ["MatMul", "If", "Add", "Softmax"], "after what its graphs read"
    model.graph.node[0].attribute[0].g.node[0].input[1] = "nowhere"
    with pytest.raises(FileFormatError, match="the If.*'nowhere'"):
        files.read(model)
    model.graph.node[0].attribute[0].g.node[0].input[1] = "v"
    with pytest.raises(FileFormatError, match="the If.*-> .*the If"):
        files.read(model)
    model.graph.node[0].attribute[0].g.node[0].input[1] = "b"
    model.graph.node[0].attribute[0].g.output[0].name = "b"
    with pytest.raises(FileFormatError, match="Identity"):
        files.read(model)
    del model.graph.node[0].attribute[0].g.output[0]
    with pytest.raises(FileFormatError, match="the If.*1 outputs.*gives 0"):
        files.read(model)


def test_unknown_domains_and_operators_are_locked_not_refused():
    model = small()
    model.opset_import.add(domain="strange", version=1)
    node(model, 2, domain="strange", op_type="Thing")
    model.graph.node.append(helper.make_node("EfficientNMS_TRT", ["a"], ["n"]))
    assert "Thing" in graphprune.analyze(model).explain()


def test_tensors_without_numbers_are_fine():
    model = small()
    model.graph.initializer.append(helper.make_tensor("none", TensorProto.FLOAT, [0, 4], []))
    model.graph.initializer.append(TensorProto(name="raw", data_type=1, dims=[3, 0], raw_data=b""))
    model.graph.node.append(helper.make_node("Concat", ["y", "none"], ["e"], axis=0))
    graphprune.analyze(model)


def test_long_chains():
    """Ten thousand nodes, so that nothing walks them by recursion."""
    model = small()
    names = ["y", *(f"r{number}" for number in range(10_000))]
    pairs = zip(names, names[1:], strict=False)
    model.graph.node.extend(helper.make_node("Relu", [one], [other], other) for one, other in pairs)
    assert len(files.read(model).graph) == 10_003
    node(model, 0, inputs=[names[-1], "w"])
    with pytest.raises(FileFormatError, match=r"wait for each other: .*->.*\.\.\."):
        files.read(model)


def test_an_ir_model_is_checked_too():
    model = ir.from_proto(small())
    model.graph.initializers["w"].const_value.raw.dims[0] = 5
    with pytest.raises(FileFormatError, match="'w'.*20 numbers"):
        files.read(model)
    model = ir.from_proto(small())
    model.graph.initializers["w"].const_value = None
    with pytest.raises(FileFormatError, match="'w'.*const_value"):
        files.read(model)


# ---- weights in other files -------------------------------------------------------------------------------

PLACES = {
    "above the folder": ({"location": "../outside.bin"}, "outside of the folder"),
    "above the folder by a detour": ({"location": "folder/../../outside.bin"}, "outside of the folder"),
    "above the folder, as in Windows": ({"location": "..\\outside.bin"}, "outside of the folder"),
    "an absolute path": ({"location": "/etc/passwd"}, "outside of the folder"),
    "an absolute path in the folder": ({"location": "HOME/weights.bin"}, "outside of the folder"),
    "a drive": ({"location": "C:\\weights.bin"}, "outside of the folder"),
    "a link to a file outside": ({"location": "link.bin"}, "link to.*outside of the folder"),
    "through a link to a folder outside": ({"location": "link/outside.bin"}, "link to.*outside of the folder"),
    "a ring of links": ({"location": "loop.bin"}, "cannot be opened|no such file"),
    "a device": ({"location": "/dev/zero"}, "outside of the folder"),
    "a pipe": ({"location": "pipe"}, "device"),
    "a folder": ({"location": "folder"}, "folder or a device"),
    "the folder itself": ({"location": "."}, "folder or a device"),
    "no name": ({"location": ""}, "not named"),
    "no location": ({"offset": "0"}, "not named"),
    "a name with a zero in it": ({"location": "weights.bin\0"}, "no name of a file"),
    "a long name": ({"location": "x" * 5000}, "cannot be opened"),
    "no file": ({"location": "nothing.bin"}, "no such file"),
    "beyond the end": ({"location": "weights.bin", "offset": "99990"}, "99990 to 100054.*only 100000"),
    "far beyond the end": ({"location": "weights.bin", "offset": str(2**61)}, "only 100000"),
    "at a negative offset": ({"location": "weights.bin", "offset": "-1"}, "offset '-1'"),
    "at no number": ({"location": "weights.bin", "offset": "1e3"}, "offset '1e3'"),
    "at an absurd number": ({"location": "weights.bin", "offset": "9" * 5000}, "no number"),
    "too short": ({"location": "weights.bin", "length": "60"}, "needs 64 bytes, but 60"),
    "too long": ({"location": "weights.bin", "length": "99999"}, "needs 64 bytes, but 99999"),
}


def outside(model: ModelProto, **place: str) -> None:
    tensor(model, float_data=[], data_location=TensorProto.EXTERNAL)
    for key, value in place.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)


@pytest.mark.parametrize("kind", PLACES)
def test_weights_elsewhere(kind, tmp_path, monkeypatch):
    place, message = PLACES[kind]
    home = onnx_mutations.lay_out(tmp_path, b"")
    model = small()
    outside(model, **{key: value.replace("HOME", str(home)) for key, value in place.items()})
    (home / "m.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(home)
    for path in (home / "m.onnx", Path("m.onnx"), "./m.onnx"):
        with pytest.raises(FileFormatError, match=message) as caught:
            files.read(path)
        assert "'w'" in str(caught.value)


@pytest.mark.parametrize("kind", PLACES)
def test_weights_elsewhere_in_attributes_and_bodies(kind, tmp_path):
    """Tensors hide in Constant nodes, in branches and in functions, too."""
    place, message = PLACES[kind]
    home = onnx_mutations.lay_out(tmp_path, b"")
    for wrap in (lambda graph: graph, _in_branch):
        model = small()
        outside(model, **{key: value.replace("HOME", str(home)) for key, value in place.items()})
        held = model.graph.initializer[0]
        constant = helper.make_node("Constant", [], ["k"])
        constant.attribute.add(name="value", type="TENSOR").t.CopyFrom(held)
        del model.graph.initializer[0]
        node(model, 0, inputs=["x", "x"])
        model.graph.node.append(wrap(constant))
        (home / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(FileFormatError, match=message):
            files.read(home / "m.onnx")


def _in_branch(constant):
    body = helper.make_graph([constant], "g", [], [onnx.ValueInfoProto(name="k")])
    return helper.make_node("If", ["x"], ["v"], then_branch=body, else_branch=body)


def test_weights_inside_of_the_folder(tmp_path):
    home = onnx_mutations.lay_out(tmp_path, b"")
    (home / "inner.bin").symlink_to("weights.bin")
    for location in ("weights.bin", "inner.bin", "./weights.bin"):
        model = small()
        outside(model, location=location, offset="64", length="64", checksum="1234")
        (home / "m.onnx").write_bytes(model.SerializeToString())
        assert files.read(home / "m.onnx").graph.initializers["w"].const_value.numpy().sum() == 0


def test_weights_of_an_unknown_folder():
    model = small()
    outside(model, location="weights.bin")
    for origin in (model, ir.from_proto(model)):
        with pytest.raises(FileFormatError, match="unknown folder.*path"):
            files.read(origin)


# ---- mutations --------------------------------------------------------------------------------------------


def test_mutations(data_dir, tmp_path):
    """A part of what `benchmarks/onnx_bad_input.py` runs."""
    real = {name: (data_dir / "onnx" / f"{name}.onnx").read_bytes() for name in ("mnist_cntk", "super_resolution_x3")}
    made = {name: make().model.SerializeToString() for name, make in NETWORKS.items()}
    outcomes = [onnx_mutations.attempt(number, made, tmp_path) for number in range(300)]
    outcomes += [onnx_mutations.attempt(number, real, tmp_path) for number in range(100)]
    assert outcomes.count("works") > 40, "mutations are mild enough to get past the door"
    assert outcomes.count("FileFormatError") > 100


def test_the_watch_sees(tmp_path, monkeypatch):
    """Negative controls: an error of another kind, a file outside, a file left behind."""
    models = {"m": small().SerializeToString()}

    def strays(home):
        (tmp_path / "outside.bin").read_bytes()
        return "works"

    for way, message in (
        (lambda home: 1 / 0, "ZeroDivisionError"),
        (strays, "read"),
        (lambda home: (home / ".slim.onnx.tmp").write_bytes(b"") or "works", "left"),
    ):
        monkeypatch.setattr(onnx_mutations, "_whole_way", way)
        with pytest.raises(onnx_mutations.Wrong, match=message):
            onnx_mutations.attempt(0, models, tmp_path)
