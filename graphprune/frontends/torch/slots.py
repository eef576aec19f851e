"""Integers that remember where they came from, the attributes that they came from, and equations between them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

# ---- numbers that remember ---------------------------------------------------------------------------------


@dataclass(eq=False)
class Slot:
    """One integer attribute: its owner (a module or an object that it holds), the way to it, and its value."""

    owner: str
    path: tuple[Any, ...]
    value: int


class Step(NamedTuple):
    """An arithmetic step over slots and numbers."""

    operation: str
    left: "Becoming"
    right: "Becoming"


Becoming = int | Slot | Step
"""What a number is after pruning: known, an attribute, or computed from both."""

_STEPS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
}


class Traced(int):
    """An int that knows what it becomes. It compares, hashes, prints and copies as the number that it is."""

    becoming: Becoming

    def __new__(cls, value: int, becoming: Becoming) -> "Traced":
        """The number `value`, which becomes `becoming`."""
        number = super().__new__(cls, value)
        number.becoming = becoming
        return number

    def __neg__(self) -> int:
        return 0 - self

    def __copy__(self) -> int:
        return int(self)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __reduce__(self) -> Any:
        return int, (int(self),)


def becoming_of(number: int) -> Becoming:
    """What a number becomes; plain numbers stay what they are."""
    return number.becoming if isinstance(number, Traced) else number


def _stepping(operation: str, reflected: bool) -> Callable[[Traced, Any], Any]:
    plain = getattr(int, f"__{'r' if reflected else ''}{operation}__")

    def method(self: Traced, other: Any) -> Any:
        value = plain(self, other)
        if type(value) is not int:
            return value
        left, right = becoming_of(self), becoming_of(other)
        return Traced(value, _step(operation, right, left) if reflected else _step(operation, left, right))

    return method


for _name in _STEPS:
    setattr(Traced, f"__{_name}__", _stepping(_name, False))
    setattr(Traced, f"__r{_name}__", _stepping(_name, True))


def _step(operation: str, left: Becoming, right: Becoming) -> Becoming:
    known = isinstance(left, int) and isinstance(right, int) and (right or operation in ("add", "sub", "mul"))
    return int(_STEPS[operation](left, right)) if known else Step(operation, left, right)


def slots_in(becoming: Becoming) -> set[Slot]:
    """The attributes that a number was computed from."""
    if isinstance(becoming, Step):
        return slots_in(becoming.left) | slots_in(becoming.right)
    return {becoming} if isinstance(becoming, Slot) else set()


# ---- the attributes of a module ----------------------------------------------------------------------------

_INTERNAL = frozenset(vars(torch.nn.Module()))


def holders(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """(path, object) of everything that may hold sizes: modules, and plain objects such as a config, each once."""
    seen: set[int] = set()
    for name, part in module.named_modules():
        yield name, part
        for key, item in vars(part).items():
            if key not in _INTERNAL:
                yield from plain_objects(f"{name}.{key}".lstrip("."), item, seen)


def plain_objects(path: str, item: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """(path, object) of an object that holds plain attributes, and of those that it holds; each once."""
    kind = type(item)
    plain = hasattr(item, "__dict__") and not callable(item) and kind.__module__.split(".")[0] not in _FOREIGN
    if not plain or id(item) in seen:
        return
    seen.add(id(item))
    yield path, item
    for key, inner in list(vars(item).items()):
        yield from plain_objects(f"{path}.{key}", inner, seen)


_FOREIGN = frozenset(("torch", "numpy", "builtins", "enum", "types", "threading", "weakref", "logging"))


LARGEST = 2**20
"""Larger numbers are no channel counts."""


def slots_of(owner: str, holder: Any) -> Iterator[Slot]:
    """The integer attributes above 1 of one object, also inside its tuples, lists and dictionaries."""
    for key, item in vars(holder).items():
        if key not in _INTERNAL or not isinstance(holder, torch.nn.Module):
            yield from _slots(owner, (key,), item)


def _slots(owner: str, path: tuple[Any, ...], item: Any) -> Iterator[Slot]:
    if type(item) is int and 1 < item <= LARGEST:
        yield Slot(owner, path, item)
    elif isinstance(item, (tuple, list)) and len(item) <= 64:
        for index, inner in enumerate(item):
            yield from _slots(owner, (*path, index), inner)
    elif type(item) is dict and len(path) == 1:
        for key, inner in item.items():
            yield from _slots(owner, (*path, key), inner)


def put(holder: Any, path: tuple[Any, ...], value: int) -> None:
    """Set one integer attribute, past any `__setattr__` of its class."""
    vars(holder)[path[0]] = _with(vars(holder)[path[0]], path[1:], value)


def _with(item: Any, path: tuple[Any, ...], value: int) -> Any:
    if not path:
        return value
    if isinstance(item, tuple):
        entries = [_with(entry, path[1:], value) if place == path[0] else entry for place, entry in enumerate(item)]
        return item._make(entries) if hasattr(item, "_make") else type(item)(entries)
    item[path[0]] = _with(item[path[0]], path[1:], value)
    return item


def own_holders(copy: torch.nn.Module, original: torch.nn.Module) -> dict[str, Any]:
    """The holders of a copy by path, without those that it shares with the original."""
    shared = {id(holder) for _, holder in holders(original)}
    return {path: holder for path, holder in holders(copy) if id(holder) not in shared}


# ---- equations -------------------------------------------------------------------------------------------------


def solve(equations: Mapping[Becoming, set[int]]) -> dict[Slot, int]:
    """The value of every attribute that the equations determine; one that they contradict stays as it is.

    An equation with one unknown gives the values that fulfil it; what is found is put into the others.
    """
    found: dict[Slot, int] = {}
    while True:
        domains: dict[Slot, NDArray[np.bool_]] = {}
        for becoming, targets in equations.items():
            unknown = [slot for slot in slots_in(becoming) if slot not in found]
            if len(unknown) == 1:
                slot = unknown[0]
                values = _evaluate(becoming, {**found, slot: np.arange(1, slot.value + 1)})
                fits = np.logical_and.reduce([values == target for target in targets])
                domains[slot] = domains.get(slot, True) & fits
        if not domains:
            return found
        for slot, fits in domains.items():
            keeps = fits[-1] or not fits.any()  # the largest value is the one that it has
            found[slot] = slot.value if keeps else int(np.flatnonzero(fits)[0]) + 1


def _evaluate(becoming: Becoming, values: Mapping[Slot, Any]) -> Any:
    if isinstance(becoming, Step):
        with np.errstate(divide="ignore"):
            return _STEPS[becoming.operation](_evaluate(becoming.left, values), _evaluate(becoming.right, values))
    return values[becoming] if isinstance(becoming, Slot) else np.int64(becoming)
