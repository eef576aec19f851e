"""Ctrl-C and SIGTERM: whatever is half-written is cleaned up, and the exit code says what happened."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """Within this block, both signals raise `KeyboardInterrupt`; yields the list of those that came.

    What came is kept, since code between here and the main program may turn a `KeyboardInterrupt` into other errors.
    """
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
