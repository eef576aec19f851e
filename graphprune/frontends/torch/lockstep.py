"""Runs that wait for each other: each in a thread of its own, one at a time, stopping where they show something."""

import threading
from collections.abc import Callable
from typing import Any

import torch

Show = Callable[[Any], None]


class _Closed(BaseException):
    """Ends a run that nobody waits for any more."""


class Walk:
    """One run, which stops whenever it calls `show(item)`.

    `advance()` lets it go on and gives the next item; None once it has ended. `close()` must be called in the end.

    ```python
    walk = Walk(lambda show: [show(number) for number in range(2)])
    assert [walk.advance() for _ in range(3)] == [0, 1, None]
    walk.close()
    ```
    """

    def __init__(self, run: Callable[[Show], Any]) -> None:
        self._run, self._item = run, None
        self._go, self._shown = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def _walk(self) -> None:
        try:
            self._wait()
            with torch.no_grad():
                self._run(self._show)
        except _Closed:
            pass
        except BaseException as error:  # it is raised again where the walk is led
            self._error = error
        self._item = None
        self._shown.release()

    def _show(self, item: Any) -> None:
        self._item = item
        self._shown.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._closed:
            raise _Closed

    def advance(self) -> Any:
        """Let the run go on to its next stop. Raises what the run raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._walk, daemon=True)
            self._thread.start()
        if not self._thread.is_alive():
            return None
        self._go.release()
        self._shown.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._item

    def close(self) -> None:
        """End the run where it stands; no thread is left."""
        self._closed = True
        self._go.release()
        if self._thread is not None:
            self._thread.join()
