"""Give the module that the user holds the sizes of a slim copy: all of it, or nothing.

Tensors stay the objects that they are and get other numbers, so that optimizers, tied weights, hooks and every list
that holds a parameter go on holding it.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from ...errors import TrainingError
from ...plan import Plan
from .slicing import canonical_names, slice_tensor
from .slots import holders
from .twins import stored_tensors


class Change(NamedTuple):
    """One step of an alteration and its inverse; both may be repeated, and the inverse comes without the step too."""

    do: Callable[[], None]
    undo: Callable[[], None]


def commit(changes: Iterable[Change]) -> None:
    """Do all changes; where one fails, or the user interrupts, undo those before it, the last one first."""
    begun: list[Change] = []
    try:
        for change in changes:
            begun.append(change)
            change.do()
    except BaseException:
        for change in reversed(begun):
            change.undo()
        raise


def changes_of(module: torch.nn.Module, slim: torch.nn.Module, plan: Plan) -> list[Change]:
    """What makes `module` the same as `slim`, the copy that applying `plan` to it gave.

    Gradients are sliced by the plan. Raises `TrainingError` where the copy is of another form.
    """
    parts, others = dict(module.named_modules()), dict(slim.named_modules())
    if parts.keys() != others.keys() or isinstance(slim, torch.fx.GraphModule):
        reason = getattr(slim, "_graphprune_note", None) or "another program was made of it"
        raise TrainingError(
            f"{type(module).__name__} cannot be pruned in place: {reason}. Prune it with graphprune.optimize first, "
            "then train the result; or pass keep= for what is said to have its sizes in the code."
        )
    return [
        *_tensor_changes(module, slim, plan),
        *(
            set_attribute(parts[path], "__class__", type(part))
            for path, part in others.items()
            if type(part) is not type(parts[path])
        ),
        *_plain_changes(module, slim),
    ]


# ---- tensors ---------------------------------------------------------------------------------------------------


def _tensor_changes(module: torch.nn.Module, slim: torch.nn.Module, plan: Plan) -> Iterator[Change]:
    fresh = {name: tensor for name, tensor, _ in stored_tensors(slim)}
    names = canonical_names(module)
    for name, tensor, _ in stored_tensors(module):
        if names[id(tensor)] != name or name not in fresh or _same(tensor, fresh[name]):
            continue
        yield set_tensor(tensor, fresh[name].detach(), sliced_gradient(tensor, name, plan))


def _same(tensor: torch.Tensor, fresh: torch.Tensor) -> bool:
    return tensor.shape == fresh.shape and torch.equal(tensor.detach(), fresh.detach())


def sliced_gradient(tensor: torch.Tensor, name: str, plan: Plan) -> torch.Tensor | None:
    """What a plan leaves of the gradient that a tensor holds; None where it holds none."""
    gradient = tensor.grad if tensor.is_leaf else None
    if gradient is None or name not in plan.kept:
        return gradient
    if gradient.layout != torch.strided:
        raise TrainingError(f"the gradient of {name} is sparse and cannot be sliced: prune after optimizer.zero_grad()")
    return slice_tensor(gradient, plan.kept[name]) / unit_of(name, plan)


def unit_of(name: str, plan: Plan) -> float:
    """By what a plan multiplies a stored tensor: 1, or more for the scale of a norm that it repairs."""
    return float(plan.repairs[name][0] ** 0.5) if name in plan.repairs else 1.0


def set_tensor(tensor: torch.Tensor, fresh: torch.Tensor, gradient: torch.Tensor | None) -> Change:
    """Other numbers, and another gradient, for a tensor that stays the object that it is."""
    old, before = tensor.data, tensor.grad if tensor.is_leaf else None
    return Change(lambda: _put(tensor, fresh, gradient), lambda: _put(tensor, old, before))


def _put(tensor: torch.Tensor, numbers: torch.Tensor, gradient: torch.Tensor | None) -> None:
    if tensor.is_leaf:
        tensor.grad = None
    # What accumulates gradients remembers the shape, and lives as long as any loss of an earlier step does. Torch makes
    # a new one where the type changes, but not where the shape does.
    other = torch.float32 if tensor.dtype == torch.float16 else torch.float16
    tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = numbers
    if gradient is not None:
        tensor.grad = gradient


# ---- everything else ---------------------------------------------------------------------------------------------

_MISSING: Any = object()


def set_attribute(owner: Any, name: str, value: Any) -> Change:
    """Another value for an attribute; past any `__setattr__` of the class, except for the class itself."""
    if name == "__class__":
        kind = type(owner)
        return Change(lambda: _set_class(owner, value), lambda: _set_class(owner, kind))
    return set_entry(vars(owner), name, value)


def _set_class(owner: Any, kind: type) -> None:
    if type(owner) is not kind:
        owner.__class__ = kind


def set_entry(entries: Any, key: Any, value: Any) -> Change:
    """Another value for an entry of a dictionary, which may be new."""
    before = entries.get(key, _MISSING)

    def undo() -> None:
        if before is _MISSING:
            entries.pop(key, None)
        else:
            entries[key] = before

    return Change(lambda: entries.__setitem__(key, value), undo)


_INTERNAL = frozenset(vars(torch.nn.Module()))
_PLAIN = (int, float, str, bool, type(None), torch.dtype)
_OURS = "_graphprune_"
"""How the names of attributes begin in which a module remembers its plan and the like."""


def _plain_changes(module: torch.nn.Module, slim: torch.nn.Module) -> Iterator[Change]:
    """Sizes and other numbers in the attributes of modules and of plain objects that they hold, such as a config."""
    own = dict(holders(module))
    for path, holder in holders(slim):
        before = vars(own[path]) if path in own else {}
        if path not in own or own[path] is holder:
            continue
        internal = _INTERNAL if isinstance(holder, torch.nn.Module) else ()
        for name, value in vars(holder).items():
            plain = name not in internal and _is_plain(value)
            if name.startswith(_OURS) or (plain and not _alike(before.get(name, _MISSING), value)):
                yield set_entry(before, name, copy.copy(value))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, set)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, _PLAIN)


def _alike(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


# ---- forward methods that were wrapped ---------------------------------------------------------------------------


@contextmanager
def own_forwards(module: torch.nn.Module) -> Iterator[None]:
    """Put aside `forward` methods that were wrapped on the instance, as for mixed precision: copies would run this one.

    Raises `TrainingError` for a `forward` on an instance that is another function than that of the class.
    """
    wrapped: list[tuple[Mapping[str, Any], Any]] = []
    for name, part in module.named_modules():
        forward = vars(part).get("forward")
        if forward is None:
            continue
        plain = inspect.unwrap(forward)
        if getattr(plain, "__func__", plain) is not type(part).forward:
            raise TrainingError(
                f"{name or type(part).__name__} has a forward() of its own on the instance, which a copy would not "
                "follow: make a subclass of its class with this forward()"
            )
        wrapped.append((vars(part), forward))
    try:
        for entries, _ in wrapped:
            del entries["forward"]  # type: ignore[attr-defined]
        yield
    finally:
        for entries, forward in wrapped:
            entries["forward"] = forward  # type: ignore[index]
