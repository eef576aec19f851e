"""One torch call as the translations see it: names, arguments, shapes."""

from dataclasses import dataclass
from typing import Any

from ...graph import Shape, Value
from ...translation import Translated as Translated
from ...translation import Unsupported as Unsupported


@dataclass(frozen=True)
class Call:
    """One torch call; tensors are values, `shapes` are those of the results."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[Shape, ...]

    def get(self, position: int, *names: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def tensor(self, position: int, *names: str) -> Value:
        """An argument that must be a tensor."""
        value = self.get(position, *names)
        if not isinstance(value, Value):
            raise Unsupported(f"'{self.name}' without a tensor as argument {position + 1}")
        return value

    @property
    def x(self) -> Value:
        """The first tensor."""
        return self.tensor(0, "input", "self", "x", "tensor")

    def varargs(self, position: int, *names: str) -> tuple[int, ...]:
        """`f(x, 1, 2)` or `f(x, (1, 2))`."""
        value = self.get(position, *names, default=())
        return tuple(value) if isinstance(value, (tuple, list)) else tuple(self.args[position:]) or (value,)


_TORCHS_OWN = frozenset({"aten", "prim", "prims", "torchvision"})
"""The namespaces whose operators are what their names say."""


def base_name(func: Any) -> str:
    """ "add" for torch.add, Tensor.add_, aten.add.Tensor; properties give their own name.

    Operators of somebody else keep their namespace, "mylib::add": nothing is known of what they do.
    """
    packet = getattr(func, "overloadpacket", None)
    qualified = str(getattr(func if packet is None else packet, "_qualified_op_name", "aten::"))
    if qualified.partition("::")[0] not in _TORCHS_OWN:
        return qualified
    name: str = packet.__name__ if packet is not None else getattr(func, "__name__", str(func))
    if name == "__get__":
        return "." + str(getattr(func.__self__, "__name__", "?"))
    if name == "__set__":
        return "set " + str(getattr(func.__self__, "__name__", "?"))
    return name if name.startswith("__") else name.rstrip("_")


def is_inplace(func: Any, kwargs: dict[str, Any]) -> bool:
    """True where the call writes into an argument."""
    packet = getattr(func, "overloadpacket", None)
    name = packet.__name__ if packet is not None else getattr(func, "__name__", "")
    augmented = name.startswith("__i") and name not in ("__invert__", "__int__", "__index__")
    trailing = name.endswith("_") and not name.startswith("__")
    return augmented or trailing or bool(kwargs.get("inplace")) or kwargs.get("out") is not None


def axis_of(value: Value, axis: int) -> int:
    """A non-negative axis."""
    return axis % max(len(value.shape), 1)


def axes_of(axes: Any, value: Value) -> list[int] | None:
    """Non-negative axes from a number or a sequence; None for all of them."""
    if axes is None or (isinstance(axes, (list, tuple)) and not axes):
        return None
    return [axis_of(value, axis) for axis in (axes if isinstance(axes, (list, tuple)) else [axes])]
