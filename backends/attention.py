"""Attention: softmax(scale * Q K^T + biases) V in one kernel that holds a few queries' scores at a time.

The operands are read where they lie: a kernel for queries, keys and values that are slices of one packed product
copies none of them, but for the keys, whose vectors must run along the keys. Each head is one piece of parallel
work. A tile of queries computes its scores into a small buffer, turns them into powers, and sums the values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from tvm import s_tir, te, tirx

from .cores import SERVER, Core
from .fastmath import exp_below_zero
from .targets import Target
from .tiling import accumulate, blocks_of, find, register_tile, unroll, vectorize

_HEADS = "graphprune.attention"
# Rounds of a sum that are unrolled: with narrow vectors, and so more loads, fewer of them.
_UNROLLED = 8
# TVM's own starts from the smallest finite number, and would make something of a row that is -infinity throughout.
_MAXIMUM = te.comm_reducer(lambda x, y: tirx.max(x, y), lambda dtype: tirx.const(-inf, dtype), name="max")

# Where an element lies in an operand: the start, and for batch, head, row, feature the steps along its axes.
Places = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class Attention:
    """Sizes, and where the operands `(batch, heads, rows, features)` lie."""

    batch: int
    heads: int
    queries: int
    keys: int
    features: int
    values: int
    scale: float
    places: tuple[Places, Places, Places]
    lanes: int
    registers: int
    core: Core = SERVER

    @property
    def rows(self) -> int:
        """Queries per tile."""
        return register_tile(self.queries, 2, self.registers, core=self.core).width

    @property
    def key_blocks(self) -> int:
        """Vectors of keys, a whole number of pairs."""
        blocks = -(-self.keys // self.lanes)
        return blocks if blocks == 1 else blocks + blocks % 2

    @property
    def columns(self) -> int:
        """Keys, and the lanes beyond them."""
        return self.key_blocks * self.lanes

    @property
    def value_blocks(self) -> int:
        """Vectors of value features."""
        return -(-self.values // self.lanes)

    @property
    def values_in_place(self) -> bool:
        """Whether vectors of values can be loaded from the operand itself."""
        (_, steps) = self.places[2]
        return self.values % self.lanes == 0 and steps[3][:-1] == (0,) * (len(steps[3]) - 1) and steps[3][-1] == 1


def _at(tensor: te.Tensor, place: Places, *index: tirx.Expr) -> tirx.Expr:
    """The element of an operand for batch, head, row, feature."""
    start, steps = place
    where = []
    for axis, begin in enumerate(start):
        position = begin
        for number, step in zip(index, steps, strict=True):
            position = position + number * step[axis] if step[axis] else position
        where.append(position)
    return tensor(*where)


def _tree(combine, values: list) -> tirx.Expr:
    """All values combined in a balanced tree, whose branches need not wait for each other."""
    while len(values) > 1:
        values = [combine(*values[i : i + 2]) if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)]
    return values[0]


def compute(
    shape: Attention, query: te.Tensor, key: te.Tensor, value: te.Tensor, biases: Sequence[te.Tensor]
) -> te.Tensor:
    """The result as `(batch, queries, heads, values)`.

    A bias has four axes that are full or of extent one; one that has keys has them for all lanes of all blocks.
    """
    rows, lanes, last = shape.rows, shape.lanes, shape.keys - 1
    head = (shape.batch, shape.heads)
    tiles = -(-shape.queries // rows)
    at_query, at_key, at_value = shape.places
    columns = shape.columns

    def row(t, r):
        return t * rows + r if tiles * rows == shape.queries else tirx.min(t * rows + r, shape.queries - 1)

    def column(c):
        # Columns beyond the last key repeat it: that changes no maximum, and the powers leave them out.
        return c if columns == shape.keys else tirx.min(c, last)

    turned = te.compute(
        (*head, shape.key_blocks, shape.features, lanes),
        lambda b, h, o, d, v: _at(key, at_key, b, h, column(o * lanes + v), d),
        name="turned_keys",
    )
    d = te.reduce_axis((0, shape.features), "d")
    products = te.compute(
        (*head, tiles, shape.key_blocks, rows, lanes),
        lambda b, h, t, o, r, v: te.sum(_at(query, at_query, b, h, row(t, r), d) * turned[b, h, o, d, v], axis=[d]),
        name="products",
    )

    def score(b, h, t, r, c):
        result = products[b, h, t, c // lanes, r, c % lanes] * tirx.const(shape.scale, "float32")
        for bias in biases:
            index = (b, h, row(t, r), c)
            result = result + bias(*(i if int(n) > 1 else 0 for i, n in zip(index, bias.shape, strict=True)))
        return result

    per_row = (*head, tiles, rows)
    scores = te.compute((*per_row, columns), score, name="scores")
    powers = _powers(shape, scores, per_row)
    o = te.reduce_axis((0, shape.key_blocks), "o")
    sums = te.compute(
        (*per_row, lanes), lambda *i: te.sum(powers(*i[:-1], o * lanes + i[-1]), axis=[o]), name="sum_lanes"
    )
    total = te.compute(per_row, lambda *i: _tree(lambda x, y: x + y, [sums(*i, v) for v in range(lanes)]), name="total")
    inverse = te.compute(per_row, lambda *i: tirx.const(1, "float32") / total(*i), name="inverse")
    blocks = None if shape.values_in_place else _value_blocks(shape, value)
    k = te.reduce_axis((0, shape.keys), "k")

    def term(b, h, t, o, r, v):
        read = blocks[b, h, o, k, v] if blocks is not None else _at(value, at_value, b, h, k, o * lanes + v)
        return te.sum(powers[b, h, t, r, k] * read, axis=[k])

    mixed = te.compute((*head, tiles, shape.value_blocks, rows, lanes), term, name="mixed")
    return te.compute(
        (shape.batch, shape.queries, shape.heads, shape.values),
        lambda b, s, h, c: mixed[b, h, s // rows, c // lanes, s % rows, c % lanes] * inverse[b, h, s // rows, s % rows],
        name="attention",
        attrs={_HEADS: [rows, lanes]},
    )


def _powers(shape: Attention, scores: te.Tensor, per_row: tuple[int, ...]) -> te.Tensor:
    """exp(score - greatest score of the row), and zero beyond the last key."""
    lanes, columns = shape.lanes, shape.columns
    o = te.reduce_axis((0, shape.key_blocks), "o")
    lane = te.compute(
        (*per_row, lanes), lambda *i: _MAXIMUM(scores(*i[:-1], o * lanes + i[-1]), axis=[o]), name="highest_lanes"
    )
    highest = te.compute(per_row, lambda *i: _tree(tirx.max, [lane(*i, v) for v in range(lanes)]), name="highest")

    def power(*index):
        result = exp_below_zero(scores(*index) - highest(*index[:-1]))
        if columns == shape.keys:
            return result
        return tirx.Select(index[-1] < shape.keys, result, tirx.const(0, "float32"))

    return te.compute((*per_row, columns), power, name="powers")


def _value_blocks(shape: Attention, value: te.Tensor) -> te.Tensor:
    """Values in vectors of features."""

    def read(b, h, o, k, v):
        return _at(value, shape.places[2], b, h, k, tirx.min(o * shape.lanes + v, shape.values - 1))

    size = (shape.batch, shape.heads, shape.value_blocks, shape.keys, shape.lanes)
    return te.compute(size, read, name="value_blocks")


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that is the template."""
    sch = s_tir.Schedule(function)
    result = find(sch, _HEADS)
    if result is None:
        return None
    rows, lanes = (int(n) for n in sch.get(result).annotations[_HEADS])
    blocks = {sch.get(block).name_hint: block for block in blocks_of(sch)}
    batch, query, head, feature = sch.get_loops(result)
    tile, row = sch.split(query, [None, rows])
    block, lane = sch.split(feature, [None, lanes])
    deep = 2 if int(sch.get(block).extent) % 2 == 0 else 1
    block, pair = sch.split(block, [None, deep])
    sch.reorder(batch, head, tile, block, pair, row, lane)
    heads = sch.fuse(batch, head)
    sch.parallel(heads)
    vectorize(sch, lane)
    unroll(sch, pair, row)
    sch.set_scope(blocks["mixed"], 0, "local")
    sch.compute_at(blocks["mixed"], block, preserve_unit_loops=True)
    *_, k = sch.get_loops(blocks["mixed"])
    sch.split(k, [None, min(_UNROLLED, lanes)])
    accumulate(sch, blocks["mixed"], outer=3, spatial=6, unrolled=1)
    for name in ("inverse", "total", "sum_lanes", "powers", "highest", "highest_lanes", "scores"):
        sch.compute_at(blocks[name], tile, preserve_unit_loops=True)
    for name in ("sum_lanes", "highest_lanes"):
        *_, lane, o = sch.get_loops(blocks[name])
        sch.reorder(o, lane)
        vectorize(sch, lane)
        vectorize(sch, sch.get_loops(sch.decompose_reduction(blocks[name], o))[-1])
    *_, column = sch.get_loops(blocks["powers"])
    vectorize(sch, sch.split(column, [None, lanes])[1])
    _schedule_scores(sch, blocks, lanes)
    for name in ("turned_keys", "value_blocks"):
        if name in blocks:
            sch.compute_at(blocks[name], heads, preserve_unit_loops=True)
            vectorize(sch, sch.get_loops(blocks[name])[-1])
    return sch


def _schedule_scores(sch: s_tir.Schedule, blocks: dict, lanes: int) -> None:
    """Two vectors of keys at a time, in registers."""
    *_, row, column = sch.get_loops(blocks["scores"])
    block, lane = sch.split(column, [None, lanes])
    count = int(sch.get(block).extent)
    deep = 2 if count > 1 else 1
    block, pair = sch.split(block, [count // deep, deep])
    sch.reorder(block, pair, row, lane)
    vectorize(sch, lane)
    unroll(sch, pair, row)
    sch.set_scope(blocks["products"], 0, "local")
    sch.compute_at(blocks["products"], block, preserve_unit_loops=True)
    outer = len(sch.get_loops(blocks["scores"])) - 3
    *_, d = sch.get_loops(blocks["products"])
    sch.split(d, [None, min(_UNROLLED, lanes)])
    accumulate(sch, blocks["products"], outer=outer, spatial=6, unrolled=1)
