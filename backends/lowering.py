"""Decides layouts: walks a Relax function and lowers what profits from blocked channels.

Every value is either plain or `Blocked`. A handler says, for one operator, what to emit for it in the blocked
layout, or returns None ("not mine"), and then the operator is copied with plain arguments. Conversions are
emitted only where a plain reader meets a blocked value, and at most once per value.

```python
module = lower_to_blocks(target)(module)
```
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from .channels import Channels, channels_of
from .choices import Choose, first
from .folding import constant_of
from .layout import Blocked, merge, pack, unpack
from .precision import Half
from .rewriting import Rewriter, dtype_of, op_name, rewrite, shape_of
from .targets import Target

# How TVM's fusion sees a kernel: it may take elementwise readers of its result into itself.
FUSABLE = {"op_pattern": 4}


@dataclass(frozen=True, eq=False)
class Later:
    """An operator of the old function that is copied when somebody asks for its result."""

    call: relax.Call


Value = relax.Expr | Blocked | Channels | Later | tuple
Handler = Callable[["Lowering", relax.Call], Value | None]


class Lowering(Rewriter):
    """The state of one walk: what every variable became, and conversions made so far."""

    target: Target
    handlers: dict[str, Handler]
    choose: Choose
    half: Half | None
    sparse: bool

    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module, function)
        self.unpacked: dict[relax.Expr, relax.Expr] = {}
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        self.definitions = {binding.var: binding.value for binding in bindings}
        self.packed: dict[tuple[relax.Expr, tuple[int, ...]], Blocked] = {}

    @property
    def lanes(self) -> int:
        """Channels per block."""
        return self.target.vector_width

    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        """The lowered value of one binding."""
        if isinstance(value, relax.Var):
            return self.replaced.get(value, value)
        if isinstance(value, relax.TupleGetItem) and isinstance(self.replaced.get(value.tuple_value), tuple):
            return self.replaced[value.tuple_value][value.index]
        handler = self.handlers.get(op_name(value))
        if handler is not None and (shape_of(var) is not None or isinstance(var.ty, relax.TupleType)):
            lowered = handler(self, value)
            if lowered is not None:
                return lowered
        return super().visit(var, value)

    def value(self, expr: relax.Expr) -> Value:
        """What an old expression became, in whatever layout it has. Channels that were to move do so now."""
        value = self.replaced.get(expr, expr) if isinstance(expr, relax.Var) else expr
        if isinstance(value, Later):
            value = self.replaced[expr] = self.builder.emit(self.copy(value.call), expr.name)
        if isinstance(value, Channels):
            from .lower_channels import settle

            value = self.replaced[expr] = settle(self, value)
        return value

    def channels(self, expr: relax.Expr) -> Channels | None:
        """The channels of a value that is blocked, wherever they lie."""
        value = self.replaced.get(expr) if isinstance(expr, relax.Var) else None
        return channels_of(value) if isinstance(value, Blocked) else value if isinstance(value, Channels) else None

    def expression(self, expr: relax.Expr) -> relax.Expr:
        """What an old expression became, as a plain tensor."""
        if isinstance(expr, relax.Tuple):
            return super().expression(expr)
        parts = self.replaced.get(expr) if isinstance(expr, relax.Var) else None
        if isinstance(parts, tuple):
            return relax.Tuple([self.expression(self.variable(part)) for part in parts])
        value = self.value(expr)
        return self.plain(value) if isinstance(value, Blocked) else value

    def plain(self, value: Blocked) -> relax.Expr:
        """A blocked value as a plain tensor."""
        if value.expr not in self.unpacked:
            self.unpacked[value.expr] = unpack(self.builder, value)
        return self.unpacked[value.expr]

    def blocked(self, value: Value, segments: tuple[int, ...] | None = None) -> Blocked:
        """A value in blocked layout, with the given segments or with those it has."""
        if isinstance(value, Blocked):
            if segments is None or value.segments == segments:
                return value
            value = self.plain(value)
        segments = segments or (int(value.ty.shape[1]),)
        key = (value, segments)
        if key not in self.packed:
            self.packed[key] = pack(self.builder, value, segments, self.lanes)
        return self.packed[key]

    def wrap(self, expr: relax.Expr, shape: tuple[int, ...], segments: tuple[int, ...] | None = None) -> Blocked:
        """A new blocked value of the plain shape `shape`."""
        return Blocked(expr, shape, merge(segments or (shape[1],), self.lanes), self.lanes)

    def constant(self, expr: relax.Expr) -> np.ndarray | None:
        """The numpy value of an old expression that is constant."""
        value = self.value(expr)
        return None if isinstance(value, Blocked) else constant_of(value)

    def storage(self, weight: np.ndarray) -> str:
        """The element type that a weight is packed in: half precision where that is wanted and loses nothing."""
        return self.half.storage if self.half and self.half.holds(weight) else str(weight.dtype)

    def store(self, packed: np.ndarray, dtype: str) -> relax.Expr:
        """A packed weight as a constant of this type."""
        return relax.const(packed if dtype == str(packed.dtype) else self.half.narrow(packed))

    def variable(self, value: Blocked | Channels) -> relax.Var:
        """A variable that stands for a value where handlers expect one of the old function."""
        variable = relax.Var("value", relax.TensorType(value.shape, "float32"))
        self.replaced[variable] = value
        return variable

    def is_volume(self, expr: relax.Expr) -> bool:
        """Whether a value is a float32 tensor `(batch, channels, *space)` with three space axes."""
        shape = shape_of(expr)
        return shape is not None and len(shape) == 5 and dtype_of(expr) == "float32" and 0 not in shape

    def is_image(self, expr: relax.Expr, dtype: str = "float32") -> bool:
        """Whether a value is a tensor `(batch, channels, *space)` of this type with one or two space axes."""
        shape = shape_of(expr)
        return shape is not None and len(shape) in (3, 4) and dtype_of(expr) == dtype and 0 not in shape

    def kernel(self, name: str, compute: Callable, *arguments: relax.Expr) -> relax.Expr:
        """Call a template that elementwise readers may be fused into."""
        return self.builder.emit_te(compute, *arguments, primfunc_name_hint=name, primfunc_attrs=FUSABLE)


def lower_to_blocks(
    target: Target, choose: Choose = first, half: Half | None = None, sparse: bool = True
) -> tvm.transform.Pass:
    """The pass that lowers convolutions, pools, products and what lies between them for a target.

    `choose` picks one of the candidates for each kernel; weights are packed in the format `half`, if it holds them.
    With `sparse` there are candidates for weights that are mostly zero.
    """
    from .lower_channels import with_channels
    from .lower_convolution import HANDLERS as convolutions
    from .lower_elementwise import HANDLERS as elementwise
    from .lower_gather import HANDLERS as gathers
    from .lower_integers import HANDLERS as integers
    from .lower_matmul import HANDLERS as products
    from .lower_pooling import HANDLERS as pools
    from .lower_rows import HANDLERS as rows
    from .lower_shape import HANDLERS as shapes
    from .lower_transposed import HANDLERS as transposed
    from .lower_volume import HANDLERS as volumes

    table = {**elementwise, **shapes, **pools, **products, **rows, **convolutions, **transposed, **volumes, **gathers}
    table = with_channels({**table, **integers})
    fields = {"target": target, "handlers": table, "choose": staticmethod(choose), "half": half, "sparse": sparse}
    lowering = type("TargetLowering", (Lowering,), fields)

    @tvm.transform.module_pass(opt_level=0, name="graphprune.LowerToBlocks")
    def run(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        return rewrite(module, lowering)

    return run
