"""What measurements of candidates have shown on this machine: a file of JSON lines that only ever grows.

There is one file per target and processor, `graphprune/tuning/*.jsonl` in the user's cache folder. Each line is one
measurement, so that whoever is interrupted loses only the one that is running. Lines that cannot be read, and those of
other versions of the templates or numbers of threads, are passed over.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .choices import name_of, templates, workload
from .host import processor
from .peak import cache_folder
from .targets import Target

# A candidate must be this much faster than the most promising one: measurements are not exact.
_GAIN = 0.97


class Measured(NamedTuple):
    """Seconds of a candidate and, measured in turn with it, of the most promising one; None where it does not work."""

    seconds: float | None
    first: float | None

    @property
    def ratio(self) -> float:
        """Time of the candidate in times of the most promising one."""
        return self.seconds / self.first if self.seconds and self.first else float("inf")


class Record:
    """The measurements of one target and number of threads; `choose` takes the fastest candidate that is known."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        self._context = {"templates": templates(), "threads": threads}
        self._known = _read(path, self._context)

    def measured(self, work: str, candidate: Any) -> Measured | None:
        """What is known of a candidate for a workload."""
        return self._known.get((work, name_of(candidate)))

    def add(self, work: str, candidate: Any, measured: Measured) -> None:
        """Note a measurement, in the file, too."""
        name = name_of(candidate)
        line = {**self._context, "workload": work, "candidate": name, **measured._asdict()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            # Whoever was stopped in the middle of a line must not spoil the next one.
            text = ("" if _ends_well(file) else "\n") + json.dumps(line) + "\n"
            file.write(text.encode())
        self._known[work, name] = measured

    def choose(self, candidates: Sequence[Any]) -> Any:
        """The fastest candidate, or the most promising one where none is known to be clearly faster."""
        work, best, least = workload(candidates), candidates[0], _GAIN
        for candidate in candidates[1:]:
            measured = self.measured(work, candidate)
            if measured is not None and measured.ratio < least:
                best, least = candidate, measured.ratio
        return best


def record_of(target: Target, threads: int) -> Record:
    """What is known on this machine."""
    words = re.findall(r"[a-z0-9.]+", processor().lower())
    return Record(cache_folder() / "tuning" / f"{target.name}-{'-'.join(words) or 'unknown'}.jsonl", threads)


def _ends_well(file: Any) -> bool:
    size = file.seek(0, 2)
    if not size:
        return True
    file.seek(size - 1)
    return bool(file.read(1) == b"\n")


def _read(path: Path, context: dict[str, Any]) -> dict[tuple[str, str], Measured]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return {}
    entries = [_entry(line, context) for line in lines]
    return dict(entry for entry in entries if entry is not None)


def _entry(line: bytes, context: dict[str, Any]) -> tuple[tuple[str, str], Measured] | None:
    """One line, or None where it is damaged or was written under other circumstances."""
    try:
        found = json.loads(line)
        if any(found[name] != value for name, value in context.items()):
            return None
        times = [found["seconds"], found["first"]]
        if not all(time is None or (isinstance(time, float) and time > 0) for time in times):
            return None
        return (str(found["workload"]), str(found["candidate"])), Measured(*times)
    except (ValueError, KeyError, TypeError):
        return None
