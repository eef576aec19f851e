"""What this machine can do with every target: build for it, run it, emulate it; and what is missing where it cannot.

```python
for row in survey():
    print(row.name, row.runs, row.builds)
```
"""

import shutil
from dataclasses import dataclass

from ..errors import CompileError, TargetError
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
    emulator = "" if system.is_here or not system.emulator else shutil.which(system.emulator) or ""
    lacking = target.missing_features()
    vectors = target.device or f"{target.vector_width} lanes, {32 * target.vector_width} bits"
    alignment, building = target.channel_alignment, _missing_to_build(target)
    return Row(target.name, target.purpose, vectors, alignment, ", ".join(lacking), building, emulator)


def _missing_to_build(target: Target) -> str:
    try:
        link_command(target.triple)
        if target.device:
            from .cuda_compiler import find_compiler

            find_compiler()
    except (CompileError, TargetError) as error:
        return str(error)
    return ""
