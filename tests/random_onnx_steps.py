"""The steps of random ONNX models: one pattern of nodes each. A new one is a function here."""

import numpy as np

from random_onnx import Misfit, Sketch, step

UNARY = ["Relu", "Tanh", "Sigmoid", "Abs", "Neg", "Softplus", "Erf", "HardSwish", "Elu", "Cos", "Identity"]


@step
def unary(s: Sketch) -> None:
    x = s.pick()
    s.keep(s.node(s.choice(UNARY), x), s.kinds[x])


@step
def clip(s: Sketch) -> None:
    x = s.pick()
    bounds = s.store(np.float32(s.choice([-1.0, 0.1]))), s.store(np.float32(2.0))
    s.keep(s.node("Clip", x, *bounds), s.kinds[x])


@step
def conv(s: Sketch) -> None:
    x = s.pick("image")
    size, width = s.choice([1, 3]), s.choice([8, 6, 5, 12])
    weight = s.weight(width, s.shape(x)[1], size, size)
    bias = [s.weight(width)] if s.below(2) else []
    s.keep(s.node("Conv", x, weight, *bias, pads=[size // 2] * 4), "image")


@step
def grouped(s: Sketch) -> None:
    x = s.pick("image")
    width = s.shape(x)[1]
    groups = s.choice([width, s.divisor(width)])
    out = groups * s.number(1, 3)
    s.keep(s.node("Conv", x, s.weight(out, width // groups, 3, 3), group=groups, pads=[1] * 4), "image")


@step
def conv_transpose(s: Sketch) -> None:
    x = s.pick("image")
    s.keep(s.node("ConvTranspose", x, s.weight(s.shape(x)[1], 6, 2, 2), strides=[2, 2]), "image")


@step
def linear(s: Sketch) -> None:
    x, width = s.pick("tokens"), s.choice([8, 6, 5, 12])
    y = s.node("MatMul", x, s.weight(s.shape(x)[2], width))
    s.keep(s.node("Add", s.weight(width), y) if s.below(2) else y, "tokens")


@step
def linear_of_rows(s: Sketch) -> None:
    """Gemm on (N * T, C)."""
    x, width = s.pick("tokens"), s.choice([8, 6, 5])
    _, places, old = s.shape(x)
    rows = s.reshape(x, x, [-1, (2, 1, 1)])
    flip = s.below(2)
    weight = s.weight(*((width, old) if flip else (old, width)))
    y = s.node("Gemm", rows, weight, s.weight(width), transB=flip, alpha=s.choice([1.0, 0.5]))
    s.keep(s.reshape(y, x, [(0, 1, 1), (1, 1, 1), width]), "tokens")


@step
def quantised(s: Sketch) -> None:
    """Weights in int8, one scale for each output channel or for all."""
    x = s.pick("image")
    weight = s.store(s.random.integers(-60, 60, (8, s.shape(x)[1], 1, 1)).astype(np.int8), "q")
    each = s.below(2)
    scale = s.random.uniform(0.005, 0.01, (8,) if each else ()).astype(np.float32)
    zero = [s.store(np.full(scale.shape, s.choice([0, 3]), dtype=np.int8))] if s.below(2) else []
    s.keep(s.node("Conv", x, s.node("DequantizeLinear", weight, s.store(scale), *zero, axis=0)), "image")


@step
def add(s: Sketch) -> None:
    x = s.pick()
    y = s.pick(s.kinds[x], shape=s.shape(x))
    s.keep(s.node(s.choice(["Add", "Mul", "Sub", "Max", "Mean"]), x, y), s.kinds[x])


@step
def constant(s: Sketch) -> None:
    x = s.pick()
    kind, axis, width = s.kind(x)
    shape = [1] * len(s.shape(x))
    shape[axis] = width
    operands = [x, s.weight(*(shape[1:] if s.below(2) else shape))]
    s.keep(s.node(s.choice(["Add", "Mul", "Sub"]), *(operands if s.below(2) else operands[::-1])), kind)


@step
def scalar(s: Sketch) -> None:
    x = s.pick()
    s.keep(s.node(s.choice(["Mul", "Add", "Div", "Pow"]), x, s.store(np.float32(s.choice([0.5, 2.0])))), s.kinds[x])


@step
def size_scalar(s: Sketch) -> None:
    """A number made of the width."""
    x = s.pick()
    kind, axis, _ = s.kind(x)
    number = s.node("Cast", s.size(x, axis), to=1)
    s.keep(s.node(s.choice(["Div", "Mul"]), x, s.node("Sqrt", number)), kind)


@step
def concat(s: Sketch) -> None:
    x = s.pick()
    kind, axis, _ = s.kind(x)
    shape = list(s.shape(x))
    fits = [name for name in s.kinds if s.kinds[name] == kind and _but(s.shape(name), axis) == _but(shape, axis)]
    parts = [s.choice(fits) for _ in range(s.number(1, 2))] + [x]
    s.keep(s.node("Concat", *parts, axis=s.choice([axis, axis - len(shape)])), kind)


def _but(shape, axis):
    return [size for place, size in enumerate(shape) if place != axis]


@step
def split(s: Sketch) -> None:
    x = s.pick()
    kind, axis, width = s.kind(x)
    first = s.number(1, width - 1)
    a, b = s.node("Split", x, s.ints(first, width - first), outputs=2, axis=axis)
    s.keep(a, kind)
    s.keep(b, kind)


@step
def split_evenly(s: Sketch) -> None:
    """Gated units; the exact even split or `num_outputs`."""
    x = s.pick()
    kind, axis, width = s.kind(x)
    if width % 2:
        raise Misfit
    a, b = s.node("Split", x, outputs=2, axis=axis, num_outputs=2)
    s.keep(s.node("Mul", a, s.node("Sigmoid", b)), kind)


@step
def cut(s: Sketch) -> None:
    """A slice along any axis but the batch."""
    x = s.pick()
    kind, rank = s.kinds[x], len(s.shape(x))
    axis = s.number(1, rank - 1)
    size = s.shape(x)[axis]
    start, stop, stride = s.number(0, size - 2), s.number(1, size), s.choice([1, 1, 2])
    if s.below(3) == 2:
        start, stop = start - size, stop if stop == size else stop - size
    ends = s.choice([stop, 2**63 - 1])
    y = s.node("Slice", x, s.ints(start), s.ints(ends), s.ints(axis - s.choice([0, rank])), s.ints(stride))
    s.keep(y, kind)


@step
def halves(s: Sketch) -> None:
    """Both halves of the channels, cut where half of the computed width lies."""
    x = s.pick()
    kind, axis, width = s.kind(x)
    if width % 2:
        raise Misfit
    half = s.node("Div", s.size(x, axis), s.ints(2))
    first = s.node("Slice", x, s.ints(0), half, s.ints(axis))
    second = s.node("Slice", x, half, s.ints(2**31 - 1), s.ints(axis))
    s.keep(s.node("Mul", first, s.node("Tanh", second)), kind)


@step
def backwards(s: Sketch) -> None:
    x = s.pick()
    rank = len(s.shape(x))
    axis = s.number(1, rank - 1)
    s.keep(s.node("Slice", x, s.ints(-1), s.ints(-(2**31)), s.ints(axis), s.ints(-1)), s.kinds[x])


@step
def gather(s: Sketch) -> None:
    x = s.pick()
    axis = s.number(1, len(s.shape(x)) - 1)
    size = s.shape(x)[axis]
    index = [s.below(size) for _ in range(s.number(2, size + 1))]
    s.keep(s.node("Gather", x, s.ints(*index), axis=axis), s.kinds[x])


@step
def shuffle(s: Sketch) -> None:
    x = s.pick("image")
    groups = s.divisor(s.shape(x)[1])
    split = s.reshape(x, x, [(0, 1, 1), groups, (1, groups, 1), (2, 1, 1), (3, 1, 1)])
    swapped = s.node("Transpose", split, perm=[0, 2, 1, 3, 4])
    s.keep(s.reshape(swapped, x, [(0, 1, 1), s.choice([-1, (1, 1, 1)]), (2, 1, 1), (3, 1, 1)]), "image")


@step
def to_tokens(s: Sketch) -> None:
    x = s.pick("image")
    flat = s.reshape(x, x, [(0, 1, 1), (1, 1, 1), -1])
    s.keep(s.node("Transpose", flat, perm=[0, 2, 1]), "tokens")


@step
def to_image(s: Sketch) -> None:
    x = s.pick("tokens")
    if s.shape(x)[1] % 2:
        raise Misfit
    turned = s.node("Transpose", x, perm=[0, 2, 1])
    s.keep(s.reshape(turned, x, [(0, 1, 1), (2, 1, 1), 2, -1]), "image")


@step
def fold_places(s: Sketch) -> None:
    """Two neighbouring tokens become one of twice the width."""
    x = s.pick("tokens")
    if s.shape(x)[1] % 2:
        raise Misfit
    s.keep(s.reshape(x, x, [(0, 1, 1), (1, 2, 1), (2, 1, 2)]), "tokens")


@step
def resize(s: Sketch) -> None:
    x = s.pick("image")
    scales = s.store(np.array([1, 1, 2, 1], dtype=np.float32))
    s.keep(s.node("Resize", x, "", scales, mode="nearest"), "image")


@step
def pad(s: Sketch) -> None:
    x = s.pick()
    rank = len(s.shape(x))
    pads = [0] * (2 * rank)
    axis = s.number(1, rank - 1)
    pads[axis + rank * s.below(2)] = s.number(1, min(2, s.shape(x)[axis] - 1))
    value = [s.store(np.float32(s.choice([0.0, 0.5])))] if s.below(2) else []
    mode = "constant" if value else s.choice(["constant", "reflect"])
    s.keep(s.node("Pad", x, s.ints(*pads), *value, mode=mode), s.kinds[x])


@step
def pool(s: Sketch) -> None:
    x = s.pick("image")
    s.keep(s.node(s.choice(["MaxPool", "AveragePool"]), x, kernel_shape=[2, 2], strides=[1, 1]), "image")


@step
def squeeze_excite(s: Sketch) -> None:
    x = s.pick("image")
    pooled = s.node("GlobalAveragePool", x)
    width = s.shape(x)[1]
    inner = s.node("Relu", s.node("Conv", pooled, s.weight(4, width, 1, 1)))
    s.keep(s.node("Mul", x, s.node("Sigmoid", s.node("Conv", inner, s.weight(width, 4, 1, 1)))), "image")


@step
def reduce(s: Sketch) -> None:
    """Over one axis, and spread again by a product."""
    x = s.pick()
    op = s.choice(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSumExp"])
    axis = s.number(1, len(s.shape(x)) - 1)
    small = s.node(op, x, s.ints(s.choice([axis, axis - len(s.shape(x))])), keepdims=1)
    s.keep(s.node("Sub", x, s.node("Tanh", small)), s.kinds[x])


@step
def softmax(s: Sketch) -> None:
    x = s.pick()
    s.keep(s.node(s.choice(["Softmax", "LogSoftmax"]), x, axis=s.number(1, len(s.shape(x)) - 1)), s.kinds[x])


@step
def batch_norm(s: Sketch) -> None:
    x = s.pick("image")
    width = s.shape(x)[1]
    variance = s.store(s.random.uniform(0.5, 1.5, width).astype(np.float32))
    s.keep(s.node("BatchNormalization", x, *(s.weight(width) for _ in range(3)), variance), "image")


@step
def instance_norm(s: Sketch) -> None:
    x = s.pick("image")
    width = s.shape(x)[1]
    s.keep(s.node("InstanceNormalization", x, s.weight(width), s.weight(width)), "image")


@step
def group_norm(s: Sketch) -> None:
    """As exporters write it in older opsets."""
    x = s.pick("image")
    width = s.shape(x)[1]
    groups = s.divisor(width)
    rows = s.reshape(x, x, [(0, 1, 1), groups, -1])
    ones = s.store(np.ones(groups, dtype=np.float32)), s.store(np.zeros(groups, dtype=np.float32))
    back = s.reshape(s.node("InstanceNormalization", rows, *ones), x, [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)])
    s.keep(s.node("Mul", back, s.weight(width, 1, 1)), "image")


@step
def layer_norm(s: Sketch) -> None:
    x = s.pick("tokens")
    width = s.shape(x)[2]
    s.keep(s.node("LayerNormalization", x, s.weight(width), s.weight(width), axis=-1), "tokens")


@step
def where(s: Sketch) -> None:
    x = s.pick()
    y = s.pick(s.kinds[x], shape=s.shape(x))
    mask = s.node("Greater", x, s.store(np.float32(0.1)))
    s.keep(s.node("Where", mask, x, s.choice([y, s.store(np.float32(0.2))])), s.kinds[x])


@step
def where_places(s: Sketch) -> None:
    """A stored mask over places."""
    x = s.pick()
    kind, axis, _ = s.kind(x)
    shape = [1 if place in (0, axis) else size for place, size in enumerate(s.shape(x))]
    mask = s.store(s.random.integers(0, 2, shape).astype(bool))
    s.keep(s.node("Where", mask, x, s.store(np.float32(0.0))), kind)


@step
def expand(s: Sketch) -> None:
    """A stored row, spread to the shape of a value."""
    x = s.pick()
    kind, axis, width = s.kind(x)
    shape = [1] * len(s.shape(x))
    shape[axis] = width
    s.keep(s.node("Add", x, s.node("Expand", s.weight(*shape), s.node("Shape", x))), kind)


@step
def tile(s: Sketch) -> None:
    x = s.pick()
    times = [1] * len(s.shape(x))
    times[s.number(1, len(times) - 1)] = 2
    s.keep(s.node("Tile", x, s.ints(*times)), s.kinds[x])


@step
def depth_to_space(s: Sketch) -> None:
    x = s.pick("image")
    s.keep(s.node("DepthToSpace", x, blocksize=2, mode=s.choice(["DCR", "CRD"])), "image")


@step
def space_to_depth(s: Sketch) -> None:
    x = s.pick("image")
    s.keep(s.node("SpaceToDepth", x, blocksize=2), "image")


@step
def einsum(s: Sketch) -> None:
    x = s.pick("tokens")
    weight = s.weight(s.shape(x)[2], 6)
    s.keep(s.node("Einsum", x, weight, equation="btc,cd->btd"), "tokens")


@step
def gram(s: Sketch) -> None:
    x = s.pick("tokens")
    scores = s.node("MatMul", x, s.node("Transpose", x, perm=[0, 2, 1]))
    s.keep(s.node("MatMul", s.node("Softmax", scores, axis=-1), x), "tokens")


@step
def lstm(s: Sketch) -> None:
    x = s.pick("tokens")
    width, hidden = s.shape(x)[2], s.choice([5, 6])
    turned = s.node("Transpose", x, perm=[1, 0, 2])
    y, *_ = s.node(
        "LSTM", turned, s.weight(1, 4 * hidden, width), s.weight(1, 4 * hidden, hidden), s.weight(1, 8 * hidden),
        outputs=2, hidden_size=hidden,
    )  # fmt: skip
    s.keep(s.node("Transpose", s.node("Squeeze", y, s.ints(1)), perm=[1, 0, 2]), "tokens")


@step
def attention(s: Sketch) -> None:
    """Projections, heads by Reshape and Transpose, and back."""
    x = s.pick("tokens")
    width, heads, inner = s.shape(x)[2], s.choice([2, 4]), 8
    split = []
    for _ in range(3):
        made = s.node("Add", s.node("MatMul", x, s.weight(width, inner)), s.weight(inner))
        rows = s.reshape(made, made, [(0, 1, 1), (1, 1, 1), heads, (2, heads, 1)])
        split.append(s.node("Transpose", rows, perm=[0, 2, 1, 3]))
    q, k, v = split
    scores = s.node("MatMul", q, s.node("Transpose", k, perm=[0, 1, 3, 2]))
    weights = s.node("Softmax", s.node("Div", scores, s.store(np.float32(1.5))), axis=-1)
    turned = s.node("Transpose", s.node("MatMul", weights, v), perm=[0, 2, 1, 3])
    joined = s.reshape(turned, x, [(0, 1, 1), (1, 1, 1), s.choice([-1, inner])])
    s.keep(s.node("MatMul", joined, s.weight(inner, 8)), "tokens")


@step
def cumulate(s: Sketch) -> None:
    x = s.pick()
    s.keep(s.node("CumSum", x, s.store(np.int64(s.number(1, len(s.shape(x)) - 1)))), s.kinds[x])
