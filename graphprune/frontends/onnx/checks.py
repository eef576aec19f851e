"""Is an ONNX model whole? What is damaged or not handled is refused here, before anything else looks at it.

Later stages may rely on this: names are unique, what is read exists, nodes can be put in order, attributes and the
number of operands are those of the operator, tensors have as many bytes as their sizes say.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx
import onnx_ir as ir
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from ...errors import FileFormatError, UnsupportedModelError
from .tensors import check_tensor, check_type

_OLDEST, _NEWEST = 7, onnx.defs.onnx_opset_version()
_OLDEST_FORMAT, _NEWEST_FORMAT = 3, int(onnx.IR_VERSION)
_DEPTH = 30
"""Graphs inside of graphs; files of protobuf cannot nest much deeper."""

_SCHEMA_ATTR = {int(kind): kind.name for kind in ir.AttributeType}
_BODIES = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def check(model: ModelProto) -> bool:
    """Raise an error of ours unless a model is whole and can be read; says whether its nodes are in order.

    ```python
    check(onnx.load("model.onnx"))
    ```
    """
    try:
        opsets = _versions(model)
        _no_losses(model)
        checker = _Checker(opsets, frozenset((_domain(f.domain), f.name, f.overload) for f in model.functions))
        checker.graph(model.graph, "the model", 0)
        checker.functions(model.functions)
    except UnicodeDecodeError as error:
        raise FileFormatError(f"an attribute of the model is no valid text (UTF-8): {error.object[:60]!r}") from error
    return checker.ordered


def graphs_of(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph and all graphs in its nodes and in functions."""
    yield model.graph
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _inner(nodes)


def _inner(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    for node in nodes:
        for attr in node.attribute:
            if attr.type in _BODIES:
                for graph in _bodies(attr):
                    yield graph
                    yield from _inner(graph.node)


def _bodies(attr: AttributeProto) -> list[GraphProto]:
    return [attr.g] if attr.type == AttributeProto.GRAPH else list(attr.graphs)


# ---- the model as a whole ---------------------------------------------------------------------------------


def _versions(model: ModelProto) -> dict[str, int]:
    """The opset of every domain."""
    if not model.HasField("graph"):
        raise FileFormatError("the model has no graph: export it again")
    if not _OLDEST_FORMAT <= model.ir_version <= _NEWEST_FORMAT:
        how = (
            "upgrade the onnx package" if model.ir_version > _NEWEST_FORMAT else "export it again with a newer exporter"
        )
        raise UnsupportedModelError(
            f"the model is of IR version {model.ir_version}; {_OLDEST_FORMAT} to {_NEWEST_FORMAT} are read: {how}"
        )
    opsets = _imports(model.opset_import, "the model")
    if not opsets:
        raise FileFormatError("the model does not say which opset it uses: export it again (opset_import is empty)")
    version = opsets.get("", _NEWEST)
    if not _OLDEST <= version <= _NEWEST:
        how = "upgrade the onnx package" if version > _NEWEST else "convert it (onnx.version_converter.convert_version)"
        raise UnsupportedModelError(f"the model uses opset {version}; {_OLDEST} to {_NEWEST} are read: {how}")
    return opsets


def _imports(entries: Iterable[Any], where: str) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for entry in entries:
        domain = _domain(entry.domain)
        if domain in opsets:
            raise FileFormatError(f"{where} imports the opset of domain {domain!r} twice: keep one version")
        if entry.version < 1:
            raise FileFormatError(f"{where} imports version {entry.version} of domain {domain!r}: versions begin at 1")
        opsets[domain] = entry.version
    return opsets


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _no_losses(model: ModelProto) -> None:
    """Refuse what would get lost on the way."""
    if model.training_info:
        raise UnsupportedModelError(
            "the model holds a training loop (training_info), which pruning would not bring in line: "
            "remove it with model.ClearField('training_info')"
        )
    _once((entry.key for entry in model.metadata_props), "metadata_props of the model have", "key")
    _once(((f.domain, f.name, f.overload) for f in model.functions), "the model has", "function")


def _once(names: Iterable[Any], what: str, kind: str) -> set[Any]:
    seen = set()
    for name in names:
        if name in seen:
            raise FileFormatError(f"{what} two times the {kind} {name!r}: give every one its own name")
        seen.add(name)
    return seen


def _texts(names: Iterable[Any]) -> None:
    """Names are text; protobuf gives bytes for those that are not."""
    for name in names:
        if not isinstance(name, str):
            raise FileFormatError(
                f"the name {name[:60]!r} in the model is no valid text (UTF-8): export the model again"
            )


# ---- graphs and nodes -------------------------------------------------------------------------------------


@dataclass
class _Checker:
    """Walks graphs; `ordered` turns False where a node comes before what it reads."""

    opsets: dict[str, int]
    known: frozenset[tuple[str, str, str]]
    ordered: bool = True
    calls: dict[tuple[str, str, str], set[tuple[str, str, str]]] = field(default_factory=dict)
    inside: tuple[str, str, str] | None = None

    def graph(self, graph: GraphProto, where: str, depth: int) -> dict[str, str]:
        """Check a graph; returns the names that it reads from outside, with who reads them."""
        if depth > _DEPTH:
            raise UnsupportedModelError(f"{where} lies more than {_DEPTH} graphs deep: flatten the control flow")
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise UnsupportedModelError(
                f"sparse initializer {name!r} of {where} is not handled: store it as a dense one"
            )
        _texts(
            item.name for items in (graph.input, graph.output, graph.initializer, graph.value_info) for item in items
        )
        inputs = _once((info.name for info in graph.input), f"{where} has", "input")
        stored = _once((tensor.name for tensor in graph.initializer), f"{where} has", "initializer")
        if "" in inputs | stored:
            raise FileFormatError(f"{where} has an {'input' if '' in inputs else 'initializer'} without a name")
        for tensor in graph.initializer:
            check_tensor(tensor, f"initializer {tensor.name!r}")
        for info in (*graph.input, *graph.output, *graph.value_info):
            check_type(info.type, f"value {info.name!r} of {where}")
        for info in graph.input:
            if depth == 0 and info.name not in stored and info.type.WhichOneof("value") is None:
                raise FileFormatError(f"input {info.name!r} of {where} has no type: export the model again")
        outputs = _once((info.name for info in graph.output), f"{where} has", "output")
        free = self.nodes(graph.node, inputs | stored, outputs, where, depth)
        if free and depth == 0:
            name, reader = next(iter(free.items()))
            raise FileFormatError(
                f"{reader} reads {name!r}, but no input, initializer or node of {where} has that name"
            )
        return free

    def nodes(
        self, nodes: Iterable[NodeProto], given: set[str], outputs: Iterable[str], where: str, depth: int
    ) -> dict[str, str]:
        """Check nodes and how they hang together; returns the names that they read from outside."""
        nodes = list(nodes)
        for node in nodes:
            _texts((node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)))
        made: dict[str, int] = {}
        for place, node in enumerate(nodes):
            for name in filter(None, node.output):
                if name in made or name in given:
                    other = label(nodes[made[name]]) if name in made else "an input or initializer"
                    raise FileFormatError(
                        f"{label(node)} of {where} gives {name!r}, a name that {other} has too: rename one of them"
                    )
                made[name] = place
        free: dict[str, str] = {}
        needs: list[set[int]] = []
        for place, node in enumerate(nodes):
            reads = {name: f"{label(node)} of {where}" for name in node.input if name}
            reads.update(self.node(node, where, depth))
            needs.append({made[name] for name in reads if name in made})
            self.ordered &= all(other < place for other in needs[-1])
            free.update((name, reader) for name, reader in reads.items() if name not in made and name not in given)
        if not self.ordered:
            _refuse_cycles(nodes, needs, where)
        for name in outputs:
            if name not in made and name not in given:
                raise FileFormatError(f"output {name!r} of {where} is given by no node: put an Identity before it")
        return free

    def node(self, node: NodeProto, where: str, depth: int) -> dict[str, str]:
        """Check one node; returns the names that graphs inside of it read from around it."""
        domain, who = _domain(node.domain), f"{label(node)} of {where}"
        if not node.op_type:
            raise FileFormatError(f"{who} has no operator")
        if domain not in self.opsets:
            raise FileFormatError(
                f"{who} is of domain {domain!r}, which the model does not import: add it to opset_import"
            )
        _once((attr.name for attr in node.attribute), f"{who} has", "attribute")
        free: dict[str, str] = {}
        for attr in node.attribute:
            self.attribute(attr, who)
            if attr.type in _BODIES and not attr.ref_attr_name:
                for body in _bodies(attr):
                    free |= self.graph(body, f"graph {attr.name!r} in {who}", depth + 1)
        call = (domain, node.op_type, node.overload)
        if call in self.known:
            if self.inside is not None:
                self.calls[self.inside].add(call)
            return free
        schema = _schema(node.op_type, self.opsets[domain], domain)
        if schema is not None:
            for attr in node.attribute:
                attr.s.decode("utf-8")  # operators of others may hold what they like
            _check_call(node, schema, who)
        return free

    def attribute(self, attr: AttributeProto, who: str) -> None:
        """Check an attribute by itself."""
        what = f"attribute {attr.name!r} of {who}"
        if attr.ref_attr_name:
            if self.inside is None:
                raise FileFormatError(f"{what} refers to an attribute of a function, but is in none")
        elif attr.type in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
            raise UnsupportedModelError(f"{what} is a sparse tensor, which is not handled: store a dense one")
        elif attr.type == AttributeProto.UNDEFINED or attr.type not in AttributeProto.AttributeType.values():
            raise FileFormatError(f"{what} is of unknown type {attr.type}: export the model again")
        elif attr.type == AttributeProto.TENSOR:
            check_tensor(attr.t, what)
        for tensor in attr.tensors:
            check_tensor(tensor, what)
        if attr.type == AttributeProto.STRINGS:
            for text in attr.strings:
                text.decode("utf-8")

    def functions(self, functions: Iterable[FunctionProto]) -> None:
        """Check the bodies of functions, and that none runs itself."""
        names = self.opsets
        for function in functions:
            where = f"function {function.name!r}"
            self.inside = (_domain(function.domain), function.name, function.overload)
            self.calls[self.inside] = set()
            self.opsets = _imports(function.opset_import, where) or names
            inputs = _once(function.input, f"{where} has", "input")
            free = self.nodes(function.node, inputs, function.output, where, 1)
            if free:
                name, reader = next(iter(free.items()))
                raise FileFormatError(f"{reader} reads {name!r}, but no input or node of the function has that name")
        try:
            TopologicalSorter(self.calls).prepare()
        except CycleError as error:
            raise FileFormatError(f"function {error.args[1][0][1]!r} runs itself: take it apart") from None


def label(node: NodeProto) -> str:
    """How errors name a node."""
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} that gives {', '.join(node.output)!r}"


def _refuse_cycles(nodes: list[NodeProto], needs: list[set[int]], where: str) -> None:
    try:
        TopologicalSorter(dict(enumerate(needs))).prepare()
    except CycleError as error:
        ring = [label(nodes[place]) for place in reversed(error.args[1])]
        shown = ring if len(ring) <= 6 else [*ring[:3], "...", *ring[-2:]]
        raise FileFormatError(f"nodes of {where} wait for each other: {' -> '.join(shown)}") from None


@cache
def _schema(op: str, version: int, domain: str) -> Any:
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except (onnx.defs.SchemaError, TypeError):
        return None
    return None if schema.deprecated else schema


def _check_call(node: NodeProto, schema: Any, who: str) -> None:
    """The operands and attributes of a node are those that its operator takes."""
    for attr in node.attribute if node.op_type == "If" else ():
        if attr.HasField("g") and len(attr.g.output) != len(node.output):
            raise FileFormatError(
                f"{who} has {len(node.output)} outputs, but its {attr.name} gives {len(attr.g.output)}: "
                "export the model again"
            )
    for kind, names, least, most in (
        ("inputs", node.input, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            wanted = str(least) if least == most else f"{least} to {most}" if most < 2**31 - 1 else f"at least {least}"
            raise FileFormatError(f"{who} has {len(names)} {kind}; the operator takes {wanted}: export the model again")
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for name, formal in zip(node.input, schema.inputs, strict=False):
        if not name and formal.option == single:
            raise FileFormatError(f"{who} lacks its input {formal.name!r}: export the model again")
    given = {attr.name: attr for attr in node.attribute}
    for name, attr in given.items():
        formal = schema.attributes.get(name)
        if formal is None:
            if name.startswith("__"):
                continue
            raise FileFormatError(f"{who} has an attribute {name!r}, which the operator does not know: remove it")
        if attr.type != formal.type.value:
            kinds = _SCHEMA_ATTR.get(attr.type, str(attr.type)), _SCHEMA_ATTR.get(formal.type.value, "another")
            raise FileFormatError(f"attribute {name!r} of {who} is of type {kinds[0]}; the operator takes {kinds[1]}")
    for name, formal in schema.attributes.items():
        if formal.required and name not in given:
            raise FileFormatError(f"{who} lacks its attribute {name!r}: export the model again")
