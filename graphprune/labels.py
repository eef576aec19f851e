"""Labels, the equations between them, and their solution.

A label is an integer on one position of one axis of one tensor; positions with equal labels live and die
together. Rules only append equations; connected components are found once, at the end. Label 0 stands for
"no label": a position tied to it is locked. Locks and inexactness are kept beside the equations instead of
being merged into them, so that every lock still knows where it came from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .graph import Node, Value
from .policy import DEFAULT, Policy

Labels = NDArray[np.int64]


class Reason(NamedTuple):
    """Why positions cannot be dropped, or not exactly: the node that says so, what it says, the way out."""

    node: Node | None
    text: str
    unlock: str

    def __str__(self) -> str:
        return f"{self.node}: {self.text}" if self.node else self.text


class Array(NamedTuple):
    """Labels over some axes of a value, major axis first.

    `zero` tells that a dropped position holds exactly 0 when the dropped parameters are set to zero: only then
    may it be summed away without changing the result.
    """

    axes: tuple[int, ...]
    labels: Labels
    zero: bool


Layout = tuple[Array, ...]
"""What is known of one value: arrays over disjoint sets of axes. An axis in none of them is fixed."""


class Block(NamedTuple):
    """An equal-count constraint: all rows of `labels` (2-D) keep the same number of members.

    With `fixed` no row may vanish (groups of a convolution); otherwise whole rows may (heads).
    """

    labels: Labels
    fixed: bool
    node: Node | None


class Product(NamedTuple):
    """A cost that shrinks with its arrays: coefficient x product of (living positions / share)."""

    coefficient: float
    arrays: tuple[Labels, ...]
    shares: tuple[int, ...]


@dataclass
class Equations:
    """What the rules have said so far. `node` is the one whose rule is running."""

    policy: Policy = DEFAULT
    count: int = 1
    node: Node | None = None
    pairs: list[tuple[Labels, Labels, Reason]] = field(default_factory=list)
    locks: list[tuple[Labels, Reason]] = field(default_factory=list)
    inexact: list[tuple[Labels, Reason]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    macs: list[tuple[Node | None, Product]] = field(default_factory=list)
    leaf_axes: dict[tuple[str, int], Labels] = field(default_factory=dict)
    filled: list[Labels] = field(default_factory=list)
    group_counts: dict[str, Labels] = field(default_factory=dict)
    lookups: dict[str, Labels] = field(default_factory=dict)
    floating: list[tuple[int, int]] = field(default_factory=list)
    repairs: dict[str, float] = field(default_factory=dict)
    multiples: list[tuple[Labels, int]] = field(default_factory=list)

    def fresh(self, size: int) -> Labels:
        """New labels that are equal to no others."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    def afloat(self, size: int) -> Labels:
        """New labels of positions that no stored tensor has: they follow what they meet."""
        labels = self.fresh(size)
        self.floating.append((self.count - size, self.count))
        return labels

    def floats(self, labels: Labels) -> bool:
        """Whether these are such labels, as far as is known: then to lock them costs nothing."""
        low, high = labels.min(), labels.max()
        return any(start <= low and high < stop for start, stop in self.floating)

    def fresh_leaves(self, leaves: Iterable[Value]) -> dict[Value, Layout]:
        """New labels on every axis (size > 1) of stored tensors; they are slices of one long array."""
        leaves, start = list(leaves), 0
        line = self.fresh(sum(size for leaf in leaves for size in leaf.shape if size > 1))
        layouts: dict[Value, Layout] = {}
        for leaf in leaves:
            layout = []
            for axis, size in enumerate(leaf.shape):
                if size > 1:
                    labels = self.leaf_axes[leaf.name, axis] = line[start : start + size]
                    layout.append(Array((axis,), labels, True))
                    start += size
            layouts[leaf] = tuple(layout)
        return layouts

    def tie(self, first: Labels, second: Labels, text: str = "is tied to positions that are fixed") -> None:
        """State that two arrays (broadcast against each other) live and die together, position by position."""
        if first.shape != second.shape:
            first, second = np.broadcast_arrays(first, second)
        self.pairs.append((first.ravel(), second.ravel(), Reason(self.node, text, "")))

    def lock(self, labels: Labels, text: str, unlock: str = "") -> None:
        """State that these positions cannot be dropped, and why."""
        if labels.size:
            self.locks.append((labels.ravel(), Reason(self.node, text, unlock)))

    def loosen(self, labels: Labels, text: str, unlock: str = "") -> None:
        """State that dropping these positions is not the same as setting their parameters to zero."""
        if labels.size:
            self.inexact.append((labels.ravel(), Reason(self.node, text, unlock)))

    def block(self, labels: Labels, fixed: bool) -> None:
        """State that the rows of a 2-D array keep equal counts."""
        self.blocks.append(Block(labels, fixed, self.node))

    def solve(self) -> "Solution":
        """Find the classes of equal labels and spread locks and inexactness over them."""
        left, right = self._links()
        links = coo_matrix(
            (np.ones(left.size, np.int8), (left.astype(np.int32), right.astype(np.int32))), (self.count,) * 2
        )
        total, classes = connected_components(links, directed=False)
        return Solution(
            classes=classes.astype(np.int64),
            count=int(total),
            locked=_first_reason(classes, int(total), [labels for labels, _ in self.locks]),
            inexact=_first_reason(classes, int(total), [labels for labels, _ in self.inexact]),
        )

    def _links(self) -> tuple[Labels, Labels]:
        """All pairs as two arrays; those with a position that carries no label become locks."""
        if not self.pairs:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        left = np.concatenate([pair[0] for pair in self.pairs])
        right = np.concatenate([pair[1] for pair in self.pairs])
        fixed = (left == 0) | (right == 0)
        if fixed.any():
            ends = np.cumsum([pair[0].size for pair in self.pairs])
            where = np.flatnonzero(fixed)
            pair_of = np.searchsorted(ends, where, side="right")
            starts = np.flatnonzero(np.diff(pair_of, prepend=-1))
            for index in np.split(where, starts[1:]):
                reason = self.pairs[int(np.searchsorted(ends, index[0], side="right"))][2]
                self.locks.append((np.concatenate([left[index], right[index]]), reason))
        return left[~fixed], right[~fixed]


@dataclass(frozen=True)
class Solution:
    """The class of every label; per class the index of its first lock and first inexactness, or -1."""

    classes: Labels
    count: int
    locked: Labels
    inexact: Labels


def _first_reason(classes: Labels, total: int, marked: Sequence[Labels]) -> Labels:
    first = np.full(total, -1, dtype=np.int64)
    if marked:
        labels = np.concatenate(marked)
        index = np.repeat(np.arange(len(marked)), [array.size for array in marked])
        first[classes[labels[::-1]]] = index[::-1]  # the earliest reason is written last
    first[classes[0]] = -1
    return first
