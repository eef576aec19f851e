"""Operands that meet: element-wise operations and contractions tie labels along equal letters."""

from collections.abc import Hashable, Sequence
from math import prod

from .graph import Shape
from .labels import Array, Equations, Layout, Product
from .layout import collapse, fold, partly

Letters = Sequence[Hashable]
Operand = tuple[Shape, Layout, Letters]

NO_CHANNELS = "is tied to an axis that carries no channels (a program input, a constant or a size that is fixed)"


def join(eq: Equations, operands: Sequence[Operand], zero: str) -> list[tuple[tuple[Hashable, ...], Array]]:
    """Tie the operands of an element-wise operation or a contraction along equal letters.

    `zero` tells when a dropped position of the result is zero: "any" operand (a product) or "all" (a sum).
    Returns arrays with letters instead of axes. A letter that is fixed in one operand is locked in all.
    """
    named = [
        [(tuple(letters[axis] for axis in array.axes), array) for array in layout] for _, layout, letters in operands
    ]
    covered = [{letter for letters, _ in arrays for letter in letters} for arrays in named]
    fixed = {
        letter
        for (shape, _, letters), cover in zip(operands, covered, strict=True)
        for letter, size in zip(letters, shape, strict=True)
        if size > 1 and letter not in cover
    }
    result: list[tuple[tuple[Hashable, ...], Array]] = []
    lost: set[Hashable] = set()
    for number, arrays in enumerate(named):
        for letters, array in arrays:
            letters, array = _hold(eq, letters, array, fixed)
            if zero == "all" and any(not set(letters) <= cover for i, cover in enumerate(covered) if i != number):
                array = array._replace(zero=False)
            _merge(eq, result, letters, array, zero, lost)
    for letters, array in result:
        if lost & set(letters):
            eq.lock(array.labels, "runs along an axis whose positions live and die together")
    return [(letters, array) for letters, array in result if not lost & set(letters)]


def _hold(
    eq: Equations, letters: tuple[Hashable, ...], array: Array, fixed: set[Hashable]
) -> tuple[tuple[Hashable, ...], Array]:
    """Lock an array whose rows are fixed (policy "dims": drop within them); tie it along other fixed letters."""
    held = [letter in fixed for letter in letters]
    rows = held.index(False) if False in held else len(held)
    if "dims" in eq.policy and 0 < rows and not any(held[rows:]) and rows < len(held):
        eq.block(array.labels.reshape(prod(array.labels.shape[:rows]), -1), fixed=True)
    elif held[0]:
        eq.lock(array.labels, NO_CHANNELS)
    elif any(held):
        return _tied_along(eq, letters, array, fixed)
    return letters, array


def _tied_along(
    eq: Equations, letters: tuple[Hashable, ...], array: Array, gone: set[Hashable]
) -> tuple[tuple[Hashable, ...], Array]:
    """An array without some of its letters, tied along them; its axes are positions among the letters."""
    named = array._replace(axes=tuple(range(len(letters))))
    for position in [position for position, letter in enumerate(letters) if letter in gone]:
        named = collapse(eq, named, position)
    return tuple(letters[position] for position in named.axes), named


def _merge(
    eq: Equations,
    result: list[tuple[tuple[Hashable, ...], Array]],
    letters: tuple[Hashable, ...],
    array: Array,
    zero: str,
    lost: set[Hashable],
) -> None:
    """Add one array to those joined so far, tying it to every one that shares a letter with it.

    `lost` collects letters along which labels no longer vary.
    """
    position = 0
    while position < len(result):
        others, other = result[position]
        if not set(letters) & set(others):
            position += 1
            continue
        result.pop(position)
        either = array.zero or other.zero if zero == "any" else array.zero and other.zero
        if letters != others:
            met = set(letters) | set(others)
            letters, array = _meet(eq, letters, array, others, other)
            lost |= met - set(letters)
        else:
            eq.tie(array.labels, other.labels)
        array = array._replace(zero=either)
    result.append((letters, array))


def _meet(
    eq: Equations, letters: tuple[Hashable, ...], array: Array, others: tuple[Hashable, ...], other: Array
) -> tuple[tuple[Hashable, ...], Array]:
    """Tie two arrays over different letters: whole rows of the larger one live and die with their major letter."""
    if len(letters) < len(others):
        letters, array, others, other = others, other, letters, array
    if "dims" in eq.policy and set(others) < set(letters):
        return _within(eq, letters, array, others, other)
    if others[0] != letters[0]:
        eq.lock(other.labels, "is shared by all rows of a split axis")
        if not set(others) < set(letters):
            eq.lock(array.labels, "meets channels in another order")
            return letters, array
    rows = _rows(eq, array)
    if others[0] == letters[0]:
        eq.tie(rows.labels, _rows(eq, other).labels)
    return letters[:1], rows


def _rows(eq: Equations, array: Array) -> Array:
    """The same array where whole rows live and die."""
    for axis in reversed(array.axes[1:]):
        array = collapse(eq, array, axis)
    return array


def _within(
    eq: Equations, letters: tuple[Hashable, ...], array: Array, others: tuple[Hashable, ...], other: Array
) -> tuple[tuple[Hashable, ...], Array]:
    """The same where rows stay: what belongs to rows is locked, what belongs to positions is alike in all rows."""
    rows = len(others)
    if letters[:rows] == others:
        eq.lock(other.labels, "belongs to whole rows, which the policy 'dims' keeps", "policy='heads'")
        eq.block(array.labels.reshape(prod(array.labels.shape[:rows]), -1), fixed=True)
        return letters, array
    left, named = _tied_along(eq, letters, array, set(letters) - set(others))
    if left == others:
        eq.tie(named.labels, other.labels)
    else:
        eq.lock(other.labels, "meets channels in another order")
        eq.lock(named.labels, "meets channels in another order")
    return left, named


def contract(eq: Equations, operands: Sequence[Operand], out: Letters, count: bool = True) -> Layout:
    """A product of operands, summed over every letter that `out` lacks: matmul, linear, einsum, attention.

    Summing over dropped positions is exact where one factor is zero there. The multiplications are recorded as
    a cost that shrinks with the labelled letters.
    """
    joined = join(eq, operands, "any")
    if count:
        sizes: dict[Hashable, int] = {}
        for shape, _, letters in operands:
            for letter, size in zip(letters, shape, strict=True):
                sizes[letter] = max(size, sizes.get(letter, 1))
        for letters, _ in joined:
            for letter in letters:
                sizes.pop(letter, None)
        arrays = tuple(array.labels for _, array in joined)
        eq.macs.append((eq.node, Product(float(prod(sizes.values())), arrays, (1,) * len(arrays))))
    place = {letter: axis for axis, letter in enumerate(out)}
    result = []
    for letters, array in joined:
        gone = [position for position, letter in enumerate(letters) if letter not in place]
        if partly(eq, array._replace(axes=tuple(range(len(letters)))), gone) and not array.zero:
            eq.loosen(array.labels, "sums over positions that are not zero when dropped")
        if len(gone) == len(letters):
            continue
        named: Array | None = array._replace(axes=tuple(range(len(letters))))
        for position in reversed(gone):
            named = fold(eq, named, position) if named else None
        if named:
            result.append(named._replace(axes=tuple(place[letters[position]] for position in named.axes)))
    return tuple(result)
