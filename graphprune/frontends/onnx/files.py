"""The border of the ONNX frontend: what users give becomes a checked `onnx_ir.Model`, and the same kind goes back."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Error

from ...errors import FileFormatError, UnsupportedModelError
from ...files import atomic_path
from .checks import check, graphs_of
from .stored import Folder, stored_tensor

LIMIT = 2_000_000_000
"""Bytes of weights that fit into one protobuf message of 2 GiB, with room for the program."""

_SMALL = 1024
"""Tensors of fewer bytes stay in the model's file."""

_ORIGIN = "graphprune.origin"
_DECLARED = "graphprune.declared"

_KINDS = {
    (0, b"PK\x03\x04"): "a zip archive, such as a torch checkpoint; export it to ONNX first",
    (0, b"\x80"): "a pickle, such as an old torch checkpoint; export it to ONNX first",
    (8, b"{"): "a safetensors file, which has weights but no program; export the model to ONNX first",
    (0, b"{"): "JSON; only the binary form of ONNX is read",
    (0, b"<"): "a web page or XML, perhaps a download that failed",
    (0, b"version https://git-lfs"): "a pointer of Git LFS; run git lfs pull",
    (0, b"\x89HDF"): "an HDF5 file (Keras); export it to ONNX first",
    (4, b"TFL3"): "a TensorFlow Lite file; convert it to ONNX first",
    (4, b"ORTM"): "a model in the format of ONNX Runtime; take the .onnx file that it was made from",
    (0, b"GGUF"): "a GGUF file, which has weights but no program",
    (0, b"\x1f\x8b"): "a gzip archive; unpack it first",
}
"""First bytes of other files that are met under the name of a model: (place, bytes) -> what it is and what to do."""


@dataclass(frozen=True)
class Origin:
    """Where a model was read from: its own file (None for models in memory), and the files that hold its weights."""

    path: Path | None
    files: frozenset[Path]


def read(origin: Any) -> ir.Model:
    """A checked model, from a path, an `onnx.ModelProto`, an `onnx_ir.Model` or an `onnx_graphsurgeon.Graph`.

    The origin is not modified. Weights are shared with it, or read from files when they are used.

    ```python
    import onnx
    from graphprune.frontends.onnx.files import read

    proto = onnx.parser.parse_model("<ir_version: 8, opset_import: ['': 17]> f (float[1] x) => (float[1] y) { y = Relu(x) }")
    print([node.op_type for node in read(proto).graph])  # ['Relu']
    ```
    """
    if isinstance(origin, ir.Model):
        return _from_ir(origin)
    if isinstance(origin, onnx.ModelProto):
        return _from_proto(origin, None)
    if is_path(origin):
        path = Path(origin)
        return _from_proto(parse(path), path)
    if is_surgeon(origin):
        return _from_proto(_from_surgeon(origin), None)
    raise UnsupportedModelError(
        f"a model of type {type(origin).__name__} is no ONNX model: pass a path to an .onnx file, an onnx.ModelProto, an "
        "onnx_ir.Model or an onnx_graphsurgeon.Graph"
    )


def give_back(model: ir.Model, origin: Any) -> Any:
    """The model as the kind of thing that `origin` is; for a path an `onnx.ModelProto`, or an `onnx_ir.Model` above 2 GB."""
    if isinstance(origin, ir.Model) or (is_path(origin) and _weight(model) > LIMIT):
        return model
    proto = _to_proto(model)
    return _to_surgeon(proto) if is_surgeon(origin) else proto


def is_path(origin: Any) -> bool:
    """Whether a model is given by the path to its file."""
    return isinstance(origin, (str, os.PathLike))


def is_surgeon(origin: Any) -> bool:
    """Whether a model is a Graph of onnx_graphsurgeon, which is not imported for this."""
    return any(
        kind.__qualname__ == "Graph" and kind.__module__.startswith("onnx_graphsurgeon") for kind in type(origin).__mro__
    )


def parse(path: Path) -> onnx.ModelProto:
    """The message in a file; says what the file looks like where it holds no model."""
    try:
        if not path.is_file():
            what = "is a folder or a device, no file" if path.exists() else "does not exist"
            raise FileFormatError(f"{path} {what}: pass the path to an .onnx file")
        size = path.stat().st_size
        if size >= 2**31:
            raise FileFormatError(
                f"{path} has {size / 2**30:.1f} GiB, and protobuf holds at most 2: {_looks_like(path) or 'save the model'}"
                " with its weights in a file beside it (onnx.save(..., save_as_external_data=True))"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path} cannot be read: {error}") from error
    try:
        proto = onnx.ModelProto.FromString(data)
        if proto.HasField("graph"):
            return proto
        problem = "it has no graph"
    except DecodeError:
        problem = "it is damaged, cut off or another kind of file"
    kind = "it is empty" if not data else f"it looks like {known}" if (known := _looks_like(path)) else problem
    raise FileFormatError(f"{path} is no ONNX model: {kind}")


def _looks_like(path: Path) -> str | None:
    with open(path, "rb") as file:
        head = file.read(64)
    for (place, start), kind in _KINDS.items():
        if head[place:].startswith(start):
            return kind
    return None


def _from_proto(proto: onnx.ModelProto, path: Path | None) -> ir.Model:
    ordered = check(proto)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # the library raises whatever its parts raise
        raise UnsupportedModelError(f"the model has a part that cannot be read: {_innermost(error)}") from error
    model.graph.meta[_DECLARED] = frozenset(info.name for info in proto.graph.value_info)
    if not ordered:
        for body in (model.graph, *model.functions.values()):
            body.sort()
    return _completed(model, path)


def _from_ir(origin: ir.Model) -> ir.Model:
    """A copy: its tensors are shared, everything else is its own."""
    stubs = {}
    for graph in origin.graphs():
        for value in graph.initializers.values():
            if value.const_value is None:
                raise FileFormatError(f"initializer {value.name!r} has no numbers: set its const_value")
            stubs[value] = _stub(value, "", 0)
    try:
        proto = _to_proto(origin, stubs)
    except Exception as error:  # the library raises whatever its parts raise
        raise FileFormatError(f"the model cannot be written: {_innermost(error)}") from error
    if not check(proto):
        raise FileFormatError("nodes of the model come before what they read: call model.graph.sort() first")
    return _completed(origin.clone(), None)


def _completed(model: ir.Model, path: Path | None) -> ir.Model:
    """The model with weights that are read from files when used, and a few spellings made one."""
    folders: dict[str, Folder] = {}

    def lazy(tensor: Any) -> Any:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        if path is None and not tensor.base_dir:
            raise FileFormatError(
                f"tensor {tensor.name!r} has its data in a file, {os.fspath(tensor.location)!r}, of an unknown folder: "
                "pass the path to the .onnx file, or load the model with its weights (onnx.load(path))"
            )
        home = Path(os.fspath(tensor.base_dir)) if path is None else path.parent
        folder = folders.setdefault(os.fspath(home), Folder(home.absolute()))
        return stored_tensor(tensor, folder)

    for graph in all_graphs(model):
        for value in graph.initializers.values():
            value.const_value = lazy(value.const_value)
        for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
            if value.shape is not None and any(isinstance(dim, int) and dim < 0 for dim in value.shape):
                value.shape = ir.Shape([None if isinstance(dim, int) and dim < 0 else dim for dim in value.shape])
        for node in graph:
            for attr in list(node.attributes.values()):
                if attr.type == ir.AttributeType.TENSOR and isinstance(attr.value, ir.ExternalTensor):
                    node.attributes[attr.name] = ir.AttrTensor(attr.name, lazy(attr.value), attr.doc_string)
                elif attr.type == ir.AttributeType.TENSORS and attr.value:
                    node.attributes[attr.name] = ir.AttrTensors(attr.name, list(map(lazy, attr.value)), attr.doc_string)
    for body in (model.graph, *model.functions.values()):
        if "ai.onnx" in body.opset_imports:
            body.opset_imports[""] = body.opset_imports.pop("ai.onnx")
    files = frozenset(file.path for folder in folders.values() for file in folder.files.values())
    model.graph.meta[_ORIGIN] = Origin(None if path is None else path.resolve(), files)
    return model


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, the bodies of functions, and all graphs in their nodes."""
    for body in (model.graph, *(function.graph for function in model.functions.values())):
        yield body
        yield from body.subgraphs()


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0][:300] or type(error).__name__


# ---- back -------------------------------------------------------------------------------------------------


def _weight(model: ir.Model) -> int:
    """Bytes of the stored tensors of a model."""
    total = 0
    for graph in all_graphs(model):
        total += sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)
        for node in graph:
            total += sum(a.value.nbytes for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR and a.value)
    return total


def _to_proto(model: ir.Model, instead: Mapping[ir.Value, Any] | None = None) -> onnx.ModelProto:
    """The message of a model; `instead` are tensors to write for some initializers."""
    tensors = dict(instead or {})
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = tensors.get(value, value.const_value)
            if tensor is not None and tensor.name != value.name:  # writing would rename the tensor, which may be shared
                tensors[value] = _renamed(tensor, value.name)
    with _holding(tensors):
        proto = ir.to_proto(model)
    declared = model.graph.meta.get(_DECLARED, frozenset())
    for place, graph in enumerate(graphs_of(proto)):
        _tidy(graph, declared if place == 0 else frozenset())
    return proto


def _renamed(tensor: Any, name: str | None) -> Any:
    if isinstance(tensor, ir.StringTensor):
        return ir.StringTensor(tensor.string_data(), shape=tensor.shape, name=name, doc_string=tensor.doc_string)
    return ir.LazyTensor(
        lambda: tensor,
        tensor.dtype,
        tensor.shape,
        name=name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


@contextmanager
def _holding(tensors: Mapping[ir.Value, Any]) -> Iterator[None]:
    """Initializers hold other tensors for a while."""
    before = {value: value.const_value for value in tensors}
    try:
        for value, tensor in tensors.items():
            value.const_value = tensor
        yield
    finally:
        for value, tensor in before.items():
            value.const_value = tensor


def _tidy(graph: onnx.GraphProto, declared: frozenset[str]) -> None:
    """Undo what the library adds: types of initializers that had none written, metadata of tensors written twice."""
    stored = {tensor.name for tensor in graph.initializer} - declared
    kept = [info for info in graph.value_info if info.name not in stored or info.doc_string or info.metadata_props]
    if len(kept) < len(graph.value_info):
        fresh = onnx.GraphProto(value_info=kept)
        graph.ClearField("value_info")
        graph.value_info.MergeFrom(fresh.value_info)
    tensors = [*graph.initializer, *(attr.t for node in graph.node for attr in node.attribute if attr.HasField("t"))]
    for tensor in tensors:
        if len(tensor.metadata_props) > 1:
            once = {entry.key: entry.value for entry in tensor.metadata_props}
            tensor.ClearField("metadata_props")
            for key, value in once.items():
                tensor.metadata_props.add(key=key, value=value)


def _from_surgeon(graph: Any) -> onnx.ModelProto:
    import onnx_graphsurgeon

    try:
        narrow = [t.name for t in graph.tensors().values() if getattr(t.dtype, "name", "") == "float8_e4m3fnuz"]
        if narrow:
            raise UnsupportedModelError(f"onnx_graphsurgeon writes tensor {narrow[0]!r} in another float8: pass the proto")
        return onnx_graphsurgeon.export_onnx(graph)
    except UnsupportedModelError:
        raise
    except Exception as error:  # the library raises whatever its parts raise
        raise UnsupportedModelError(f"onnx_graphsurgeon cannot export the graph: {_innermost(error)}") from error


def _to_surgeon(proto: onnx.ModelProto) -> Any:
    import onnx_graphsurgeon

    try:
        return onnx_graphsurgeon.import_onnx(proto)
    except Exception as error:  # the library raises whatever its parts raise
        raise UnsupportedModelError(
            f"onnx_graphsurgeon cannot hold the model ({_innermost(error)}): pass the onnx.ModelProto instead"
        ) from error


# ---- to files ---------------------------------------------------------------------------------------------


def save(model: onnx.ModelProto | ir.Model, path: "str | os.PathLike[str]") -> None:
    """Write a model to a file, whole or not at all.

    Weights go into one file beside it, `<name>.onnx.data`, where they are above 2 GB or lay in such files before; they
    are written one at a time, so that lazy ones need no more memory than the largest of them.

    ```python
    save(read("model.onnx"), "copy.onnx")
    ```
    """
    path = Path(path)
    if path.is_dir():
        raise FileFormatError(f"{path} is a folder: name the file to write, such as {path / 'model.onnx'}")
    if isinstance(model, onnx.ModelProto):
        try:
            data = model.SerializeToString()
        except (Error, ValueError):  # above 2 GB
            model = read(model)
        else:
            _write(data, path)
            return
    origin = model.graph.meta.get(_ORIGIN, Origin(None, frozenset()))
    if origin.files or _weight(model) > LIMIT:
        _save_apart(model, path, origin)
    else:
        _write(_to_proto(model).SerializeToString(), path)


def _write(data: bytes, path: Path) -> None:
    with atomic_path(path) as tmp:
        tmp.write_bytes(data)


def _save_apart(model: ir.Model, path: Path, origin: Origin) -> None:
    """Both files are written under other names, and moved when both are whole."""
    beside = path.with_name(f"{path.name}.data")
    for target in (path, beside):
        if target.is_dir():
            raise FileFormatError(f"{target} is a folder: choose another name for the model")
        if target.resolve() in origin.files and path.resolve() != origin.path:
            raise FileFormatError(f"{target} holds weights of the model that is being read: choose another name")
    with atomic_path(beside) as data, atomic_path(path) as program:
        stubs = _write_tensors(model, data, beside.name)
        program.write_bytes(_to_proto(model, stubs).SerializeToString())


def _write_tensors(model: ir.Model, file: Path, location: str) -> dict[ir.Value, ir.ExternalTensor]:
    """Write large initializers one by one; what stands in for them in the model's file."""
    stubs = {}
    with open(file, "wb") as out:
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _SMALL or tensor.dtype == ir.DataType.STRING:
                    continue
                out.seek(-out.tell() % 64, os.SEEK_CUR)  # runtimes map the file and read numbers in place
                offset = out.tell()
                tensor.tofile(out)
                if out.tell() - offset != tensor.nbytes:
                    raise FileFormatError(f"tensor {value.name!r} gave {out.tell() - offset} bytes, not {tensor.nbytes}")
                stubs[value] = _stub(value, location, offset)
    return stubs


def _stub(value: ir.Value, location: str, offset: int) -> ir.ExternalTensor:
    tensor = value.const_value
    assert tensor is not None
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape),
        name=value.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )
