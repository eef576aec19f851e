"""Contractions: convolution, linear, matmul, einsum, attention, embedding."""

from math import prod

import numpy as np

from ..graph import Node, Shape, Value
from ..joining import NO_CHANNELS, contract, join
from ..labels import Array, Equations, Labels, Layout, Product
from ..layout import copied, dirty, line, lock_axes, without
from ..policy import NARROW

_BYTES = {"float64": 8, "bfloat16": 2, "float16": 2}


def linear(eq: Equations, node: Node, x: Layout, weight: Layout, bias: Layout = ()) -> Layout:
    """x @ weight.T + bias; weight is (out, in)."""
    value, matrix = _shape(node, 0), _shape(node, 1)
    if len(matrix) == 1:
        matrix, weight = (1, *matrix), tuple(array._replace(axes=(1,)) for array in weight)
    batch = [f"b{axis}" for axis in range(len(value) - 1)]
    out = contract(eq, [(value, x, [*batch, "in"]), (matrix, weight, ["out", "in"])], [*batch, "out"])
    return _add_bias(eq, node, out, bias, len(value) - 1)


def matmul(eq: Equations, node: Node, a: Layout, b: Layout) -> Layout:
    """Batched matrix product with broadcasting; 1-D operands as in numpy."""
    left, right = _shape(node, 0), _shape(node, 1)
    rank = len(node.outputs[0].shape) + (len(left) == 1) + (len(right) == 1) - 2
    first = ["k"] if len(left) == 1 else [*_batch(rank, len(left) - 2), "m", "k"]
    second = ["k"] if len(right) == 1 else [*_batch(rank, len(right) - 2), "k", "n"]
    out = [*_batch(rank, rank), *(["m"] if len(left) > 1 else []), *(["n"] if len(right) > 1 else [])]
    return contract(eq, [(left, a, first), (right, b, second)], out)


def addmm(eq: Equations, node: Node, bias: Layout, a: Layout, b: Layout) -> Layout:
    """bias + a @ b, of matrices or of batches of them."""
    left, right, shape = _shape(node, 1), _shape(node, 2), node.outputs[0].shape
    rank, own = len(shape), len(_shape(node, 0))
    batch = _batch(rank, rank - 2)
    out = contract(eq, [(left, a, [*batch, "m", "k"]), (right, b, [*batch, "k", "n"])], [*batch, "m", "n"])
    return _joined(join(eq, [(shape, out, range(rank)), (_shape(node, 0), bias, range(rank - own, rank))], "all"))


def bilinear(eq: Equations, node: Node, a: Layout, b: Layout, weight: Layout, bias: Layout = ()) -> Layout:
    """a weight b + bias; weight is (out, width of a, width of b)."""
    batch = [f"b{axis}" for axis in range(len(_shape(node, 0)) - 1)]
    operands = [(_shape(node, 0), a, [*batch, "i"]), (_shape(node, 2), weight, ["out", "i", "j"])]
    out = contract(eq, [*operands, (_shape(node, 1), b, [*batch, "j"])], [*batch, "out"])
    return _add_bias(eq, node, out, bias, len(batch), 3)


def grouped_matmul(eq: Equations, node: Node, x: Layout, weight: Layout, *others: Layout) -> Layout:
    """Rows of x, each times one of several matrices; weight is (experts, in, out). Which one is up to the input."""
    value, matrices = _shape(node, 0), _shape(node, 1)
    lock_axes(eq, weight, [0], "experts are chosen by the input", "prune inside the experts")
    for array in (array for layout in others for array in layout):
        eq.lock(array.labels, "counts the rows of every expert")
    kernel = 16 // _BYTES.get(str(node.inputs[0].dtype if node.inputs[0] else ""), 4)  # its rows start at 16 bytes
    for array in (*x, *without(weight, [0])):
        eq.multiples.append((array.labels, kernel))
    one = (1, *matrices[1:])
    return contract(
        eq, [(value, x, ["row", "in"]), (one, without(weight, [0]), ["expert", "in", "out"])], ["row", "out"]
    )


def einsum(eq: Equations, node: Node, *operands: Layout) -> Layout:
    """Any equation without repeated letters in one operand; otherwise locked."""
    equation = str(node.attrs["equation"]).replace(" ", "")
    inputs, _, output = equation.partition("->")
    shapes = [_shape(node, position) for position in range(len(operands))]
    terms = [_letters(term, len(shape)) for term, shape in zip(inputs.split(","), shapes, strict=True)]
    if any(len(set(term)) < len(term) for term in terms):
        for layout in operands:
            for array in layout:
                eq.lock(array.labels, f"einsum {equation!r} has a diagonal", "take the diagonal before or after it")
        return ()
    if "->" not in equation:
        every = inputs.replace(",", "").replace("...", "")
        dots = "..." if "..." in inputs else ""
        output = dots + "".join(sorted(letter for letter in set(every) if every.count(letter) == 1))
    return contract(eq, list(zip(shapes, operands, terms, strict=True)), _letters(output, len(node.outputs[0].shape)))


def _letters(term: str, rank: int) -> list[str]:
    """The letters of one operand; those of an ellipsis are counted from its end."""
    head, dots, tail = term.partition("...")
    extra = rank - len(head) - len(tail) if dots else 0
    return [*head, *(f"...{place}" for place in range(extra, 0, -1)), *tail]


def convolution(eq: Equations, node: Node, x: Layout, weight: Layout, bias: Layout = ()) -> Layout:
    """Convolution in 1 to 3 dimensions, grouped, depthwise, with multiplier, transposed.

    attrs: groups, transposed. The input is (N, C, ...) or (C, ...); weights are (out, in / groups, ...) or,
    transposed, (in, out / groups, ...).
    """
    groups, transposed = int(node.attrs.get("groups", 1)), bool(node.attrs.get("transposed"))
    value, kernel, result = _shape(node, 0), _shape(node, 1), node.outputs[0].shape
    channel = len(value) - len(kernel) + 1
    lock_axes(eq, x, set(range(len(value))) - {channel}, "slides over this axis")
    _fix_kernel(eq, node, weight)
    inner = line(eq, x, channel, value[channel])
    split = 1 if transposed else 0  # the weight axis that is not divided by the groups is 1 - split
    if groups == 1:
        narrow, wide = line(eq, weight, 1 - split, kernel[1 - split]), line(eq, weight, split, kernel[split])
        if value[channel] > 1:
            eq.tie(inner, narrow, NO_CHANNELS)
        outer = wide if kernel[split] > 1 else None
        factors: tuple[Labels, ...] = tuple(
            a for a, size in ((inner, value[channel]), (wide, kernel[split])) if size > 1
        )
        shares: tuple[int, ...] = (1,) * len(factors)
    else:
        outer = _grouped(eq, node, inner, weight, groups, transposed)
        factors, shares = (inner, outer), (1, groups)
    _count(eq, node, kernel, value if transposed else result, factors, shares, groups, channel)
    out: Layout = () if outer is None else (Array((channel,), outer, True),)
    return _add_bias(eq, node, out, bias, channel)


def _fix_kernel(eq: Equations, node: Node, weight: Layout) -> None:
    """Kernel axes are no channels: they stay, and are left out of explanations."""
    leaf, kernel = node.inputs[1], _shape(node, 1)
    assert leaf is not None
    if not leaf.is_leaf or leaf.uses > 1:
        lock_axes(eq, weight, range(2, len(kernel)), "is a kernel axis")
    for axis in range(2, len(kernel)):
        eq.leaf_axes.pop((leaf.name, axis), None)


def _grouped(eq: Equations, node: Node, inner: Labels, weight: Layout, groups: int, transposed: bool) -> Labels:
    """Depthwise: channels are tied. Otherwise every group keeps as many channels as the others."""
    kernel, leaf = _shape(node, 1), node.inputs[1]
    assert leaf is not None
    into, out = inner.size, node.outputs[0].shape[len(_shape(node, 0)) - len(kernel) + 1]
    whole = line(eq, weight, 0, kernel[0])
    if into == groups:
        outer = whole if not transposed else np.repeat(inner, out // groups)
        eq.tie((whole if transposed else outer).reshape(groups, -1), inner[:, None], NO_CHANNELS)
        if transposed and kernel[1] > 1:
            lock_axes(eq, weight, [1], "is the multiplier of a depthwise transposed convolution")
        eq.group_counts[leaf.name] = inner
        return outer
    if not leaf.is_leaf or leaf.uses > 1:
        for array in weight:
            eq.lock(array.labels, "grouped convolution with a weight that is computed or shared")
        eq.lock(inner, "grouped convolution with a weight that is computed or shared")
        return np.zeros(out, dtype=np.int64)
    narrow = "narrow" in eq.policy and max(into, out) <= groups * NARROW
    if narrow or "groups" in eq.policy:
        return _whole_groups(eq, leaf, inner, weight, groups, out, transposed)
    eq.block(inner.reshape(groups, -1), fixed=True)
    if transposed:
        eq.tie(inner, whole, NO_CHANNELS)
        outer = eq.fresh(out)
        divided = outer
    else:
        outer, divided = whole, inner
        if not inner.all():
            eq.lock(inner, NO_CHANNELS)
    if kernel[1] > 1:
        eq.leaf_axes[leaf.name, 1] = divided.reshape(groups, -1)
    else:
        eq.lock(divided, "is the only channel of its group")
    eq.block(outer.reshape(groups, -1), fixed=True)
    return outer


def _whole_groups(
    eq: Equations, leaf: Value, inner: Labels, weight: Layout, groups: int, out: int, transposed: bool
) -> Labels:
    """A group keeps its width, and lives or dies with all its inputs and outputs."""
    members, whole = inner.reshape(groups, -1), line(eq, weight, 0, leaf.shape[0]).reshape(groups, -1)
    eq.tie(members, members[:, :1])
    eq.tie(whole, members[:, :1], NO_CHANNELS)
    lock_axes(eq, weight, [1], "is the width of a group, which this policy keeps", "policy='positions'")
    eq.group_counts[leaf.name] = members[:, 0]
    return np.repeat(members[:, 0], out // groups) if transposed else whole.ravel()


def attention(eq: Equations, node: Node, q: Layout, k: Layout, v: Layout, mask: Layout = ()) -> Layout:
    """softmax(q kT) v over the last two axes; the head width is fixed because the scale depends on it."""
    query, key, values = (_shape(node, position) for position in range(3))
    rank = len(query)
    if node.attrs.get("grouped") and query[:-3] == key[:-3] and key[-3] > 1:  # every kv head serves several q heads
        share = query[-3] // key[-3]
        k, v = copied(eq, k, rank - 3, share, each=True), copied(eq, v, rank - 3, share, each=True)
        key, values = (*query[:-2], *key[-2:]), (*query[:-2], *values[-2:])
    if any(one != other and 1 not in (one, other) for one, other in zip(query[:-2], key[:-2], strict=True)):
        for array in (*q, *k, *v):
            eq.lock(array.labels, "attention whose heads do not match")
        return ()
    batch = [f"b{axis}" for axis in range(rank - 2)]
    lock_axes(eq, q, [rank - 2], "is a sequence axis")
    lock_axes(eq, k, [rank - 2], "softmax runs over it")
    scores = contract(eq, [(query, q, [*batch, "m", "k"]), (key, k, [*batch, "n", "k"])], [*batch, "m", "n"])
    for layout in (q, k):
        for array in layout:
            if array.axes == (rank - 1,) and "dims" not in eq.policy:
                eq.lock(array.labels, "is a head width: the attention scale depends on it", "policy='dims'")
    shape = (*query[:-1], key[-2])
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    if bias is not None:
        letters = range(rank)
        scores = _joined(join(eq, [(shape, scores, letters), (bias.shape, mask, letters[-len(bias.shape) :])], "all"))
    return contract(
        eq, [(shape, dirty(scores), [*batch, "m", "n"]), (values, v, [*batch, "n", "v"])], [*batch, "m", "v"]
    )


def embedding(eq: Equations, node: Node, index: Layout, weight: Layout, *others: Layout) -> Layout:
    """Rows of a table, or sums, means or maxima of bags of them: its width passes on, its rows stay."""
    for layout in (index, *others):
        for array in layout:
            eq.lock(array.labels, "is looked up in a table")
    lock_axes(eq, weight, [0], "rows of an embedding table are chosen by the input")
    last = len(node.outputs[0].shape) - 1
    return tuple(array._replace(axes=(last,)) for array in without(weight, [0]))


def _count(
    eq: Equations,
    node: Node,
    kernel: Shape,
    positions: Shape,
    factors: tuple[Labels, ...],
    shares: tuple[int, ...],
    groups: int,
    channel: int,
) -> None:
    spatial = prod(positions[channel + 1 :]) * prod(positions[:channel]) * prod(kernel[2:])
    if groups > 1 and eq.group_counts.get(node.inputs[1].name if node.inputs[1] else "") is not None:
        factors, shares = factors[1:], (1,)  # every output channel reads as many input channels as before
        spatial *= _shape(node, 0)[channel] // groups
    eq.macs.append((node, Product(float(spatial), factors, shares)))


def _add_bias(eq: Equations, node: Node, out: Layout, bias: Layout, axis: int, position: int = 2) -> Layout:
    value = node.inputs[position] if len(node.inputs) > position else None
    if value is None:
        return out
    if len(out) == 1 and out[0].axes == (axis,) and bias:  # the common case, without the generality of a join
        eq.tie(out[0].labels, bias[0].labels)
        return (out[0]._replace(zero=out[0].zero and bias[0].zero),)
    shape = node.outputs[0].shape
    return _joined(join(eq, [(shape, out, range(len(shape))), (value.shape, bias, [axis])], "all"))


def _joined(pairs: list[tuple[tuple[object, ...], Array]]) -> Layout:
    return tuple(array._replace(axes=letters) for letters, array in pairs)  # type: ignore[arg-type]


def _batch(rank: int, own: int) -> list[str]:
    return [f"b{axis}" for axis in range(rank - own, rank)]


def _shape(node: Node, position: int) -> Shape:
    value: Value | None = node.inputs[position]
    assert value is not None
    return value.shape
