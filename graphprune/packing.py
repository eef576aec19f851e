"""Text that travels in the metadata of a model: compressed, in letters that every format can hold."""

import base64
import zlib

LARGEST = 1 << 28
"""Bytes of unpacked text at most: a few packed ones may unpack to any number."""


def packed(text: str) -> str:
    """The text in fewer letters."""
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: str, largest: int = LARGEST) -> str:
    """The text that was packed. Raises `ValueError` where it was damaged since then."""
    try:
        return zlib.decompressobj().decompress(base64.b85decode(text), largest).decode()
    except zlib.error as error:
        raise ValueError(str(error)) from error
