"""The layout algebra on small arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.graph import Node, Value
from graphprune.joining import join
from graphprune.labels import Array, Equations
from graphprune.layout import reshape, segments, take
from graphprune.units import balance


def one(eq, size, axis=1):
    return (Array((axis,), eq.fresh(size), True),)


def classes(eq):
    return eq.solve().classes


def test_ties_are_transitive_and_locks_spread():
    eq = Equations()
    a, b, c = eq.fresh(3), eq.fresh(3), eq.fresh(3)
    eq.tie(a, b)
    eq.tie(b[::-1], c)
    eq.lock(c[:1], "because")
    solution = eq.solve()
    assert solution.classes[a[2]] == solution.classes[b[2]] == solution.classes[c[0]]
    locked = solution.locked[solution.classes]
    assert locked[a[2]] == 0 and locked[a[1]] == -1 and locked[b[0]] == -1
    assert str(eq.locks[0][1]) == "because"


def test_a_position_without_a_label_locks_what_it_is_tied_to():
    eq = Equations()
    a, b = eq.fresh(3), eq.fresh(2)
    eq.tie(a, np.array([b[0], 0, 0]))
    solution = eq.solve()
    assert (solution.locked[solution.classes[a]] >= 0).tolist() == [False, True, True]
    assert solution.classes[a[1]] != solution.classes[a[2]], "a lock is no tie"


def test_locks_do_not_join_groups():
    eq = Equations()
    a = eq.fresh(4)
    eq.lock(a, "output")
    assert len(set(classes(eq)[a].tolist())) == 4


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2, 12, 4), (2, 3, 4, 4), [([0], [0]), ([1], [1, 2]), ([2], [3])]),
        ((2, 3, 4, 4), (2, 48), [([0], [0]), ([1, 2, 3], [1])]),
        ((1, 6, 1, 1), (6,), [([1], [0])]),
        ((4, 6), (6, 4), [([0, 1], [0, 1])]),
        ((1, 1), (1,), []),
    ],
)
def test_segments(before, after, expected):
    assert segments(before, after) == expected


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4), st.data())
def test_reshape_of_all_axes_is_numpys_reshape(shape, data):
    """Labels that are one array over everything follow numpy exactly, up to axes that do not matter."""
    size = int(np.prod(shape))
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    first = data.draw(st.sampled_from(divisors))
    eq = Equations()
    axis = data.draw(st.integers(0, len(shape) - 1))
    if shape[axis] == 1:
        return
    labels = eq.fresh(shape[axis])
    (result,) = reshape(eq, (Array((axis,), labels, True),), tuple(shape), (first, size // first)) or (None,)
    whole = np.broadcast_to(labels.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
    expected = whole.reshape(first, size // first)
    solved = classes(eq)
    spread = np.ones((first, size // first), dtype=np.int64)
    if result is not None:
        view = [(first, size // first)[i] if i in result.axes else 1 for i in range(2)]
        spread = spread * result.labels.reshape(view)
        assert (solved[spread] == solved[expected]).all()


def test_splitting_channels_makes_a_block_and_merging_them_back_is_free():
    eq = Equations()
    x = one(eq, 12)
    split = reshape(eq, x, (2, 12), (2, 3, 4))
    assert split[0].axes == (1, 2) and len(eq.blocks) == 1
    assert (reshape(eq, split, (2, 3, 4), (2, 12))[0].labels == x[0].labels).all() and not eq.pairs


def test_merging_in_another_order_ties_the_shorter_axis():
    eq = Equations()
    split = reshape(eq, one(eq, 12), (2, 12), (2, 3, 4))
    turned = (split[0]._replace(axes=(2, 1)),)
    merged = reshape(eq, turned, (2, 4, 3), (2, 12))
    solved = classes(eq)[merged[0].labels]
    assert len(set(solved.tolist())) == 4 and (solved.reshape(4, 3) == solved.reshape(4, 3)[:, :1]).all()


def test_batch_and_heads_merged():
    eq = Equations()
    x = (Array((1,), eq.fresh(4), True),)
    merged = reshape(eq, x, (2, 4, 5), (8, 5))
    assert (merged[0].labels == np.tile(x[0].labels, 2)).all()
    assert (reshape(eq, merged, (8, 5), (2, 4, 5))[0].labels == x[0].labels).all() and not eq.pairs


def test_join_locks_against_a_fixed_axis_and_ignores_broadcasting():
    eq = Equations()
    x = one(eq, 4)
    join(eq, [((2, 4), x, "bc"), ((1, 1), (), "bc")], "any")
    assert not eq.locks
    join(eq, [((2, 4), x, "bc"), ((2, 4), (), "bc")], "any")
    assert eq.locks


def test_zero_is_kept_by_products_and_lost_by_sums_with_anything_else():
    eq = Equations()
    x, y = one(eq, 4), one(eq, 4)
    dirty = (y[0]._replace(zero=False),)
    shape = (2, 4)
    assert join(eq, [(shape, x, "bc"), (shape, dirty, "bc")], "any")[0][1].zero
    assert not join(eq, [(shape, x, "bc"), (shape, dirty, "bc")], "all")[0][1].zero
    assert not join(eq, [(shape, x, "bc"), ((1, 1), (), "bc")], "all")[0][1].zero
    assert join(eq, [(shape, x, "bc"), (shape, y, "bc")], "all")[0][1].zero


def test_take_repeats_and_reverses():
    eq = Equations()
    x = one(eq, 4)
    assert take(eq, x, 1, np.array([3, 1]))[0].labels.tolist() == x[0].labels[[3, 1]].tolist()


def test_balance_pairs_low_scores_with_low_scores():
    eq = Equations()
    labels = eq.fresh(6)
    eq.block(labels.reshape(2, 3), fixed=True)
    solved = eq.solve()
    scores = np.zeros(solved.count)
    scores[solved.classes[labels]] = [3, 1, 2, 5, 9, 7]
    units = balance(solved.classes, eq.blocks, scores, np.ones(solved.count, dtype=bool))[solved.classes[labels]]
    members = [sorted(np.flatnonzero(units == unit).tolist()) for unit in units[:3]]
    assert members == [[0, 4], [1, 3], [2, 5]]


def test_balance_gives_up_safely():
    """Rows that cannot be paired are tied as a whole."""
    eq = Equations()
    labels = eq.fresh(4)
    eq.tie(labels[:1], labels[1:2])
    eq.block(labels.reshape(2, 2), fixed=True)
    solved = eq.solve()
    ones = np.ones(solved.count)
    units = balance(solved.classes, eq.blocks, ones, ones.astype(bool))[solved.classes[labels]]
    assert len(set(units.tolist())) == 1


def test_nodes_and_graphs_print():
    x = Value("x", (1, 2), "float32", "input")
    y = Value("y", (1, 2), "float32")
    assert repr(Node("y", "relu", (x, None), (y,), {"k": 1})) == "%y: float32[1, 2] = relu(%x, none){k=1}  # top"
