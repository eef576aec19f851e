"""What this machine can do with every target: build for it, run it, emulate it; and what is missing where it cannot.

```python
for row in survey():
    print(row.name, row.runs, row.builds)
```
"""

import shutil
from dataclasses import dataclass

from ..errors import CompileError
from .linker import link_command
from .systems import system_of
from .targets import TARGETS, Target


@dataclass(frozen=True)
class Row:
    """One target. `missing_to_run` and `missing_to_build` say what this machine lacks; empty where it lacks nothing.

    `emulator` is the program of this machine that runs code for the target, if there is one and it is needed.
    """

    name: str
    purpose: str
    vectors: str
    alignment: int
    missing_to_run: str
    missing_to_build: str
    emulator: str

    @property
    def runs(self) -> bool:
        """Whether artifacts for this target run here."""
        return not self.missing_to_run

    @property
    def builds(self) -> bool:
        """Whether artifacts for this target can be made here."""
        return not self.missing_to_build


def survey() -> list[Row]:
    """All targets, in the order of their table."""
    return [_row(target) for target in TARGETS.values()]


def _row(target: Target) -> Row:
    system = system_of(target.triple)
    try:
        link_command(target.triple)
        lacking = ""
    except CompileError as error:
        lacking = str(error)
    emulator = "" if system.is_here or not system.emulator else shutil.which(system.emulator) or ""
    missing = ", ".join(target.missing_features())
    vectors = f"{target.vector_width} lanes, {32 * target.vector_width} bits"
    return Row(target.name, target.purpose, vectors, target.channel_alignment, missing, lacking, emulator)
