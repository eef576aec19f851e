"""Normalisations: per channel exactly; over channels only inexactly."""

from ..graph import Node
from ..joining import Operand, join
from ..labels import Array, Equations, Layout
from ..layout import collapse, covering, dirty, lock_axes


def batch_norm(eq: Equations, node: Node, x: Layout, *parameters: Layout) -> Layout:
    """Scale, shift, mean and variance per channel (axis 1). attrs: training (statistics of the batch itself)."""
    value = node.inputs[0]
    assert value is not None
    channel = 1 if len(value.shape) > 1 else 0
    if node.attrs.get("training"):  # statistics of the batch: standardised weights, norms without running statistics
        for array in x:
            if set(array.axes) != {channel}:
                eq.loosen(array.labels, "takes statistics over the positions that are left", "exact=False")
    return _per_channel(eq, node, x, parameters, channel)


def instance_norm(eq: Equations, node: Node, x: Layout, *parameters: Layout) -> Layout:
    """Statistics per sample and channel: exact. Where a row of channels was made one channel, a group norm."""
    value = node.inputs[0]
    assert value is not None
    rows = covering(x, 1)
    if rows is not None and rows.axes == (1, 2) and len(value.shape) == 3:
        return _norm_of_rows(eq, x, rows, parameters)
    fixed = set(range(len(value.shape))) - {1}
    lock_axes(eq, x, fixed, "statistics are taken over this axis")
    return _per_channel(eq, node, x, parameters, 1)


def _norm_of_rows(eq: Equations, x: Layout, rows: Array, parameters: tuple[Layout, ...]) -> Layout:
    """Groups of channels lie in the rows of (N, groups, rest): they keep equal counts, and their scale and shift."""
    for layout in parameters:
        for own in layout:
            eq.lock(own.labels, "holds one number per group, and groups stay", "prune within groups")
    eq.loosen(rows.labels, "instance norm over groups takes statistics over the channels that are left", "exact=False")
    eq.block(rows.labels, fixed=True)
    return x


def group_norm(eq: Equations, node: Node, x: Layout, *parameters: Layout) -> Layout:
    """Statistics over groups of channels: every group keeps equal counts, and dropping is not masking."""
    value = node.inputs[0]
    assert value is not None
    groups, size = int(node.attrs["groups"]), value.shape[1]
    lock_axes(eq, x, set(range(len(value.shape))) - {1}, "statistics are taken over this axis")
    array, weight = covering(x, 1), node.inputs[1]
    if array and len(array.axes) == 1 and "groups" in eq.policy and weight is not None and weight.is_leaf:
        rows = array.labels.reshape(groups, -1)
        eq.tie(rows, rows[:, :1])
        eq.group_counts[weight.name] = rows[:, 0]
    elif array and len(array.axes) == 1 and groups < size:
        eq.loosen(array.labels, "group norm takes statistics over the channels that are left", "exact=False")
        eq.block(array.labels.reshape(groups, -1), fixed=True)
    elif array and groups == size:
        eq.lock(array.labels, "group norm with one channel per group fixes the number of channels", "use InstanceNorm")
    return _per_channel(eq, node, x, parameters, 1)


def layer_norm(eq: Equations, node: Node, x: Layout, *parameters: Layout) -> Layout:
    """Statistics over the last `dims` axes. attrs: dims."""
    value = node.inputs[0]
    assert value is not None
    rank, inside = len(value.shape), len(value.shape) - int(node.attrs["dims"])
    shifted = len(node.inputs) > 2 and node.inputs[2] is not None
    kept: list[Array] = []
    for array in x:
        normed = [axis for axis in array.axes if axis >= inside]
        if normed and (array.axes[0] in normed or "dims" in eq.policy):
            if not (array.zero and repaired(eq, node)):
                eq.loosen(array.labels, f"{node.op} takes statistics over the positions that are left", "exact=False")
            kept.append(array._replace(zero=array.zero and node.op == "rms_norm"))
            continue
        for axis in reversed(normed):  # a row is normalised by itself and lives or dies as a whole
            array = collapse(eq, array, axis)
        kept.append(array._replace(zero=array.zero and not shifted))
    operands: list[Operand] = [(value.shape, tuple(kept), range(rank))]
    for parameter, layout in zip(node.inputs[1:], parameters, strict=False):
        if parameter is not None:
            operands.append((parameter.shape, layout, range(rank - len(parameter.shape), rank)))
    return _placed(join(eq, operands, "any"))


def repaired(eq: Equations, node: Node) -> bool:
    """Whether a scale makes up for the positions that a root mean square loses; remembers that it has to."""
    scale, offset = node.attrs.get("repaired", (None, 0.0))
    if scale is not None:
        eq.repairs[scale] = offset
    return scale is not None


def _per_channel(eq: Equations, node: Node, x: Layout, parameters: tuple[Layout, ...], channel: int) -> Layout:
    """Tie parameters of one axis with the channels; dropped scale and shift leave zero."""
    value = node.inputs[0]
    assert value is not None
    given = [
        (parameter, layout)
        for parameter, layout in zip(node.inputs[1:], parameters, strict=False)
        if parameter is not None
    ]
    channels = covering(x, channel)
    if channels is not None and channels.axes == (channel,) and all(layout for _, layout in given):
        for _, layout in given:  # the common case, without the generality of a join
            eq.tie(channels.labels, layout[0].labels)
        result = x
    else:
        operands: list[Operand] = [(value.shape, x, range(len(value.shape)))]
        operands += [(parameter.shape, layout, [channel]) for parameter, layout in given]
        result = _placed(join(eq, operands, "any"))
    if node.inputs[1] is not None:
        return tuple(array._replace(zero=True) if channel in array.axes else array for array in result)
    return result if all(array.zero for array in x) else dirty(result)


def _placed(pairs: list[tuple[tuple[object, ...], Array]]) -> Layout:
    return tuple(array._replace(axes=letters) for letters, array in pairs)  # type: ignore[arg-type]
