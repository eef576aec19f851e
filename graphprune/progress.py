"""How far long work has come: a bar on a terminal, or a callback of the user."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int | None], None]
"""`progress(stage, done, total)`; the total is None where it is not known."""


@contextmanager
def shown(progress: Callable[[str], None] | None, quiet: bool = False) -> Iterator[Progress]:
    """A `Progress` that tells the user: by a callback that takes a line, else by a bar where there is a terminal.

    With `quiet`, for work that is soon over, there is no bar.
    """
    if progress is not None:
        yield lambda stage, done, total: progress(f"{stage} {done + 1}" + (f" of {total}" if total else ""))
    elif quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
    else:
        with _bar() as report:
            yield report


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, int] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done + 1, total=total)  # type: ignore[arg-type]

        yield report
