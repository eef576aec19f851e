"""Models that carry a config: find entries that say the new sizes, so that the model can be built and saved from it.

Nothing is known of any library: a config is an object with `to_dict` and `update`, and its model is built by calling
the class with it. A config is used only when the model built from it has all the shapes of the slim one and its
run is the one that the labels predict.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...analysis import Analysis
from ...graph import Shape
from ...plan import Plan
from ...shapes import eps_key, grown_eps, living, mismatches, shape_of
from .calls import base_name, is_inplace
from .inputs import Inputs
from .read import trace
from .slots import Slot, own_holders, plain_objects, put, slots_of
from .twins import stored_tensors

NOTE = "its config cannot say the new sizes and says the old ones: save it with graphprune.save, or keep the plan"

_CHOICES = 4
"""An entry whose size became more different sizes than this is not tried."""

Shapes = dict[str, Shape]


def has_config(module: torch.nn.Module) -> bool:
    """True where the module carries a config in the sense of this file."""
    config = getattr(module, "config", None)
    return callable(getattr(config, "to_dict", None)) and callable(getattr(config, "update", None))


def express(slim: torch.nn.Module, module: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs) -> bool:
    """Let the config of a slim copy of `module` say its sizes; False, and nothing done, where it cannot."""
    wanted, kind, sizes = _shapes(slim), type(module), _new_sizes(analysis, plan)
    if not _owns(slim, module) or not _layers_are_alike(_shapes(module), wanted):
        return False
    for pinned in (False, True):
        config = copy.deepcopy(module.config)
        if pinned and not _pin_head_width(config, slim):
            return False
        if _distance(kind, config, _shapes(module)) != 0:
            return False
        _search(kind, config, wanted, sizes)
        _mend_eps(config, analysis, plan)
        if _is_right(kind, config, slim, plan, analysis, inputs):
            _adopt(slim, module, config)
            return True
    return False


def _owns(slim: torch.nn.Module, module: torch.nn.Module) -> bool:
    return any(holder is slim.config for holder in own_holders(slim, module).values())


def _layers_are_alike(before: Shapes, after: Shapes) -> bool:
    """Whether layers that differ in their number only are still as alike as they were: few configs can say more."""
    seen: dict[tuple[str, Shape], Shape] = {}
    for name, shape in before.items():
        layer = ".".join("#" if part.isdigit() else part for part in name.split("."))
        if name not in after or seen.setdefault((layer, shape), after[name]) != after[name]:
            return False
    return True


class _NoNumbers(TorchFunctionMode):
    """Leaves out what fills tensors: on meta tensors it takes time and does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one torch call, unless it fills a tensor."""
        if base_name(func) in ("normal", "uniform", "fill", "zero", "trunc_normal", "clamp", "mul", "erfinv", "add"):
            if is_inplace(func, kwargs or {}) and args and args[0].is_meta:
                return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def _empty_parameters() -> Iterator[None]:
    """Modules built here have parameters without numbers, while buffers have theirs."""
    original = torch.nn.Module.register_parameter

    def register(self: torch.nn.Module, name: str, param: torch.nn.Parameter | None) -> None:
        original(self, name, param)
        if param is not None:
            self._parameters[name] = torch.nn.Parameter(param.detach().to("meta"), param.requires_grad)

    torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = original  # type: ignore[method-assign]


def _built(kind: type, config: Any, place: Any = None) -> torch.nn.Module | None:
    """A model without numbers, or but for its buffers; None where this config cannot be built."""
    try:
        with place or torch.device("meta"), _NoNumbers():
            model = kind(copy.deepcopy(config))
    except Exception:  # a config checks itself in its own ways
        return None
    return model.eval() if isinstance(model, torch.nn.Module) else None


def skeleton(kind: type, config: Any) -> torch.nn.Module | None:
    """A model whose parameters are zeros that take no memory; None where it cannot be built."""
    model: Any = _built(kind, config, _empty_parameters())
    if model is None:
        return None
    if hasattr(model, "tie_weights"):  # what was tied when it was built has come apart
        model.tie_weights()
    return _filled(model)


def _filled(wide: torch.nn.Module) -> torch.nn.Module:
    """The same module with zeros for parameters without numbers: some models look at numbers when they run."""
    fresh: dict[int, torch.nn.Parameter] = {}
    for part in wide.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                part._parameters[name] = fresh.setdefault(
                    id(parameter), torch.nn.Parameter(zeros, parameter.requires_grad)
                )
    return wide


def says_sizes(module: torch.nn.Module) -> bool:
    """Whether a model that is built from the config of this one has the same tensors with the same shapes."""
    return has_config(module) and _distance(type(module), module.config, _shapes(module)) == 0


def _shapes(module: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _distance(kind: type, config: Any, wanted: Shapes) -> float:
    """How many axes differ between the model of a config and what is wanted."""
    model = _built(kind, config)
    found = {} if model is None else _shapes(model)
    if found.keys() != wanted.keys() or any(len(found[name]) != len(shape) for name, shape in wanted.items()):
        return float("inf")
    return sum(a != b for name, shape in wanted.items() for a, b in zip(found[name], shape, strict=True))


def _new_sizes(analysis: Analysis, plan: Plan) -> dict[int, set[int]]:
    """What sizes of any value became, by the size before."""
    alive, sizes = living(analysis, plan), dict[int, set[int]]()
    for value, layout in analysis.layouts.items():
        for old, new in zip(value.shape, shape_of(value, layout, alive), strict=True):
            if old != new:
                sizes.setdefault(old, set()).add(new)
    return sizes


def _entries(config: Any) -> Iterator[tuple[Any, Slot]]:
    for path, holder in plain_objects("", config, set()):
        for slot in slots_of(path, holder):
            yield holder, slot


def _search(kind: type, config: Any, wanted: Shapes, sizes: dict[int, set[int]]) -> None:
    """Change entries one by one as long as the model of the config comes closer to what is wanted, in place."""
    left = _distance(kind, config, wanted)
    tried = [(holder, slot, sizes.get(slot.value, set())) for holder, slot in _entries(config)]
    tried += [(config, Slot("", (name,), 0), set().union(*sizes.values())) for name in _open_entries(config)]
    tried = [entry for entry in tried if 0 < len(entry[2]) <= _CHOICES]
    before = float("inf")
    while 0 < left < before:
        before = left
        for holder, slot, choices in tried:
            old, best = copy.copy(vars(holder)[slot.path[0]]), None
            for choice in sorted(choices):
                put(holder, slot.path, choice)
                distance = _distance(kind, config, wanted)
                if distance < left:
                    left, best = distance, choice
                vars(holder)[slot.path[0]] = copy.copy(old)
            if best is not None:
                put(holder, slot.path, best)


def _open_entries(config: Any) -> list[str]:
    """Entries that the config takes and that are not set: their sizes follow from others."""
    code = getattr(type(config).__init__, "__wrapped__", type(config).__init__).__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    return [name for name in names if vars(config).get(name, 0) is None]


def _pin_head_width(config: Any, slim: torch.nn.Module) -> bool:
    """Write down a head width that follows from other entries; False where it is there, or the layers do not agree."""
    widths = {vars(part)["head_dim"] for part in slim.modules() if type(vars(part).get("head_dim")) is int}
    if getattr(config, "head_dim", None) is not None or len(widths) != 1:
        return False
    config.head_dim = widths.pop()
    return True


def _mend_eps(config: Any, analysis: Analysis, plan: Plan) -> None:
    """Norms that were repaired have another eps; where it is the same for all of them the config can say it."""
    changes: dict[float, set[float]] = {}
    for node in analysis.graph.nodes:
        grown = grown_eps(node, plan)
        if grown is not None:
            changes.setdefault(node.attrs[eps_key(node)], set()).add(grown)
    for key, item in vars(config).items():
        if type(item) is float and len(changes.get(item, ())) == 1:
            vars(config)[key] = next(iter(changes[item]))


def _is_right(kind: type, config: Any, slim: torch.nn.Module, plan: Plan, analysis: Analysis, inputs: Inputs) -> bool:
    """True where the model of a config has the shapes and buffers of the slim one, and runs as the labels predict."""
    try:
        if hasattr(type(config), "from_dict"):  # what is saved is read and checked by this
            config = type(config).from_dict(config.to_dict())
        model = skeleton(kind, config)
        if model is None or _shapes(model) != _shapes(slim) or not _same_constants(model, slim):
            return False
        graph, _ = trace(model, inputs)
    except Exception:  # it is not taken, or does not run: then it is not right
        return False
    return next(mismatches(analysis, plan, graph, living(analysis, plan)), None) is None


def _same_constants(model: torch.nn.Module, slim: torch.nn.Module) -> bool:
    """Whether all tensors that are not saved hold the same."""
    saved = slim.state_dict()
    own, other = ({name: tensor for name, tensor, _ in stored_tensors(part)} for part in (model, slim))
    return all(
        name in own and (tensor.is_meta or torch.equal(own[name].to(tensor), tensor))
        for name, tensor in other.items()
        if name not in saved
    )


def _adopt(slim: torch.nn.Module, module: torch.nn.Module, config: Any) -> None:
    """Give what changed to every config of this kind in the slim model, in place, so that its parts still share it."""
    before, after = _flat(module.config), _flat(config)
    changed = {key: item for key, item in after.items() if before.get(key, config) != item}
    for root in own_holders(slim, module).values():
        if type(root) is not type(config):
            continue
        holders = dict(plain_objects("", root, set()))
        for (path, name), item in changed.items():
            if root is slim.config or vars(holders[path]).get(name) == before.get((path, name)):
                vars(holders[path])[name] = copy.copy(item)


def _flat(config: Any) -> dict[tuple[str, str], Any]:
    """Every entry that is a number, a sequence of numbers or open, by the object that holds it and its name."""
    return {
        (path, name): item
        for path, holder in plain_objects("", config, set())
        for name, item in vars(holder).items()
        if item is None or isinstance(item, (int, float, list, tuple))
    }
