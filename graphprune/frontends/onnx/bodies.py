"""The definitions of operators in the ONNX standard: function bodies, inlined where they are written for an opset."""

from typing import Any

import onnx
import onnx_ir as ir

from .builder import Builder, CannotExpand


def function_body(builder: Builder) -> list[ir.Value | None]:
    """The standard's definition of an operator, where it is written for this opset."""
    node = builder.node
    if node.domain:
        raise CannotExpand("no standard operator")
    try:
        schema = onnx.defs.get_schema(node.op_type, builder.opset)
    except onnx.defs.SchemaError as error:
        raise CannotExpand(str(error)) from error
    body = _body_text(schema, node, builder.opset)
    if body is None or not _same_dialect(body, builder.opset):
        raise CannotExpand("no definition for this opset")
    return _inlined(builder, body, schema)


def _body_text(schema: Any, node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    if schema.has_function:
        versions = [version for version in schema.function_opset_versions if version <= opset]
        raw = schema.get_function_with_opset_version(max(versions)) if versions else b""
    elif schema.has_context_dependent_function:
        if any(value is not None and value.type is None for value in node.inputs):
            return None
        types = [_type_text(value) for value in node.inputs]
        versions = [version for version in schema.context_dependent_function_opset_versions if version <= opset]
        text = ir.to_proto(node).SerializeToString()
        raw = schema.get_context_dependent_function_with_opset_version(max(versions), text, types) if versions else b""
    else:
        return None
    return onnx.FunctionProto.FromString(raw) if raw else None


def _type_text(value: ir.Value | None) -> bytes:
    kind = onnx.TypeProto()
    if value is not None:
        kind.tensor_type.elem_type = int(value.dtype or 0)
        if value.shape is not None:
            for size in value.shape:
                dim = kind.tensor_type.shape.dim.add()
                if isinstance(size, int):
                    dim.dim_value = size
    return bytes(kind.SerializeToString())


def _same_dialect(body: onnx.FunctionProto, opset: int) -> bool:
    """Whether the operators of a body mean the same in the opset of the model."""
    written = {one.domain: one.version for one in body.opset_import}.get("", opset)

    def since(op: str, version: int) -> int:
        return int(onnx.defs.get_schema(op, version).since_version)

    try:
        return all(not node.domain and since(node.op_type, written) == since(node.op_type, opset) for node in body.node)
    except onnx.defs.SchemaError:
        return False


def _inlined(builder: Builder, body: onnx.FunctionProto, schema: Any) -> list[ir.Value | None]:
    """The outputs of a function with the inputs and attributes of the call; None for those that it does not give."""
    outputs, given = list(body.output), {name for node in body.node for name in node.output}
    del body.output[:]
    body.output.extend(name for name in outputs if name in given)
    function = ir.from_proto(body)
    assert isinstance(function, ir.Function)
    values: dict[ir.Value | None, ir.Value | None] = dict(zip(function.inputs, builder.inputs, strict=False))
    for node in function:
        attributes: dict[str, Any] = {}
        for name, attribute in node.attributes.items():
            given = _given(builder.node, attribute.ref_attr_name, schema) if attribute.is_ref() else attribute
            if given is not None:
                attributes[name] = ir.Attr(name, given.type, given.value)
        inputs = [values[value] if value is not None else None for value in node.inputs]
        made = builder.many(node.op_type, *inputs, outputs=len(node.outputs), **attributes)
        values.update(zip(node.outputs, made, strict=True))
    found = {value.name: values[value] for value in function.outputs}
    results = [found.get(name) for name in outputs]
    if any(value.uses() and new is None for value, new in zip(builder.node.outputs, results, strict=False)):
        raise CannotExpand("an output is wanted that the definition does not give")
    return results


def _given(node: ir.Node, name: str | None, schema: Any) -> ir.Attr | None:
    if name is None or name in node.attributes:
        return node.attributes[name] if name else None
    default = schema.attributes[name].default_value if name in schema.attributes else None
    return ir.from_proto(default) if default is not None and default.type else None
