"""Values that are other values looked at differently: reshaped, transposed, cut, repeated.

A `Strided` says where the elements of a tensor lie in a row-major `base`, as numpy does: an offset and one stride
per axis. Operators that only move elements become arithmetic on these numbers, and a kernel that understands
strides reads its operand where it lies.

```python
view = permuted(reshaped(whole(base), (2, 7, 3, 8)), (0, 2, 1, 3))
```
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

from tvm import relax

from .folding import constant_of
from .rewriting import op_name, shape_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Strided:
    """A tensor of `shape` whose element `i` is number `offset + sum(i * strides)` of `base`."""

    base: relax.Expr
    shape: Shape
    strides: Shape
    offset: int = 0

    @property
    def order(self) -> Shape:
        """The axes from the largest stride to the smallest."""
        return tuple(sorted(range(len(self.shape)), key=lambda axis: (-self.strides[axis], axis)))

    @property
    def is_whole(self) -> bool:
        """Whether every element of the base appears exactly once."""
        if self.offset or prod(self.shape) != prod(shape_of(self.base)):
            return False
        wide = [axis for axis in self.order if self.shape[axis] > 1]
        return tuple(self.strides[a] for a in wide) == row_major(tuple(self.shape[a] for a in wide))

    @property
    def is_reshape(self) -> bool:
        """Whether it is the base with its elements in the same order."""
        wide = [axis for axis, extent in enumerate(self.shape) if extent > 1]
        return self.is_whole and [axis for axis in self.order if self.shape[axis] > 1] == wide

    def like(self, base: relax.Expr) -> "Strided":
        """The same view of another base with as many elements."""
        return replace(self, base=base)


def row_major(shape: Shape) -> Shape:
    """Strides of a contiguous tensor."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def whole(base: relax.Expr) -> Strided:
    """A tensor as a view of itself."""
    shape = shape_of(base)
    return Strided(base, shape, row_major(shape))


def permuted(view: Strided, axes: Shape) -> Strided:
    """The view with its axes in another order."""
    return replace(view, shape=tuple(view.shape[a] for a in axes), strides=tuple(view.strides[a] for a in axes))


def reshaped(view: Strided, shape: Shape) -> Strided | None:
    """The view in another shape, or None where no strides can express it."""
    if prod(shape) != prod(view.shape) or 0 in shape:
        return None
    old = [(extent, stride) for extent, stride in zip(view.shape, view.strides, strict=True) if extent > 1]
    strides: list[int] = []
    for extent in reversed(shape):
        if extent == 1:
            strides.append(0)
            continue
        # Take from the innermost old axis; join it with its neighbour where the elements run on.
        while old and old[-1][0] < extent and len(old) > 1 and old[-2][1] == old[-1][0] * old[-1][1]:
            inner = old.pop()
            old[-1] = (old[-1][0] * inner[0], inner[1])
        size, stride = old.pop()
        if size % extent:
            return None
        strides.append(stride)
        if size > extent:
            old.append((size // extent, stride * extent))
    return replace(view, shape=shape, strides=tuple(reversed(strides)))


def cut(view: Strided, axis: int, begin: int, size: int, step: int = 1) -> Strided:
    """`size` elements along an axis, from `begin` on."""
    shape, strides = list(view.shape), list(view.strides)
    offset = view.offset + begin * strides[axis]
    shape[axis], strides[axis] = size, strides[axis] * step
    return replace(view, shape=tuple(shape), strides=tuple(strides), offset=offset)


def broadcast(view: Strided, shape: Shape) -> Strided:
    """The view repeated along new axes and along axes of extent one."""
    missing = len(shape) - len(view.shape)
    old = (1,) * missing + view.shape
    strides = (0,) * missing + view.strides
    return replace(view, shape=shape, strides=tuple(0 if o == 1 else s for o, s in zip(old, strides, strict=True)))


def places(view: Strided) -> tuple[Shape, tuple[Shape, ...]] | None:
    """The view in terms of the axes of its base: the start, and for each axis of the view its steps.

    None where a step along the view would carry from one axis of the base into the next.
    """
    base = shape_of(view.base)
    units = row_major(base)

    def split(number: int) -> Shape:
        parts = []
        for unit in units:
            parts.append(number // unit)
            number -= parts[-1] * unit
        return tuple(parts)

    start, steps = split(view.offset), tuple(split(stride) for stride in view.strides)
    for axis, extent in enumerate(base):
        last = start[axis] + sum(step[axis] * (size - 1) for step, size in zip(steps, view.shape, strict=True))
        if last >= extent:
            return None
    return start, steps


def _reshape(call: relax.Call, view: Strided) -> Strided | None:
    return reshaped(view, shape_of(call))


def _permute(call: relax.Call, view: Strided) -> Strided | None:
    axes = call.attrs.axes
    rank = len(view.shape)
    return permuted(view, tuple(int(a) % rank for a in axes) if axes else tuple(reversed(range(rank))))


def _broadcast(call: relax.Call, view: Strided) -> Strided | None:
    return broadcast(view, shape_of(call))


def _slice(call: relax.Call, view: Strided) -> Strided | None:
    _, axes, begins, _, *steps = call.args
    out = shape_of(call)
    numbers = [[int(n) for n in part.fields] for part in (axes, begins, *steps)]
    step = numbers[2] if steps else [1] * len(numbers[0])
    for axis, begin, stride in zip(numbers[0], numbers[1], step, strict=True):
        axis, extent = axis % len(out), view.shape[axis]
        if stride < 1 or out[axis] == 0:
            return None
        begin = min(max(begin + extent if begin < 0 else begin, 0), extent)
        view = cut(view, axis, begin, out[axis], stride)
    return view


def _take(call: relax.Call, view: Strided) -> Strided | None:
    """One index along an axis."""
    index = constant_of(call.args[1])
    if index is None or index.ndim or call.attrs.axis is None:
        return None
    axis = int(call.attrs.axis) % len(view.shape)
    chosen = cut(view, axis, int(index) % view.shape[axis], 1)
    rest = [a for a in range(len(view.shape)) if a != axis]
    return replace(permuted(chosen, tuple(rest)), offset=chosen.offset)


# Operators that move elements: call and view of its operand to view of its result.
MOVES: dict[str, Callable[[relax.Call, Strided], Strided | None]] = {
    "relax.reshape": _reshape,
    "relax.flatten": _reshape,
    "relax.expand_dims": _reshape,
    "relax.squeeze": _reshape,
    "relax.permute_dims": _permute,
    "relax.broadcast_to": _broadcast,
    "relax.strided_slice": _slice,
    "relax.take": _take,
}


def trace(expr: relax.Expr, definitions: Mapping[relax.Var, relax.Expr]) -> Strided:
    """An expression as a view of the value that its elements come from."""
    value = definitions.get(expr) if isinstance(expr, relax.Var) else None
    if isinstance(value, relax.Var):
        return trace(value, definitions)
    if isinstance(value, relax.TupleGetItem):
        return _part(expr, value, definitions)
    move = MOVES.get(op_name(value)) if value is not None else None
    found = move(value, trace(value.args[0], definitions)) if move and shape_of(value) is not None else None
    return found or whole(expr)


def _part(expr: relax.Var, item: relax.TupleGetItem, definitions: Mapping[relax.Var, relax.Expr]) -> Strided:
    """One part of a split tensor."""
    call = definitions.get(item.tuple_value)
    if call is None or op_name(call) != "relax.split":
        return whole(expr)
    source = trace(call.args[0], definitions)
    axis = int(call.attrs.axis) % len(source.shape)
    sizes = [int(part.shape[axis]) for part in call.ty.fields]
    return cut(source, axis, sum(sizes[: item.index]), sizes[item.index])


def definitions_of(function: relax.Function) -> dict[relax.Var, relax.Expr]:
    """What each variable of a function is bound to."""
    return {binding.var: binding.value for block in function.body.blocks for binding in block.bindings}
