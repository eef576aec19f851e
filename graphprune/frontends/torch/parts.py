"""Parts whose code holds sizes: single submodules get a `forward` with rewritten sizes, and the model keeps its class.

The code of such a part is traced as an fx graph for calls of the form that the example inputs make; its children stay
modules. The part becomes an instance of a subclass of its class whose `forward` is that graph.
"""

import inspect
import operator
import types
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, cast

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from ...analysis import Analysis
from ...graph import Shape
from ...plan import Plan
from ...shapes import Alive, shape_of
from .inputs import Inputs
from .record import Recorder, _Interpreter, prepare, run_recorded
from .rewriting import edit

Calls = dict[str, inspect.BoundArguments]


def same_kind(module: torch.nn.Module, path: str) -> set[str]:
    """The paths of all submodules that run the same code as one; layers of torch do so for no common cause."""
    kind = _name(module.get_submodule(path))
    if kind[0].startswith("torch."):
        return {path}
    return {name for name, part in module.named_modules() if name and _name(part) == kind}


def _name(part: torch.nn.Module) -> tuple[str, str]:
    return type(part).__module__, type(part).__qualname__


def rewrite_parts(
    slim: torch.nn.Module,
    module: torch.nn.Module,
    paths: Iterable[str],
    analysis: Analysis,
    plan: Plan,
    alive: Alive,
    inputs: Inputs,
) -> bool:
    """Rewrite the sizes in the code of parts of a slim copy of `module`, in place; False where it cannot be traced."""
    for device in ("meta", None):
        try:
            graphs = _graphs(module, sorted(paths, key=len, reverse=True), analysis, plan, alive, inputs, device)
        except Exception:  # noqa: S112  # code that no tracer follows fails in its own ways
            continue
        for path, graph in graphs.items():
            _give(slim.get_submodule(path), graph)
        return bool(graphs)
    return False


def _graphs(
    module: torch.nn.Module,
    paths: list[str],
    analysis: Analysis,
    plan: Plan,
    alive: Alive,
    inputs: Inputs,
    device: str | None,
) -> dict[str, fx.Graph]:
    """The code of every part that runs, with new sizes. Raises where it is not what the analysis has seen."""
    calls = _calls(module, paths, inputs, device)
    twin, recorder = prepare(module, device, Recorder)
    graphs = {path: _OwnCode(call).trace(twin.get_submodule(path)) for path, call in calls.items()}
    results: dict[fx.Node, str] = {}
    for path, graph in graphs.items():
        _follow(twin.get_submodule(path), graph, path, recorder, results)
    run_recorded(recorder, twin, inputs, device)
    shapes = {value.name: (value.shape, shape_of(value, layout, alive)) for value, layout in analysis.layouts.items()}
    shrinking = {node: shapes[name] for node, name in results.items() if name in shapes and len(set(shapes[name])) > 1}
    for tensor, (before, after) in shrinking.items():
        _fix_sizes(tensor, before, after)
    steps = {(path, step.name): step for path, graph in graphs.items() for step in graph.nodes}
    for node, own in zip(analysis.graph.nodes, recorder.graph.nodes, strict=True):
        if node.op != own.op or node.outputs[0].name != own.outputs[0].name:
            raise ValueError(f"{node} is not what the traced code runs")
        step = steps.pop(own.call, None)  # where a part runs twice, the first time tells
        if step is not None:
            edit(step, node, analysis, plan, alive)
    for path, graph in graphs.items():
        for read in graph.find_nodes(op="get_attr"):
            attrgetter(str(read.target))(module.get_submodule(path))  # raises for a tensor that tracing has added
        _drop_conditions(graph, set(shrinking))
        graph.lint()
    return graphs


def _fix_sizes(tensor: fx.Node, before: Shape, after: Shape) -> None:
    """Write down the sizes that are taken from a tensor along axes that shrink, as they were; edits look after them."""
    for shape in [user for user in tensor.users if user.target is getattr and user.args[1] == "shape"]:
        for size in [user for user in shape.users if user.target is operator.getitem and isinstance(user.args[1], int)]:
            axis = cast(int, size.args[1])
            if before[axis] != after[axis]:
                _replace(size, before[axis])


def _replace(step: fx.Node, number: int) -> None:
    def changed(node: fx.Node) -> Any:
        return number if node is step else node

    for user in list(step.users):
        user.args, user.kwargs = fx.map_arg(user.args, changed), fx.map_arg(user.kwargs, changed)


def _drop_conditions(graph: fx.Graph, changed: set[fx.Node]) -> None:
    """Take away checks of conditions on sizes that change: what they compare is written into the code as well."""
    for check in graph.find_nodes(op="call_function", target=same):
        if check.args[2] == CONDITION and _depends(check, changed):
            graph.erase_node(check)


def _depends(node: fx.Node, changed: set[fx.Node]) -> bool:
    return any(source in changed or _depends(source, changed) for source in node.all_input_nodes)


def _calls(module: torch.nn.Module, paths: list[str], inputs: Inputs, device: str | None) -> Calls:
    """How each part is called first."""
    twin, recorder = prepare(module, device, Recorder)
    calls: Calls = {}

    def watch(path: str) -> Callable[..., None]:
        def hook(part: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path not in calls:
                calls[path] = inspect.signature(part.forward).bind(*args, **kwargs)
                calls[path].apply_defaults()

        return hook

    for path in paths:
        twin.get_submodule(path).register_forward_pre_hook(watch(path), with_kwargs=True)
    run_recorded(recorder, twin, inputs, device)
    return calls


class _OwnCode(fx.Tracer):
    """Traces the code of one module for calls of one form: tensors are symbolic, anything else is as it is.

    Every node is also run, so that conditions can be decided; the graph checks that they come out alike.
    """

    proxy_buffer_attributes = True

    def __init__(self, call: inspect.BoundArguments) -> None:
        super().__init__()
        self.call, self.given = call, dict(call.arguments)
        self.values: dict[fx.Node, Any] = {}
        self.running = False

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        """Children keep their own code."""
        return True

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Placeholders under the names of the parameters, so that the signature stays."""
        values = {name: self._argument(self.call.signature.parameters[name]) for name in self.given}
        self.call.arguments.update(values)
        return lambda root: root_fn(root, *self.call.args, **self.call.kwargs), [self.root]

    def _argument(self, parameter: inspect.Parameter) -> Any:
        value, stars = self.given[parameter.name], _STARS.get(parameter.kind, "")
        symbolic = any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value))
        if stars == "*" and not value:
            return value
        if stars and (symbolic or stars == "*"):
            raise ValueError("tensors among arguments without a name")
        default = () if parameter.default is inspect.Parameter.empty else (parameter.default,)
        given = self.create_proxy("placeholder", stars + parameter.name, default, {})
        if not symbolic:
            self.create_proxy("call_function", same, (given, value, parameter.name), {})
        return given if symbolic else value

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:
        """Record one step and run it."""
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        if kind == "placeholder":
            self.values[node] = self.given[target.lstrip("*")]
        elif kind != "output":
            args, kwargs = fx.map_arg((node.args, node.kwargs), self.values.__getitem__)
            self.running, running = True, self.running
            self.values[node] = _step(self.root, kind, target, args, kwargs)
            self.running = running
        return node

    def call_module(self, m: torch.nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """A child is one step; inside of it nothing is recorded."""
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """The same for parameters."""
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a condition."""
        decided = bool(self.values[obj.node])
        self.create_proxy("call_function", same, (obj, self.values[obj.node], CONDITION), {})
        return decided

    def iter(self, obj: fx.Proxy) -> Any:
        """Go through a tuple of known length."""
        count = len(self.values[obj.node])
        return iter([operator.getitem(cast(Any, obj), position) for position in range(count)])

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for the result of a node."""
        return _Known(node, self)


class _Known(fx.Proxy):
    """Stands for a value; a tuple of known length can be unpacked."""

    tracer: _OwnCode

    def __len__(self) -> int:
        value = self.tracer.values[self.node]
        return super().__len__() if isinstance(value, torch.Tensor) else len(value)


CONDITION = "a condition"


def _step(root: torch.nn.Module, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
    if kind == "call_function":
        return target(*args, **kwargs)
    if kind == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    found: Any = root
    for name in target.split("."):
        found = getattr(found, name)
    return found(*args, **kwargs) if kind == "call_module" else found


_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def same(given: Any, traced: Any, name: str) -> None:
    """Refuse a call of another form than the one that a part was rewritten for."""
    if given is not traced and (isinstance(given, torch.Tensor) or given != traced):
        raise RuntimeError(
            f"sizes in the code of this part were rewritten for calls with {name} = {traced!r}, which this one is not: "
            "prune with example_inputs that make the calls you need, or pass keep= for this part"
        )


class _PartInterpreter(_Interpreter):
    """Runs the graph of a part, so that the recorder knows which of its nodes it sees."""

    path = ""
    results: dict[fx.Node, str]

    def run_node(self, n: fx.Node) -> Any:
        """Run one node under its path and name, and remember which value it gives."""
        self.recorder.handle = (self.path, n.name)
        result = fx.Interpreter.run_node(self, n)
        if isinstance(result, torch.Tensor):
            self.results[n] = self.recorder.known(result)
        return result

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Arguments come in the order of the placeholders."""
        return next(self.args_iter)


def _follow(part: torch.nn.Module, graph: fx.Graph, path: str, recorder: Recorder, results: dict[fx.Node, str]) -> None:
    """Run a part of a twin node by node."""
    signature, names = (
        inspect.signature(part.forward),
        {n.target.lstrip("*") for n in graph.find_nodes(op="placeholder")},
    )
    program = fx.GraphModule(part, graph)

    def forward(*args: Any, **kwargs: Any) -> Any:
        call, outer = signature.bind(*args, **kwargs), recorder.handle
        call.apply_defaults()
        try:
            interpreter = _PartInterpreter(program, recorder)
            interpreter.path, interpreter.results = path, results
            return interpreter.run(*(value for name, value in call.arguments.items() if name in names))
        finally:
            recorder.handle = outer

    part.forward = forward


# ---- the part with its own forward -----------------------------------------------------------------------------


def _give(part: torch.nn.Module, graph: fx.Graph) -> None:
    """Make a part an instance of a subclass of its class that runs a graph."""
    code = graph.python_code("self")
    base = getattr(type(part), "_graphprune_base", type(part))
    part.__class__ = _subclass(base, code.src, dict(code.globals))


def _subclass(base: type, source: str, space: dict[str, Any]) -> type:
    namespace = dict(space)
    exec(source, namespace)  # noqa: S102  # as fx does with every graph
    attributes = {
        "forward": namespace["forward"],
        "__reduce_ex__": _reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_graphprune_base": base,
        "_graphprune_code": (source, space),
    }
    return type(base.__name__, (base,), attributes)


def _reduce(part: Any, protocol: Any) -> Any:
    """Pickle and copy a part by its source; modules that the source names go by their names."""
    source, space = part._graphprune_code
    named = {name: item.__name__ if isinstance(item, types.ModuleType) else None for name, item in space.items()}
    rest = {name: item for name, item in space.items() if named[name] is None}
    return _restore, (part._graphprune_base, source, {n: m for n, m in named.items() if m}, rest), dict(vars(part))


def _restore(base: type, source: str, modules: dict[str, str], rest: dict[str, Any]) -> Any:
    space = {name: __import__(module, fromlist=["*"]) for name, module in modules.items()}
    kind = _subclass(base, source, {**space, **rest})
    return object.__new__(kind)
