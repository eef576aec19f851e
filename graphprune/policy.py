"""Policies: which of two coupled alternatives is dropped where an axis is split into rows.

Attention splits its width into heads, a grouped convolution its channels into groups. One may drop whole rows, or as
many positions of every row. Each choice has a default and one other word.
"""

from collections.abc import Iterable

from .errors import OptionError

CHOICES = {
    "heads": "whole heads, and whole rows wherever positions of a row are summed over",
    "dims": "as many positions of every head: the head width",
    "positions": "as many channels of every group of a convolution or group norm",
    "groups": "whole groups of a convolution or group norm",
}
"""Word -> what it drops; "heads" or "dims", and "positions" or "groups"."""

Policy = tuple[str, str]

DEFAULT: Policy = ("heads", "positions")


def resolve_policy(words: "str | Iterable[str]") -> Policy:
    """The default with the given words in place of what they exclude. Raises `OptionError` for other words."""
    given = [words] if isinstance(words, str) else list(words)
    odd = [word for word in given if word not in CHOICES]
    both = {"heads", "dims"} <= set(given) or {"positions", "groups"} <= set(given)
    if odd or both:
        choices = "; ".join(f"'{word}': {meaning}" for word, meaning in CHOICES.items())
        raise OptionError(f"policy={words!r}: choose 'heads' or 'dims', and 'positions' or 'groups' ({choices})")
    return "dims" if "dims" in given else "heads", "groups" if "groups" in given else "positions"
