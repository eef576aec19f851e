"""The tracer: record one run of a module, on meta tensors where possible, and build the Graph from it.

A run under a `TorchFunctionMode` sees every torch call whatever the control flow around it. On a copy of the
module whose parameters are meta tensors it needs no memory and no arithmetic. Functions of torch that are
written in Python and have no entry in the translation table are entered, so that the operations inside are
seen instead.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import fx
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ...graph import Graph, Node, Value
from ...ops import is_registered
from .attention import open_attention
from .calls import Call, Translated, Unsupported, base_name, is_inplace
from .inputs import Inputs
from .names import QUIET, TRANSLATIONS
from .opening import opened
from .shortcuts import shortcut
from .twins import Stored, device_of, stored_tensors, twin_of

_MARK = "_graphprune_value"


class Recorder(TorchFunctionMode):
    """Turns torch calls into nodes of a Graph while it is active."""

    def __init__(self, names: dict[int, str], kinds: dict[int, str], dry: bool) -> None:
        super().__init__()
        self.dry = dry
        self.graph = Graph(numeric=not dry)
        self.names, self.kinds = names, kinds
        self.scopes: list[str] = []
        self.measured = True
        self.counts: dict[str, int] = {}
        self.versions: dict[int, int] = {}
        self.marked: list[torch.Tensor] = []
        self.handle: Any = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch call and record it."""
        kwargs = kwargs or {}
        name = base_name(func)
        if name in QUIET:
            return func(*args, **kwargs)
        if name not in TRANSLATIONS:
            inside = opened(func)
            if inside is not None:
                with self:
                    return inside(*args, **kwargs)
        before: dict[int, Value] = {}
        translated = _exchange(args, self._value, before), _exchange(kwargs, self._value, before)
        inplace = is_inplace(func, kwargs)
        result = shortcut(name, args, kwargs, inplace) if self.dry else None
        if result is None:
            result = self.compute(func, args, kwargs)
        self._record(name, inplace, args, translated, result, tuple(before.values()))
        return result

    def compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What one call gives; verification computes some of them over living positions only."""
        return func(*args, **kwargs)

    def _record(
        self,
        name: str,
        inplace: bool,
        args: tuple[Any, ...],
        translated: tuple[tuple[Any, ...], dict[str, Any]],
        result: Any,
        before: tuple[Value, ...],
    ) -> None:
        written = name == "__setitem__"
        produced = [args[0]] if written else _tensors(result)
        if not produced:
            return
        call = Call(name, *translated, tuple(tuple(tensor.shape) for tensor in produced))
        try:
            if name in TRANSLATIONS:
                operation, inputs, attrs = TRANSLATIONS[name](call)
            else:
                operation, inputs, attrs = _registered(call) if is_registered(name) else _unknown(name, before)
        except Unsupported as reason:
            operation, inputs, attrs = "unknown", before, {"name": name, "reason": str(reason), "unlock": reason.unlock}
        if not before and operation == "unknown":
            operation = "constant"
        outputs = tuple(self._fresh(operation, tensor) for tensor in produced)
        if operation == "fill":
            outputs[0].kind = "uniform"
        for value in inputs:
            if value is not None:
                value.uses += 1
        scope = self.scopes[-1] if self.scopes else ""
        node = Node(outputs[0].name, operation, inputs, outputs, attrs, scope, self.measured, self.handle)
        self.graph.nodes.append(node)
        for tensor, value in zip(produced, outputs, strict=True):
            self._mark(tensor, value, inplace or written)

    def _fresh(self, operation: str, tensor: torch.Tensor) -> Value:
        number = self.counts[operation] = self.counts.get(operation, 0) + 1
        return Value(f"{operation}_{number}", tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    def _mark(self, tensor: torch.Tensor, value: Value, inplace: bool) -> None:
        """Remember the value of a tensor; a write in place makes every other view of its storage stale."""
        storage = _storage(tensor)
        if inplace:
            self.versions[storage] = self.versions.get(storage, 0) + 1
        setattr(tensor, _MARK, (self, value, self.versions.get(storage, 0)))
        self.marked.append(tensor)

    def _value(self, tensor: torch.Tensor) -> Value:
        mark: tuple[Recorder, Value, int] | None = getattr(tensor, _MARK, None)
        if mark is not None and mark[0] is self:
            if mark[2] == self.versions.get(_storage(tensor), 0):
                return mark[1]
            return self._stale(tensor, mark[1])
        name = self.names.get(id(tensor))
        if name is None:  # a tensor that the module does not own: a global, a default argument
            value = self._fresh("outside", tensor)
            value.kind = "outside"
        else:
            value = self.leaf(name, tensor)
        self._mark(tensor, value, False)
        return value

    def known(self, tensor: torch.Tensor) -> str:
        """The name of the value of a tensor; empty where the graph has not seen it."""
        mark: tuple[Recorder, Value, int] | None = getattr(tensor, _MARK, None)
        return mark[1].name if mark is not None and mark[0] is self else self.names.get(id(tensor), "")

    def leaf(self, name: str, tensor: torch.Tensor) -> Value:
        """The value of a stored tensor."""
        if name not in self.graph.leaves:
            dtype = str(tensor.dtype).removeprefix("torch.")
            self.graph.leaves[name] = Value(name, tuple(tensor.shape), dtype, self.kinds[id(tensor)])
        return self.graph.leaves[name]

    def _stale(self, tensor: torch.Tensor, old: Value) -> Value:
        """A view of storage that was since written through another view: what it holds is not known."""
        value = self._fresh("unknown", tensor)
        reason = "is read after another view of the same memory was written in place"
        attrs = {"name": "alias", "reason": reason, "unlock": "write out of place"}
        self.graph.nodes.append(Node(value.name, "unknown", (old,), (value,), attrs, measured=self.measured))
        self._mark(tensor, value, False)
        return value

    def open(self, inputs: Inputs, device: "str | torch.device") -> Inputs:
        """Copies of the inputs, known as inputs of the graph."""
        arguments: Inputs = tree_map(lambda item: _input(item, device), inputs)
        for position, tensor in enumerate(_tensors(arguments)):
            dtype = str(tensor.dtype).removeprefix("torch.")
            value = Value(f"input_{position + 1}", tuple(tensor.shape), dtype, "input")
            self.graph.inputs.append(value)
            self._mark(tensor, value, False)
        return arguments

    def finish(self) -> None:
        """Take the marks off all tensors."""
        for tensor in self.marked:
            if hasattr(tensor, _MARK):
                delattr(tensor, _MARK)
        self.marked.clear()


def _storage(tensor: torch.Tensor) -> int:
    """What memory a tensor lives in; the batched tensors inside `torch.vmap` do not tell, and count as their own."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:
        return -id(tensor)


def _unknown(name: str, before: tuple[Value, ...]) -> Translated:
    return "unknown", before, {"name": name}


def _registered(call: Call) -> Translated:
    """An operator of the user's, with a rule for its tensors in order; the rest are attributes."""
    tensors = tuple(item for item in tree_leaves(call.args) if isinstance(item, Value))
    if any(isinstance(item, Value) for item in tree_leaves(call.kwargs)):
        raise Unsupported(f"'{call.name}' is given a tensor by keyword", "pass its tensors by position")
    others = tuple(item for item in call.args if not isinstance(item, Value))
    return call.name, tensors, {"arguments": others, **call.kwargs}


def _tensors(tree: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dictionaries; other containers as pytree knows them."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if tree is None or isinstance(tree, (int, float, str)):
        return []
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _exchange(tree: Any, value_of: Callable[[torch.Tensor], Value], seen: dict[int, Value]) -> Any:
    """Nested arguments with tensors replaced by their values; `seen` collects the values in order."""
    if isinstance(tree, torch.Tensor):
        if id(tree) not in seen:
            seen[id(tree)] = value_of(tree)
        return seen[id(tree)]
    if isinstance(tree, (tuple, list)):
        items = [_exchange(item, value_of, seen) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: _exchange(item, value_of, seen) for key, item in tree.items()}
    return tree


Kind = TypeVar("Kind", bound=Recorder)


@contextmanager
def _scoped(module: torch.nn.Module, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which submodule is running."""
    names = {id(part): name for name, part in module.named_modules()}

    def enter(part: torch.nn.Module, _: Any) -> None:
        if id(part) in names:
            recorder.scopes.append(names[id(part)])

    def leave(part: torch.nn.Module, _: Any, __: Any) -> None:
        if id(part) in names:
            recorder.scopes.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _autocast_on_meta() -> Iterator[None]:
    """Let `torch.autocast(x.device.type)` pass for meta tensors, which torch refuses even to switch it off."""
    original = torch.autocast.__init__

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        original(self, "cpu" if device_type == "meta" else device_type, *args, **kwargs)

    torch.autocast.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__init__ = original  # type: ignore[method-assign]


def record(module: torch.nn.Module, inputs: Inputs, device: str | None) -> Graph:
    """Record a run of a copy of `module`; with `device` "meta" nothing is computed. Raises whatever the run raises."""
    twin, recorder = prepare(module, device, Recorder)
    run_recorded(recorder, twin, inputs, device)
    return recorder.graph


def record_partly(module: torch.nn.Module, inputs: Inputs) -> Graph:
    """What can be recorded of a run that may fail: the operations before it does."""
    graphs = []
    for device in ("meta", None):
        twin, recorder = prepare(module, device, Recorder)
        graphs.append(recorder.graph)
        try:
            run_recorded(recorder, twin, inputs, device)
            break
        except Exception:  # where it fails is what is asked for
            continue
    return max(graphs, key=lambda graph: len(graph.nodes))


def prepare(module: torch.nn.Module, device: str | None, recording: type[Kind]) -> tuple[torch.nn.Module, Kind]:
    """A copy of a module to run, and the recorder that knows its tensors."""
    twin, stored = twin_of(module, device)
    open_attention(twin)
    recorder = recorder_for(stored, recording, dry=device == "meta")
    for name, tensor, _ in stored_tensors(module):
        if name in recorder.graph.leaves:
            recorder.graph.leaves[name].numbers = _whole_numbers(tensor)
    return twin, recorder


def run_recorded(recorder: Recorder, twin: torch.nn.Module, inputs: Inputs, device: str | None) -> None:
    """Run a prepared copy.

    Parameters that the run leaves unused are looked for in a second run in training mode (auxiliary heads).
    """
    try:
        arguments = recorder.open(inputs, device or device_of(twin))
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _scoped(twin, recorder), _autocast_on_meta():
            torch.default_generator.manual_seed(0)  # layers that are left out at random, the same ones every time
            _run(recorder, twin, arguments)
            if any(leaf.kind == "parameter" and leaf.uses == 0 for leaf in recorder.graph.leaves.values()):
                _run_training(recorder, twin, arguments)
    finally:
        recorder.finish()


def _whole_numbers(tensor: torch.Tensor) -> Any:
    """What a stored tensor of positions holds, as numpy; None for other tensors."""
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool or tensor.is_meta)
    return tensor.detach().cpu().long().numpy() if whole and tensor.ndim == 1 else None


def recorder_for(stored: Stored, recording: type[Kind], dry: bool) -> Kind:
    """A recorder that knows the stored tensors of a module."""
    names: dict[int, str] = {}
    kinds: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor, kind in stored:
        if id(tensor) in names:
            aliases[name] = names[id(tensor)]
        else:
            names[id(tensor)], kinds[id(tensor)] = name, kind
    recorder = recording(names, kinds, dry)
    for name, tensor, _ in stored:
        if name not in aliases:
            recorder.leaf(name, tensor)
    recorder.graph.aliases = aliases
    return recorder


def _input(item: Any, device: "str | torch.device") -> Any:
    return item.detach().to(device, copy=True) if isinstance(item, torch.Tensor) else item


class _Interpreter(fx.Interpreter):
    """Runs a GraphModule node by node, so that the recorder knows which one it sees."""

    def __init__(self, module: fx.GraphModule, recorder: Recorder) -> None:
        super().__init__(module)
        self.recorder, self.program = recorder, module.graph

    def run_node(self, n: fx.Node) -> Any:
        """Run one node under its name."""
        self.recorder.handle = n.name
        return super().run_node(n)

    def call(self, arguments: Inputs) -> Any:
        """Run with positional and keyword inputs."""
        if not arguments.kwargs:
            return self.run(*arguments.args)
        if getattr(self.program._codegen, "pytree_info", None) is not None:
            flat = tree_leaves((arguments.args, arguments.kwargs))
            return self.program.process_outputs(self.run(*flat, enable_io_processing=False))
        names = [node.target for node in self.program.nodes if node.op == "placeholder"]
        rest = [arguments.kwargs[name] for name in names[len(arguments.args) :] if name in arguments.kwargs]
        return self.run(*arguments.args, *rest)


def _run(recorder: Recorder, twin: torch.nn.Module, arguments: Inputs) -> None:
    with recorder:
        if isinstance(twin, fx.GraphModule):
            result = _Interpreter(twin, recorder).call(arguments)
        else:
            result = twin(*arguments.args, **arguments.kwargs)
    for leaf in tree_leaves(_plain(result)):
        if isinstance(leaf, torch.Tensor):
            value = recorder._value(leaf)
            value.uses += 1
            recorder.graph.outputs.append(value)


def _run_training(recorder: Recorder, twin: torch.nn.Module, arguments: Inputs) -> None:
    """Auxiliary heads run in training only; they couple channels but cost nothing at inference."""
    nodes, outputs = len(recorder.graph.nodes), len(recorder.graph.outputs)
    uses = {leaf: leaf.uses for leaf in recorder.graph.leaves.values() if leaf.uses}
    recorder.measured = False
    recorder.scopes.clear()
    for part in twin.modules():
        part.training = not part._parameters and not part._buffers and bool(part._modules)
    try:
        _run(recorder, twin, arguments)
    except Exception:  # what the training path needs may not be there; unused parameters stay locked
        del recorder.graph.nodes[nodes:], recorder.graph.outputs[outputs:]
    finally:
        twin.eval()
        for leaf, number in uses.items():  # what inference reads once is read once
            leaf.uses = number


def _plain(result: Any) -> Any:
    """Outputs of classes that pytree does not know (dataclasses, plain objects) as dictionaries."""
    if isinstance(result, (torch.Tensor, list, tuple, dict)) or not hasattr(result, "__dict__"):
        return result
    return {key: item for key, item in vars(result).items()}
