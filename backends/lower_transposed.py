"""Lowers transposed convolutions: one ordinary convolution per phase of the output, whose results are interleaved.

With stride 2, even outputs see some taps of the kernel and odd outputs the others; each of these phases is a dense
convolution of the input. Nothing is multiplied by the zeros that a transposed convolution puts between its inputs.
"""

from dataclasses import dataclass
from itertools import product
from math import gcd

import numpy as np
from tvm import relax, te, tirx

from .layout import Blocked, as_image
from .lower_convolution import border_of, pair
from .lowering import Lowering, Value
from .rewriting import shape_of

# Fused into a kernel with what follows, but not into the convolutions.
_INJECTIVE = {"op_pattern": 2}


@dataclass(frozen=True)
class _Phase:
    """The outputs `phase, phase + stride, ...` along one axis.

    They are a convolution with the taps `taps` of the kernel, `dilation` apart; the first one reads the input at
    `low`, which may lie before its beginning; `border` is the padding of that convolution.
    """

    taps: tuple[int, ...]
    low: int
    dilation: int
    border: tuple[int, int]

    @property
    def skip(self) -> int:
        """Results of the convolution that come before the first one wanted."""
        return max(self.low, 0)


def _phases(size: int, kernel: int, stride: int, dilation: int, before: int, out: int) -> list[_Phase | None]:
    """What each phase of one axis computes; None where no tap reaches it."""
    step = stride // gcd(stride, dilation)
    phases: list[_Phase | None] = []
    for phase in range(min(stride, out)):
        taps = [tap for tap in range(kernel) if (phase + before - tap * dilation) % stride == 0]
        if not taps:
            phases.append(None)
            continue
        low = (phase + before - taps[-1] * dilation) // stride
        gap = step * dilation // stride
        count = (out - phase + stride - 1) // stride
        last = count - 1 + low + (len(taps) - 1) * gap
        phases.append(_Phase(tuple(reversed(taps)), low, gap, (max(-low, 0), max(last - size + 1, 0))))
    return phases


def _as_ordinary(weight: np.ndarray, groups: int) -> np.ndarray:
    """Weights `(in, out / groups, kh, kw)` as `(out, in / groups, kh, kw)`."""
    inside, outside, *kernel = weight.shape
    grouped = weight.reshape(groups, inside // groups, outside, *kernel).swapaxes(1, 2)
    return grouped.reshape(groups * outside, inside // groups, *kernel)


def lower(lowering: Lowering, call: relax.Call) -> Value | None:
    """A transposed convolution with constant weights, in the blocked layout."""
    weight, attrs = lowering.constant(call.args[1]), call.attrs
    if weight is None or not lowering.is_image(call.args[0]) or weight.dtype != np.float32:
        return None
    if attrs.data_layout not in ("NCHW", "NCW") or attrs.kernel_layout not in ("IOHW", "IOW"):
        return None
    weight = _as_ordinary(weight if weight.ndim == 4 else weight[:, :, None, :], int(attrs.groups))
    out_shape, stride, dilation = shape_of(call), pair(attrs.strides, 1), pair(attrs.dilation, 1)
    size, out, before = as_image(shape_of(call.args[0]))[2:], as_image(out_shape)[2:], border_of(attrs.padding)[:2]
    axes = [
        _phases(size[axis], weight.shape[2 + axis], stride[axis], dilation[axis], before[axis], out[axis])
        for axis in range(2)
    ]
    data = _two_axes(lowering, call.args[0])
    parts = {
        (y, x): _convolve(lowering, data, weight, int(attrs.groups), rows, columns)
        for (y, rows), (x, columns) in product(enumerate(axes[0]), enumerate(axes[1]))
        if rows is not None and columns is not None
    }
    if not parts:
        return None
    shape = (out_shape[0], out_shape[1], *out)
    skips = {key: (axes[0][key[0]].skip, axes[1][key[1]].skip) for key in parts}
    result = interleave(lowering, parts, skips, shape, stride)
    return lowering.wrap(result, out_shape, next(iter(parts.values())).segments)


def _two_axes(lowering: Lowering, expr: relax.Expr) -> relax.Expr:
    """The input with two space axes."""
    shape = shape_of(expr)
    if len(shape) == 4:
        return expr
    value = lowering.value(expr)
    if not isinstance(value, Blocked):
        return lowering.builder.emit(relax.op.reshape(value, as_image(shape)))
    return lowering.variable(Blocked(value.expr, as_image(shape), value.segments, value.lanes))


def _convolve(
    lowering: Lowering, data: relax.Expr, weight: np.ndarray, groups: int, rows: _Phase, columns: _Phase
) -> Blocked:
    """One phase, through whatever lowers ordinary convolutions."""
    taps = np.ascontiguousarray(weight[:, :, rows.taps, :][:, :, :, columns.taps])
    ordinary = relax.op.nn.conv2d(
        data,
        relax.const(taps),
        padding=[rows.border[0], columns.border[0], rows.border[1], columns.border[1]],
        dilation=[rows.dilation, columns.dilation],
        groups=groups,
    )
    ordinary = lowering.builder.normalize(ordinary)
    return lowering.blocked(lowering.handlers["relax.nn.conv2d"](lowering, ordinary))


def interleave(lowering: Lowering, parts: dict, skips: dict, shape: tuple, stride: tuple) -> relax.Expr:
    """The phases side by side, `(batch, blocks, height, width, lanes)`; phases that no tap reaches are zero."""
    if stride == (1, 1) and skips[0, 0] == (0, 0) and parts[0, 0].shape[2:] == shape[2:]:
        return parts[0, 0].expr
    batch, _, height, width = shape
    some = next(iter(parts.values()))

    def compute(*tensors: te.Tensor) -> te.Tensor:
        table = dict(zip(parts, tensors, strict=True))

        def column(n, b, y, x, lane, row):
            value = tirx.const(0, "float32")
            for phase in reversed(range(stride[1])):
                if (row, phase) in table:
                    down, right = skips[row, phase]
                    read = table[row, phase][n, b, y // stride[0] + down, x // stride[1] + right, lane]
                else:
                    read = tirx.const(0, "float32")
                last = phase == stride[1] - 1
                value = read if last else tirx.if_then_else(x % stride[1] == phase, read, value)
            return value

        def result(n, b, y, x, lane):
            value = column(n, b, y, x, lane, stride[0] - 1)
            for phase in reversed(range(stride[0] - 1)):
                value = tirx.if_then_else(y % stride[0] == phase, column(n, b, y, x, lane, phase), value)
            return value

        return te.compute((batch, some.blocks, height, width, some.lanes), result, name="interleave")

    exprs = [part.expr for part in parts.values()]
    return lowering.builder.emit_te(compute, *exprs, primfunc_name_hint="interleave", primfunc_attrs=_INJECTIVE)


HANDLERS = {"relax.nn.conv1d_transpose": lower, "relax.nn.conv2d_transpose": lower}
