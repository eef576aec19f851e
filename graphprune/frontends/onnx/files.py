"""The border of the ONNX frontend: what users give becomes a checked `onnx_ir.Model`, and the same kind goes back."""

import os
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ...errors import FileFormatError, UnsupportedModelError
from .checks import check
from .messages import DECLARED, all_graphs, innermost, stub, to_proto, weight
from .saving import BESIDE, LIMIT, save
from .stored import ORIGIN, Folder, Origin, stored_tensor
from .tensors import check_tensor

__all__ = ["give_back", "is_path", "is_surgeon", "parse", "read", "save"]

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


def read(origin: Any) -> ir.Model:
    """A checked model, from a path, an `onnx.ModelProto`, an `onnx_ir.Model` or an `onnx_graphsurgeon.Graph`.

    The origin is not modified. Weights are shared with it, or read from files when they are used.

    ```python
    import onnx
    from graphprune.frontends.onnx.files import read

    text = "<ir_version: 8, opset_import: ['': 17]> f (float[1] x) => (float[1] y) { y = Relu(x) }"
    proto = onnx.parser.parse_model(text)
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
        f"a model of type {type(origin).__name__} is no ONNX model: pass a path to an .onnx file, an "
        "onnx.ModelProto, an onnx_ir.Model or an onnx_graphsurgeon.Graph"
    )


def give_back(model: ir.Model, origin: Any) -> Any:
    """The model as the kind of thing that `origin` is.

    For a path that is an `onnx.ModelProto` with all weights inside. Where they are above 2 GB, or above 256 MB and lie
    beside the model, it is an `onnx_ir.Model`, which computes them when they are written.
    """
    beside = model.graph.meta.get(ORIGIN, Origin(None, frozenset())).files
    if isinstance(origin, ir.Model) or (is_path(origin) and weight(model) > (BESIDE if beside else LIMIT)):
        return model
    proto = to_proto(model)
    return _to_surgeon(proto) if is_surgeon(origin) else proto


def is_path(origin: Any) -> bool:
    """Whether a model is given by the path to its file."""
    return isinstance(origin, (str, os.PathLike))


def is_surgeon(origin: Any) -> bool:
    """Whether a model is a Graph of onnx_graphsurgeon, which is not imported for this."""
    return any(
        kind.__qualname__ == "Graph" and kind.__module__.startswith("onnx_graphsurgeon")
        for kind in type(origin).__mro__
    )


def parse(path: Path) -> onnx.ModelProto:
    """The message in a file; says what the file looks like where it holds no model."""
    try:
        if not path.is_file():
            what = "is a folder or a device, no file" if path.exists() else "does not exist"
            raise FileFormatError(f"{path} {what}: pass the path to an .onnx file")
        size = path.stat().st_size
        if size >= 2**31:
            hint = f"it looks like {kind}" if (kind := _looks_like(path)) else "keep the weights in a file beside it"
            raise FileFormatError(
                f"{path} has {size / 2**30:.1f} GiB, and a model in one file (protobuf) holds at most 2: {hint} "
                "(onnx.save(model, path, save_as_external_data=True))"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path} cannot be read: {error}") from error
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
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
        raise UnsupportedModelError(f"the model has a part that cannot be read: {innermost(error)}") from error
    model.graph.meta[DECLARED] = frozenset(info.name for info in proto.graph.value_info)
    if not ordered:
        model.graph.sort()
        for function in model.functions.values():
            function.sort()
    return _completed(model, path)


def _from_ir(origin: ir.Model) -> ir.Model:
    """A copy: its tensors are shared, everything else is its own."""
    stubs = {}
    for graph in origin.graphs():
        for value in graph.initializers.values():
            if value.const_value is None:
                raise FileFormatError(f"initializer {value.name!r} has no numbers: set its const_value")
            if isinstance(value.const_value, ir.serde.TensorProtoTensor):
                check_tensor(value.const_value.raw, f"initializer {value.name!r}")
            stubs[value] = stub(value, "elsewhere", 0)
    if not check(to_proto(origin, stubs)):
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
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        if "ai.onnx" in imports:
            imports[""] = imports.pop("ai.onnx")
    files = frozenset(file.path for folder in folders.values() for file in folder.files.values())
    model.graph.meta[ORIGIN] = Origin(None if path is None else path.resolve(), files)
    return model


def _from_surgeon(graph: Any) -> onnx.ModelProto:
    import onnx_graphsurgeon

    try:
        narrow = [t.name for t in graph.tensors().values() if getattr(t.dtype, "name", "") == "float8_e4m3fnuz"]
        if narrow:
            raise UnsupportedModelError(
                f"onnx_graphsurgeon writes tensor {narrow[0]!r} in another float8: pass the proto"
            )
        proto: onnx.ModelProto = onnx_graphsurgeon.export_onnx(graph)
        return proto
    except UnsupportedModelError:
        raise
    except Exception as error:  # the library raises whatever its parts raise
        raise UnsupportedModelError(f"onnx_graphsurgeon cannot export the graph: {innermost(error)}") from error


def _to_surgeon(proto: onnx.ModelProto) -> Any:
    import onnx_graphsurgeon

    try:
        return onnx_graphsurgeon.import_onnx(proto)
    except Exception as error:  # the library raises whatever its parts raise
        raise UnsupportedModelError(
            f"onnx_graphsurgeon cannot hold the model ({innermost(error)}): pass the onnx.ModelProto instead"
        ) from error
