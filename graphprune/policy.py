"""Policies: which of two coupled alternatives is dropped where an axis is split into rows.

Attention splits its width into heads, a grouped convolution its channels into groups. One may drop whole rows, or as
many positions of every row. Each choice has a default and one other word.
"""

from collections.abc import Iterable

from .errors import OptionError

NARROW = 16
"""Groups of a convolution with up to so many channels are narrow: they do not fill, or just fill, a vector."""

_ROWS = {
    "heads": "whole heads, and whole rows wherever positions of a row are summed over",
    "dims": "as many positions of every head: the head width",
}
_GROUPS = {
    "positions": "as many channels of every group of a convolution or group norm",
    "groups": "whole groups of a convolution or group norm",
    "narrow": f"whole groups of convolutions whose groups have up to {NARROW} channels, otherwise as 'positions'",
}
CHOICES = _ROWS | _GROUPS
"""Word -> what it drops; one of rows, "heads" or "dims", and one of groups, "positions", "groups" or "narrow"."""

Policy = tuple[str, str]

DEFAULT: Policy = ("heads", "positions")

COMPILED: Policy = ("heads", "narrow")
"""The default where a target is given: its vectors compute a narrow group as a whole, however few channels it has."""


def resolve_policy(words: "str | Iterable[str]", default: Policy = DEFAULT) -> Policy:
    """The default with the given words in place of what they exclude. Raises `OptionError` for other words."""
    given = [words] if isinstance(words, str) else list(words)
    rows, groups = ([word for word in given if word in table] for table in (_ROWS, _GROUPS))
    if set(given) - set(CHOICES) or len(set(rows)) > 1 or len(set(groups)) > 1:
        choices = "; ".join(f"'{word}': {meaning}" for word, meaning in CHOICES.items())
        one = "'heads' or 'dims', and one of 'positions', 'groups' and 'narrow'"
        raise OptionError(f"policy={words!r}: choose {one} ({choices})")
    return (rows or default)[0], groups[0] if groups else default[1]
