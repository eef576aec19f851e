"""Damaged ONNX models: one mutation of one model per case, drawn from a number.

`MUTATIONS` is the table: kind -> function of (random numbers, the model as bytes) that gives other bytes. `attempt`
writes a case to a folder with baits around it, runs the whole way on it and says what came out.
"""

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import graphprune
from graphprune.errors import GraphPruneError
from graphprune.frontends.onnx import files

Random = random.Random
WORDS = ("", "x", "y", "w", "nothing", "a/b", "../x", "\0", "ü" * 40, "x" * 5000)
SIZES = (0, 1, -1, -2, 2, 3, 7, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
OPERATORS = (
    "Conv",
    "MatMul",
    "Reshape",
    "Relu",
    "Concat",
    "Gather",
    "LSTM",
    "If",
    "Loop",
    "Split",
    "Softmax",
    "",
    "Strange",
)
PLACES = (
    "../outside.bin", "/etc/passwd", "/dev/zero", "/dev/urandom", "link.bin", "folder", "", ".", "..", "weights.bin",
    "folder/../../outside.bin", "..\\outside.bin", "C:\\outside.bin", "loop.bin", "nothing.bin", "m.onnx", "pipe",
    "\0", "x" * 300, "/proc/self/mem", "~/x", "file:///etc/passwd", "link/outside.bin", "*/_ORT_MEM_ADDR_/*",
)  # fmt: skip


# ---- bytes ------------------------------------------------------------------------------------------------


def flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: Random, data: bytes) -> bytes:
    return data[: rng.choice((_place(rng, data), rng.randrange(len(data)), len(data) - 1))]


def insert(rng: Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 9, 100))) + data[at:]


def remove(rng: Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 9, 100)) :]


def splice(rng: Random, data: bytes) -> bytes:
    start, end, at = _place(rng, data), _place(rng, data), _place(rng, data)
    return data[:at] + data[min(start, end) : max(start, end)][:10_000] + data[at:]


def not_utf8(rng: Random, data: bytes) -> bytes:
    """A name that is no text, everywhere."""
    names = [name for name in every_name(ModelProto.FromString(data).graph) if len(name) > 1]
    name = rng.choice(names).encode()
    return data.replace(name, b"\xff" * len(name))


def _place(rng: Random, data: bytes) -> int:
    """Mostly in the program, which lies at the ends, and not in the weights."""
    near = min(len(data), 20_000)
    return rng.choice((rng.randrange(near), len(data) - 1 - rng.randrange(near), rng.randrange(len(data))))


# ---- fields -----------------------------------------------------------------------------------------------


def every_graph(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            for body in (*([attr.g] if attr.HasField("g") else []), *attr.graphs):
                yield from every_graph(body)


def every_name(graph: GraphProto) -> list[str]:
    named = (*graph.input, *graph.output, *graph.initializer)
    return [
        *(item.name for item in named),
        *(name for node in graph.node for name in (*node.input, *node.output) if name),
    ]


def _name(rng: Random, graph: GraphProto) -> str:
    return rng.choice((rng.choice(every_name(graph) or ["x"]), rng.choice(WORDS)))


def _tensors(graph: GraphProto) -> list[TensorProto]:
    held = [attr.t for node in graph.node for attr in node.attribute if attr.type == AttributeProto.TENSOR]
    return [*graph.initializer, *held]


def _change(entries: Any, place: int, value: Any) -> None:
    entries[place : place + 1] = [value]


def operand(rng: Random, graph: GraphProto) -> None:
    node = _node(rng, graph)
    side = rng.choice([side for side in (node.input, node.output) if side] or [node.input])
    kind = rng.choice(("other", "other", "drop", "add"))
    if kind == "add" or not side:
        side.append(_name(rng, graph))
    elif kind == "drop":
        del side[rng.randrange(len(side))]
    else:
        _change(side, rng.randrange(len(side)), _name(rng, graph))


def name(rng: Random, graph: GraphProto) -> None:
    items = [*graph.input, *graph.output, *graph.initializer, *graph.value_info]
    rng.choice(items or [graph]).name = _name(rng, graph)


def tensor_sizes(rng: Random, graph: GraphProto) -> None:
    tensor = rng.choice(_tensors(graph))
    if tensor.dims and rng.random() < 0.8:
        _change(tensor.dims, rng.randrange(len(tensor.dims)), rng.choice(SIZES))
    else:
        tensor.dims.append(rng.choice(SIZES))


def tensor_reshaped(rng: Random, graph: GraphProto) -> None:
    """Other sizes that hold as many numbers, or data for the sizes that are there."""
    tensor = rng.choice(_tensors(graph))
    array = numpy_helper.to_array(tensor)
    flat = array.reshape(-1)
    other = rng.choice((flat, array[None], array.T, array[:0], flat[:1], np.zeros((0, 3), array.dtype)))
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(other), tensor.name))


def tensor_numbers(rng: Random, graph: GraphProto) -> None:
    """Other numbers: targets of Reshape, bounds, NaN."""
    small = [t for t in _tensors(graph) if t.data_type == TensorProto.INT64] if rng.random() < 0.8 else []
    tensor = rng.choice(small or _tensors(graph))
    array = numpy_helper.to_array(tensor).copy()
    if array.dtype.kind in "iu" and array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((0, -1, 1, -2, 7, 100))
    elif array.dtype.kind == "f" and array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def tensor_type(rng: Random, graph: GraphProto) -> None:
    rng.choice(_tensors(graph)).data_type = rng.choice((*range(27), 1000, -1))


def tensor_data(rng: Random, graph: GraphProto) -> None:
    tensor = rng.choice(_tensors(graph))
    if tensor.HasField("raw_data"):
        tensor.raw_data = rng.choice((b"", tensor.raw_data[:-1], tensor.raw_data + b"\0", tensor.raw_data * 2))
    else:
        tensor.float_data.append(1.0)


def place(rng: Random, graph: GraphProto) -> None:
    """Data in another file: outside of the folder, a device, a link, beyond the end."""
    tensor = rng.choice(_tensors(graph))
    size = len(tensor.raw_data)
    for field in ("raw_data", "float_data", "int64_data", "int32_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", rng.choice(PLACES)),
        ("offset", rng.choice(("0", "0", "64", "-1", "1e9", "nothing", "9" * 30, str(2**62)))),
        ("length", rng.choice((str(size), str(size), "0", "-1", str(2**62), "x"))),
    ):
        if key == "location" or rng.random() < 0.7:
            tensor.external_data.add(key=key, value=value)


def value_sizes(rng: Random, graph: GraphProto) -> None:
    kind = rng.choice([*graph.input, *graph.input, *graph.value_info, *graph.output]).type.tensor_type
    change = rng.choice(("size", "size", "more", "fewer", "none", "open"))
    if change == "none":
        kind.ClearField("shape")
    elif change == "more" or not kind.shape.dim:
        kind.shape.dim.add(dim_value=rng.choice(SIZES))
    elif change == "fewer":
        del kind.shape.dim[rng.randrange(len(kind.shape.dim))]
    elif change == "open":
        rng.choice(kind.shape.dim).dim_param = rng.choice(("N", "N", ""))
    else:
        rng.choice(kind.shape.dim).dim_value = rng.choice(SIZES)


def value_type(rng: Random, graph: GraphProto) -> None:
    value = rng.choice([*graph.input, *graph.input, *graph.value_info, *graph.output])
    change = rng.choice(("element", "element", "element", "sequence", "map", "none"))
    if change == "element":
        value.type.tensor_type.elem_type = rng.choice((*range(27), 1000, -1))
    elif change == "none":
        value.ClearField("type")
    elif change == "map":
        value.type.map_type.key_type = TensorProto.INT64
    else:
        value.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


def operator(rng: Random, graph: GraphProto) -> None:
    node = _node(rng, graph)
    if rng.random() < 0.8:
        node.op_type = rng.choice((_node(rng, graph).op_type, rng.choice(OPERATORS)))
    else:
        node.domain = rng.choice(("ai.onnx", "com.microsoft", "strange", "ai.onnx.ml"))


def attribute_type(rng: Random, graph: GraphProto) -> None:
    _attribute(rng, graph).type = rng.choice([*range(15), 1000])


def attribute_value(rng: Random, graph: GraphProto) -> None:
    attr = _attribute(rng, graph)
    number = rng.choice((*SIZES, 4, 5, 8))
    if attr.type == AttributeProto.INTS:
        change = rng.choice(("set", "add", "clear"))
        if change == "set" and attr.ints:
            _change(attr.ints, rng.randrange(len(attr.ints)), number)
        elif change == "add":
            attr.ints.append(number)
        else:
            attr.ClearField("ints")
    elif attr.type == AttributeProto.FLOAT:
        attr.f = rng.choice((0.0, -1.0, float("nan"), float("inf")))
    elif attr.type == AttributeProto.STRING:
        attr.s = rng.choice((b"", b"NOTSET", b"SAME_UPPER", b"VALID", b"\xff\xfe", b"x" * 5000))
    else:
        attr.i = number


def attribute_dropped(rng: Random, graph: GraphProto) -> None:
    nodes = [node for node in graph.node if node.attribute] or [_node(rng, graph)]
    node = rng.choice(nodes)
    change = rng.choice(("drop", "drop", "twice", "rename", "reference"))
    if change == "drop" and node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]
    elif change == "twice" and node.attribute:
        node.attribute.append(rng.choice(node.attribute))
    elif change == "reference" and node.attribute:
        rng.choice(node.attribute).ref_attr_name = "outer"
    else:
        node.attribute.append(helper.make_attribute(rng.choice(("strange", "axis", "group")), 1))


def dropped(rng: Random, graph: GraphProto) -> None:
    lists = [items for items in (graph.node, graph.node, graph.initializer, graph.input, graph.output) if items]
    items = rng.choice(lists)
    del items[rng.randrange(len(items))]


def doubled(rng: Random, graph: GraphProto) -> None:
    lists = [items for items in (graph.node, graph.initializer, graph.input, graph.output) if items]
    items = rng.choice(lists)
    items.append(rng.choice(items))


def order(rng: Random, graph: GraphProto) -> None:
    nodes = list(graph.node)
    change = rng.choice(("swap", "reverse", "shuffle", "ring"))
    if change == "reverse":
        nodes.reverse()
    elif change == "shuffle":
        rng.shuffle(nodes)
    elif change == "ring" and nodes[-1].output and nodes[0].input:
        _change(nodes[0].input, 0, nodes[-1].output[0])
    else:
        one, other = rng.randrange(len(nodes)), rng.randrange(len(nodes))
        nodes[one], nodes[other] = nodes[other], nodes[one]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)


def nested(rng: Random, graph: GraphProto) -> None:
    """A node becomes the body of many Ifs, one in the other."""
    node = NodeProto.FromString(_node(rng, graph).SerializeToString())
    if not node.output:
        return
    inner = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info(node.output[0])])
    for depth in range(rng.choice((1, 2, 10, 25, 35))):
        last = node.output[0] if depth % 2 else f"{node.output[0]}.{depth}"
        outer = helper.make_node("If", [_name(rng, graph)], [last], then_branch=inner, else_branch=inner)
        if outer.ByteSize() > 1_000_000:
            break
        inner = helper.make_graph([outer], "g", [], [helper.make_empty_tensor_value_info(last)])
    graph.node.append(inner.node[0])


def _node(rng: Random, graph: GraphProto) -> NodeProto:
    return rng.choice(graph.node)


def _attribute(rng: Random, graph: GraphProto) -> AttributeProto:
    found = [attr for node in graph.node for attr in node.attribute]
    return rng.choice(found) if found else _node(rng, graph).attribute.add(name="axis", type=AttributeProto.INT)


def versions(rng: Random, model: ModelProto) -> None:
    change = rng.choice(("drop", "opset", "opset", "opset", "format", "twice", "training", "metadata"))
    if change == "drop":
        del model.opset_import[rng.randrange(len(model.opset_import))]
    elif change == "opset":
        rng.choice(model.opset_import).version = rng.choice((0, -1, 1, 6, 7, 9, 11, 13, 17, 18, 21, 23, 25, 99, 2**40))
    elif change == "format":
        model.ir_version = rng.choice((0, 1, 2, 3, 10, 14, 99, -1))
    elif change == "twice":
        model.opset_import.append(rng.choice(model.opset_import))
    elif change == "training":
        model.training_info.add()
    else:
        model.metadata_props.extend([onnx.StringStringEntryProto(key="a", value=v) for v in "bc"])


def on_graph(change: Callable[[Random, GraphProto], None]) -> Callable[[Random, bytes], bytes]:
    def mutate(rng: Random, data: bytes) -> bytes:
        model = ModelProto.FromString(data)
        bodies = [graph for graph in every_graph(model.graph) if graph.node]
        change(rng, model.graph if rng.random() < 0.8 else rng.choice(bodies))
        return model.SerializeToString()

    return mutate


def on_model(change: Callable[[Random, ModelProto], None]) -> Callable[[Random, bytes], bytes]:
    def mutate(rng: Random, data: bytes) -> bytes:
        model = ModelProto.FromString(data)
        change(rng, model)
        return model.SerializeToString()

    return mutate


MUTATIONS: dict[str, Callable[[Random, bytes], bytes]] = {
    "bits flipped": flip,
    "cut off": truncate,
    "bytes inserted": insert,
    "bytes removed": remove,
    "bytes moved": splice,
    "names that are no text": not_utf8,
    "operands": on_graph(operand),
    "names": on_graph(name),
    "sizes of tensors": on_graph(tensor_sizes),
    "tensors reshaped": on_graph(tensor_reshaped),
    "numbers in tensors": on_graph(tensor_numbers),
    "types of tensors": on_graph(tensor_type),
    "data of tensors": on_graph(tensor_data),
    "data in other files": on_graph(place),
    "sizes of values": on_graph(value_sizes),
    "types of values": on_graph(value_type),
    "operators": on_graph(operator),
    "types of attributes": on_graph(attribute_type),
    "values of attributes": on_graph(attribute_value),
    "attributes dropped or doubled": on_graph(attribute_dropped),
    "things dropped": on_graph(dropped),
    "things doubled": on_graph(doubled),
    "order of nodes": on_graph(order),
    "graphs in graphs": on_graph(nested),
    "versions": on_model(versions),
}


# ---- one case ---------------------------------------------------------------------------------------------


class Wrong(Exception):
    """A case that neither worked nor was refused by an error of ours."""


_opened: set[str] = set()
_watching = False


def _watch() -> None:
    """Note every file that is opened, once per process: audit hooks cannot be taken back."""
    global _watching
    if not _watching:
        sys.addaudithook(lambda event, args: _opened.add(str(args[0])) if event == "open" else None)
        _watching = True


def mutated(number: int, models: Mapping[str, bytes]) -> tuple[str, str, bytes]:
    """Kind of mutation, name of the model, and the bytes of a case."""
    kinds, names = list(MUTATIONS), list(models)
    kind, first = kinds[number % len(kinds)], number // len(kinds)
    for again in range(100):
        name = names[(first + again // 4) % len(names)]
        try:
            data = MUTATIONS[kind](Random(f"{number}.{again}"), models[name])
        except (IndexError, ValueError, TypeError, DecodeError):
            continue  # the model has nothing of this kind to change, or the change cannot be written down
        if data != models[name]:
            return kind, name, data
    raise AssertionError(f"no model has anything for the mutation {kind!r}")


def lay_out(root: Path, data: bytes) -> Path:
    """The model in a folder of its own, with baits in and around it."""
    home = root / "home"
    (home / "folder").mkdir(parents=True, exist_ok=True)
    (root / "outside.bin").write_bytes(b"\1" * 4096)
    (home / "weights.bin").write_bytes(b"\0" * 100_000)
    for link, target in (("link.bin", root / "outside.bin"), ("link", root), ("loop.bin", home / "loop.bin")):
        if not (home / link).is_symlink():
            (home / link).symlink_to(target)
    if not (home / "pipe").exists():
        os.mkfifo(home / "pipe")
    (home / "m.onnx").write_bytes(data)
    return home


def attempt(number: int, models: Mapping[str, bytes], root: Path) -> str:
    """The whole way on one case: "works", or the name of the error of ours that refused it. Raises `Wrong`."""
    _watch()
    kind, model, data = mutated(number, models)
    home = lay_out(root, data)
    before = sorted(path.name for path in home.iterdir())
    _opened.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = _whole_way(home)
    except GraphPruneError as refusal:
        if len(str(refusal)) < 15:
            raise Wrong(f"{kind} of {model}: an error that says nothing: {refusal!r}") from refusal
        outcome = type(refusal).__name__
    except Exception as error:
        raise Wrong(f"{kind} of {model}: {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        if succeeded := (home / "slim.onnx").exists():
            (home / "slim.onnx").unlink()
    strayed = [path for path in _opened if path in PLACES or path.endswith("outside.bin")]
    if strayed:
        raise Wrong(f"{kind} of {model}: read {strayed[0]}")
    after = sorted(path.name for path in home.iterdir())
    if before != after or succeeded != (outcome == "works"):
        raise Wrong(f"{kind} of {model}: left {set(after) - set(before)} behind")
    return outcome


def _whole_way(home: Path) -> str:
    path = home / "m.onnx"
    files.give_back(files.read(path), path)
    plan = graphprune.analyze(path).plan(sparsity=0.3)
    slim = plan.apply(path)
    files.save(slim, home / "slim.onnx")
    try:
        files.read(home / "slim.onnx")
    except GraphPruneError as error:
        raise AssertionError(f"what came out is not whole: {error}") from error
    return "works"
