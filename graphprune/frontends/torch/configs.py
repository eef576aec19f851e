"""Models that carry a config: find entries that say the new sizes, so that the model can be built and saved from it.

Nothing is known of any library: a config is an object with `to_dict` and `update`, and its model is built by calling
the class with it. A config is used only when the model built from it has all the shapes of the slim one and its
run is the one that the labels predict.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch

from ...analysis import Analysis
from ...graph import Shape
from ...plan import Plan
from ...shapes import living, mismatches, shape_of
from .inputs import Inputs
from .provenance import Slot, own_holders, plain_objects, put, slots_of
from .record import record

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
    for pinned in (False, True):
        config = copy.deepcopy(module.config)
        if pinned:
            _pin_head_width(config, slim)
        if not _owns(slim, module) or _distance(kind, config, _shapes(module)) != 0:
            return False
        _search(kind, config, wanted, sizes)
        _mend_eps(config, analysis, plan)
        if _is_right(kind, config, wanted, plan, analysis, inputs):
            _adopt(slim, module, config)
            return True
    return False


def _owns(slim: torch.nn.Module, module: torch.nn.Module) -> bool:
    return any(holder is slim.config for holder in own_holders(slim, module).values())


def _built(kind: type, config: Any) -> torch.nn.Module | None:
    """A model without numbers; None where this config cannot be built."""
    try:
        with torch.device("meta"):
            model = kind(copy.deepcopy(config))
    except Exception:  # a config checks itself in its own ways
        return None
    return model.eval() if isinstance(model, torch.nn.Module) else None


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


def _pin_head_width(config: Any, slim: torch.nn.Module) -> None:
    """A head width that follows from other entries is written down, where all layers agree on it."""
    widths = {vars(part)["head_dim"] for part in slim.modules() if type(vars(part).get("head_dim")) is int}
    if getattr(config, "head_dim", None) is None and len(widths) == 1:
        config.head_dim = widths.pop()


def _mend_eps(config: Any, analysis: Analysis, plan: Plan) -> None:
    """Norms that were repaired have another eps; where it is the same for all of them the config can say it."""
    changes: dict[float, set[float]] = {}
    for node in analysis.graph.nodes:
        if node.attrs.get("grows") in plan.repairs:
            old = node.attrs["eps" if node.op == "rms_norm" else "value"]
            changes.setdefault(old, set()).add(old * plan.repairs[node.attrs["grows"]][0])
    for key, item in vars(config).items():
        if type(item) is float and len(changes.get(item, ())) == 1:
            vars(config)[key] = next(iter(changes[item]))


def _is_right(kind: type, config: Any, wanted: Shapes, plan: Plan, analysis: Analysis, inputs: Inputs) -> bool:
    """True where the model of a config has the shapes, and runs as the labels predict."""
    model = _built(kind, config)
    if model is None or _shapes(model) != wanted:
        return False
    try:
        graph = record(model, inputs, "meta")
    except Exception:  # it does not run: then it is not right
        return False
    return next(mismatches(analysis, plan, graph, living(analysis, plan)), None) is None


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
