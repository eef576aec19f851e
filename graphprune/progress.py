"""How far long work has come: lines on a terminal, or a callback of the user.

Work deep inside says `tell("measuring", 3, 20)`; who shows it is up to those far above, within `listening(...)`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str, int, int | None], None]
"""`progress(stage, done, total)`: so many are done, the next one begins; the total is None where it is not known."""

_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


def tell(stage: str, done: int = 0, total: int | None = None) -> None:
    """Say to those who listen that a stage begins, or how far it is."""
    if (listener := _listener.get()) is not None:
        listener(stage, done, total)


@contextmanager
def listening(progress: Progress) -> Iterator[Progress]:
    """Within this block, `progress` hears what is told.

    ```python
    from graphprune.progress import listening, tell

    with listening(lambda stage, done, total: print(stage, done, total)):
        tell("measuring", 3, 20)  # measuring 3 20
    ```
    """
    token = _listener.set(progress)
    try:
        yield progress
    finally:
        _listener.reset(token)


@contextmanager
def shown(progress: Callable[[str], None] | None = None, quiet: bool = False) -> Iterator[Progress]:
    """A `Progress` that tells the user: a callback that takes a line, who listens, or lines where there is a terminal.

    With `quiet`, for work that is soon over, nothing is shown unless somebody listens.
    """
    listener = _listener.get()
    if progress is not None:
        yield lambda stage, done, total: progress(f"{stage} {done + 1}" + (f" of {total}" if total else ""))
    elif listener is not None:
        yield listener
    elif quiet:
        yield lambda stage, done, total: None
    else:
        with lines() as report, listening(report):
            yield report


@contextmanager
def lines() -> Iterator[Progress]:
    """A line on the terminal for each stage, with a bar where its total is known; nothing where there is no terminal.

    When a stage begins, those before it are done. The lines go away at the end; what is printed meanwhile stays.
    """
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    # Drawn seldom: what is measured meanwhile shares the processor.
    with Bars(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as bars:
        tasks: dict[str, TaskID] = {}
        current = ""

        def report(stage: str, done: int, total: int | None) -> None:
            nonlocal current
            if stage != current:
                if current:
                    bars.update(tasks[current], total=1, completed=1)
                if stage in tasks:
                    bars.reset(tasks[stage])
                else:
                    tasks[stage] = bars.add_task(stage, total=None, count="")
                current = stage
            bars.update(tasks[stage], completed=done, count=_count(done, total))
            bars.tasks[tasks[stage]].total = total  # update() takes no None

        yield report


def _count(done: int, total: int | None) -> str:
    return f"{done + 1}/{total}" if total else str(done + 1) if done else ""
