"""Convolutions, pools and resizing in float64: windows are gathered by index, sums over them are matrix products."""

from collections.abc import Sequence
from functools import cache, reduce
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from .builder import Builder, CannotExpand

LARGEST = 1 << 24
"""How many numbers are gathered at once (128 MB); larger windows are worked off in pieces."""


class Windows(NamedTuple):
    """Where every output position looks: `places` [kernel positions, output positions] into the flattened axes.

    Positions outside hold the number of input positions. `padded` tells which lie at least in the padding.
    """

    places: NDArray[np.int64]
    padded: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    sizes: tuple[int, ...]


def _window(sizes: Sequence[int], lines: Sequence[NDArray[np.int64]], reach: Sequence[tuple[int, int]]) -> Windows:
    """Windows from the position (or -1 in no case below reach) that every axis has per [kernel, output] position."""
    count = len(sizes)
    index, inside, padded = np.zeros((), np.int64), np.ones((), bool), np.ones((), bool)
    for axis, (size, line, (low, high)) in enumerate(zip(sizes, lines, reach, strict=True)):
        spread = [1] * (2 * count)
        spread[axis], spread[count + axis] = line.shape
        line = line.reshape(spread)
        index = index * size + line
        inside = inside & (line >= 0) & (line < size)
        padded = padded & (line >= low) & (line < high)
    kernel = int(np.prod([line.shape[0] for line in lines]))
    flat = [array.reshape(kernel, -1) for array in np.broadcast_arrays(index, padded, inside)]
    total = int(np.prod(sizes))
    return Windows(np.where(flat[2], flat[0], total), flat[1], flat[2], tuple(line.shape[1] for line in lines))


def forward_windows(b: Builder, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """The windows of a convolution or a pool with the attributes of the node."""
    dims = len(kernel)
    strides, dilations = b.attr("strides") or [1] * dims, b.attr("dilations") or [1] * dims
    pads, auto = list(b.attr("pads") or [0] * 2 * dims), b.attr("auto_pad", "NOTSET")
    lines, reach = [], []
    for axis, (size, k, step, wide) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        span = (k - 1) * wide + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out = -(-size // step)
            total = max((out - 1) * step + span - size, 0)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            end = total - begin
        else:
            begin, end = (0, 0) if auto == "VALID" else (pads[axis], pads[dims + axis])
            free = size + begin + end - span
            out = free // step + 1
            if b.attr("ceil_mode", 0):
                out = -(-free // step) + 1
                out -= (out - 1) * step >= size + begin  # windows that begin in the padding behind do not count
        lines.append(np.arange(k)[:, None] * wide + np.arange(out) * step - begin)
        reach.append((-begin, size + end))
    return _window(sizes, lines, reach)


def transposed_windows(b: Builder, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """For every output position of a transposed convolution, the input positions that reach it."""
    dims = len(kernel)
    strides, dilations = b.attr("strides") or [1] * dims, b.attr("dilations") or [1] * dims
    pads, auto = list(b.attr("pads") or [0] * 2 * dims), b.attr("auto_pad", "NOTSET")
    more, wanted = b.attr("output_padding") or [0] * dims, b.attr("output_shape")
    lines, reach = [], []
    for axis, (size, k, step, wide) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        full = step * (size - 1) + more[axis] + (k - 1) * wide + 1
        if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
            out = list(wanted)[-dims:][axis] if wanted else size * step
            total = max(full - out, 0)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        else:
            begin, end = (0, 0) if auto == "VALID" else (pads[axis], pads[dims + axis])
            out = full - begin - end
        places = np.arange(out) + begin - np.arange(k)[:, None] * wide
        lines.append(np.where(places % step == 0, places // step, -1))
        reach.append((0, size))
    return _window(sizes, lines, reach)


def _flat(b: Builder, x: ir.Value, shape: tuple[int, ...], windows: Windows, fill: float = 0.0) -> ir.Value:
    """A value with its window axes flattened, and one more number where windows look outside."""
    flat = b.reshape(x, [*shape[:2], int(np.prod(shape[2:]))])
    return flat if windows.inside.all() else b("Concat", flat, b.const(np.full((*shape[:2], 1), fill)), axis=2)


def _pieces(count: int, size: int) -> list[slice]:
    """Slices of `count` output positions, each small enough to be gathered at once."""
    step = max(1, LARGEST // max(size, 1))
    return [slice(start, start + step) for start in range(0, count, step)]


def _product(b: Builder, x: ir.Value, weight: ir.Value, windows: Windows, channels: int, groups: int) -> ir.Value:
    """The sum over channels and windows; `weight` is [groups, outputs, channels * windows] already."""
    shape = b.shape(x)
    batch, count = shape[0], windows.places.shape[1]
    identity = windows.places.shape[0] == 1 and np.array_equal(windows.places[0], np.arange(np.prod(shape[2:])))
    flat = _flat(b, x, shape, windows)
    parts = []
    for piece in _pieces(count, shape[0] * shape[1] * windows.places.shape[0]) if not identity else [slice(0, count)]:
        seen = flat if identity else b("Gather", flat, b.ints(windows.places[:, piece]), axis=2)
        width = len(range(count)[piece])
        columns = b.reshape(seen, [batch, groups, shape[1] // groups * windows.places.shape[0], width])
        if groups == 1:
            columns = b.reshape(columns, [batch, shape[1] * windows.places.shape[0], width])
        parts.append(b("MatMul", weight, columns))
    result = parts[0] if len(parts) == 1 else b("Concat", *parts, axis=3 if groups > 1 else 2)
    return b.reshape(result, [batch, channels, *windows.sizes])


def _with_bias(b: Builder, result: ir.Value, bias: "ir.Value | None", dims: int) -> ir.Value:
    return result if bias is None else b("Add", result, b.reshape(bias, [1, -1, *[1] * dims]))


def convolution(b: Builder) -> ir.Value:
    """Conv: gathered windows times the weight."""
    x, weight = b.input(0), b.input(1)
    sizes, (outputs, inputs, *kernel) = b.shape(x), b.shape(weight)
    groups = b.attr("group", 1)
    if 0 in sizes or len(sizes) < 3:
        raise CannotExpand("an empty input")
    windows = forward_windows(b, sizes[2:], kernel)
    width = inputs * int(np.prod(kernel))
    matrix = b.reshape(weight, [groups, outputs // groups, width] if groups > 1 else [outputs, width])
    return _with_bias(b, _product(b, x, matrix, windows, outputs, groups), b.inputs[2], len(kernel))


def transposed_convolution(b: Builder) -> ir.Value:
    """ConvTranspose: a convolution over the positions that reach an output."""
    x, weight = b.input(0), b.input(1)
    sizes, (inputs, outputs, *kernel) = b.shape(x), b.shape(weight)
    groups, positions = b.attr("group", 1), int(np.prod(b.shape(weight)[2:]))
    if 0 in sizes:
        raise CannotExpand("an empty input")
    windows = transposed_windows(b, sizes[2:], kernel)
    split = b.reshape(weight, [groups, inputs // groups, outputs, positions])
    swapped = b("Transpose", split, perm=[0, 2, 1, 3])
    width = inputs // groups * positions
    matrix = b.reshape(swapped, [groups, outputs, width] if groups > 1 else [outputs, width])
    return _with_bias(b, _product(b, x, matrix, windows, outputs * groups, groups), b.inputs[2], len(kernel))


def _pooled(b: Builder, op: str, fill: float = 0.0) -> tuple[ir.Value, Windows, tuple[int, ...]]:
    """The windows of a pool, reduced: [batch, channels, output positions]."""
    x = b.input(0)
    shape = b.shape(x)
    windows = forward_windows(b, shape[2:], b.attr("kernel_shape"))
    flat, parts = _flat(b, x, shape, windows, fill), []
    for piece in _pieces(windows.places.shape[1], shape[0] * shape[1] * windows.places.shape[0]):
        seen = b("Gather", flat, b.ints(windows.places[:, piece]), axis=2)
        parts.append(b.reduce(op, seen, [2], keepdims=False))
    return parts[0] if len(parts) == 1 else b("Concat", *parts, axis=2), windows, (*shape[:2], *windows.sizes)


def average_pool(b: Builder) -> ir.Value:
    """AveragePool: sums of windows over how many positions count."""
    total, windows, shape = _pooled(b, "ReduceSum")
    counted = windows.padded if b.attr("count_include_pad", 0) else windows.inside
    return b.reshape(b("Div", total, b.const(np.maximum(counted.sum(axis=0), 1))), shape)


def max_pool(b: Builder) -> ir.Value:
    """MaxPool, for opsets in which it is there in float32 only."""
    if len(b.node.outputs) > 1:
        raise CannotExpand("indices are wanted")
    largest, _, shape = _pooled(b, "ReduceMax", -np.inf)
    return b.reshape(largest, shape)


def lp_pool(b: Builder) -> ir.Value:
    """LpPool: the p-norm of windows."""
    power = float(b.attr("p", 2))
    x = b("Pow", b("Abs", b.input(0)), b.const(power))
    x.shape = b.input(0).shape
    b.inputs = (x, *b.inputs[1:])
    total, _, shape = _pooled(b, "ReduceSum")
    return b.reshape(b("Pow", total, b.const(1 / power)), shape)


def global_pool(b: Builder) -> ir.Value:
    """GlobalAveragePool and its kin: a reduction over all axes but the first two."""
    x = b.input(0)
    axes = range(2, len(b.shape(x)))
    kind = b.node.op_type
    if kind != "GlobalLpPool":
        return b.reduce("ReduceMean" if kind == "GlobalAveragePool" else "ReduceMax", x, axes)
    power = float(b.attr("p", 2))
    return b("Pow", b.reduce("ReduceSum", b("Pow", b("Abs", x), b.const(power)), axes), b.const(1 / power))


def resize(b: Builder) -> ir.Value:
    """Resize and Upsample, axis by axis: each is linear, with the coefficients that ONNX Runtime uses."""
    x = b.input(0)
    shape, out = b.shape(x), b.shape(b.node.outputs[0])
    if b.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise CannotExpand("a region of interest")
    if b.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise CannotExpand("sizes that follow from others")
    scales = _scales(b, len(shape))
    changed = [axis for axis in range(len(shape)) if shape[axis] != out[axis] or scales and scales[axis] != 1]
    return (
        reduce(lambda value, axis: _resized(b, value, axis, shape, out, scales), changed, x)
        if changed
        else b("Identity", x)
    )


def _scales(b: Builder, rank: int) -> list[float] | None:
    """How many times larger every axis becomes; None where sizes are given instead."""
    given = b.attr("scales")
    if given is not None:
        return list(given)
    place = 1 if b.node.op_type == "Upsample" or b.opset < 11 else 2
    if b.inputs[3] is not None and place == 2:
        return None
    numbers = b.number(b.inputs[place])
    axes = b.attr("axes")
    axes = range(rank) if axes is None else [axis % rank for axis in axes]
    given = dict(zip(axes, numbers.tolist(), strict=False))
    return [given.get(axis, 1.0) for axis in range(rank)] if numbers.size else None


def _resized(
    b: Builder, value: ir.Value, axis: int, shape: tuple[int, ...], out: tuple[int, ...], scales: list[float] | None
) -> ir.Value:
    attributes = tuple(
        (name, item.value if not isinstance(item.value, (list, tuple)) else tuple(item.value))
        for name, item in b.node.attributes.items()
        if name not in ("scales", "axes")
    )
    scale = None if scales is None else scales[axis]
    matrix = _coefficients(b.node.op_type, b.opset, attributes, shape[axis], out[axis], scale)
    picks = matrix.argmax(axis=0)
    if np.array_equal(matrix, np.arange(shape[axis])[:, None] == picks):
        return b("Gather", value, b.ints(picks), axis=axis)
    rank = len(shape)
    if axis == rank - 2:
        return b("MatMul", b.const(matrix.T), value)
    order = [*(other for other in range(rank) if other != axis), axis]
    last = value if axis == rank - 1 else b("Transpose", value, perm=order)
    product = b("MatMul", last, b.const(matrix))
    return product if axis == rank - 1 else b("Transpose", product, perm=[order.index(one) for one in range(rank)])


@cache
def _coefficients(
    op: str, opset: int, attributes: tuple[tuple[str, object], ...], before: int, after: int, scale: float | None
) -> NDArray[np.float64]:
    """The matrix [before, after] of resizing one axis, seen by resizing unit vectors."""
    names = (
        ["x", "", "", "sizes"]
        if scale is None
        else ["x", "scales"]
        if op == "Upsample" or opset < 11
        else ["x", "", "scales"]
    )
    inputs = {
        "x": ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, before, before, 1])),
    }
    given = dict(attributes)
    stored = []
    if op == "Upsample" and opset < 9:
        given["scales"] = [1.0, 1.0, float(scale or 1), 1.0]
        names = ["x"]
    elif scale is None:
        stored = [ir.Value(name="sizes", const_value=ir.tensor(np.array([1, before, after, 1]), name="sizes"))]
    else:
        stored = [ir.Value(name="scales", const_value=ir.tensor(np.array([1, 1, scale, 1], np.float32), name="scales"))]
    if opset in (11, 12) and op == "Resize":
        stored.append(ir.Value(name="roi", const_value=ir.tensor(np.zeros(0, np.float32), name="roi")))
        names[1] = "roi"
        if scale is None:
            stored.append(ir.Value(name="none", const_value=ir.tensor(np.zeros(0, np.float32), name="none")))
            names[2] = "none"
    known = {value.name: value for value in (*inputs.values(), *stored)}
    node = ir.node(op, [known.get(name) for name in names], attributes=given)  # type: ignore[arg-type]
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [inputs["x"]], node.outputs, nodes=[node], initializers=stored, opset_imports={"": opset}, name="one"
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        result = session.run(None, {"x": np.eye(before, dtype=np.float32).reshape(1, before, before, 1)})[0]
    except Exception as error:
        raise CannotExpand(f"one axis alone cannot be resized: {error}") from error
    if result.shape != (1, before, after, 1):
        raise CannotExpand("one axis alone gets another size")
    return np.asarray(result, dtype=np.float64).reshape(before, after)
