"""What the machine code of an artifact consists of, kernel by kernel: what is known without running it.

An emulator's time means nothing; that the loop of a kernel is multiply-adds, and spills no registers, does.

```python
artifact = compile_model(model, "arm-cortex-a72", x, examine=True)
print(artifact.static_cost())     # a table
artifact.static_cost().kernels[0].loop.share
```
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from .. import report
from ..errors import OptionError
from .assembly import Loop
from .prediction import Facts

_COLUMNS = ("kernel", "MACs", "in a round", "vector", "multiply-add", "loads", "stores", "stack", "schedule")


@dataclass(frozen=True)
class KernelCode:
    """One kernel: what it computes, and the innermost loop that does most of the work; None where there is no loop."""

    name: str
    description: str
    schedule: str
    macs: int
    loop: Loop | None


@dataclass(frozen=True)
class StaticCost:
    """The kernels of an artifact, those with the most multiply-adds first. `print(cost)` shows a table."""

    kernels: tuple[KernelCode, ...]
    target: str

    def to_json(self) -> dict[str, Any]:
        """All figures by name."""
        return asdict(self)

    def table(self) -> Table:
        """One row per kernel, counting one round of its loop."""
        caption = (
            "instructions of one round of the innermost loop that does most of the work; stack: spills, or buffers"
        )
        return report.table(self.target, _COLUMNS, [_row(kernel) for kernel in self.kernels], caption)

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=150)
        console.print(self.table())
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return text.rstrip()


def _row(kernel: KernelCode) -> list[str]:
    loop = kernel.loop
    macs = report.count(kernel.macs) if kernel.macs else "-"
    if loop is None:
        return [kernel.description, macs, *["-"] * 6, kernel.schedule]
    counts = (loop.loads, loop.stores, loop.stack)
    vectors = report.percent(loop.vectors / loop.instructions)
    shares = [str(loop.instructions), vectors, report.percent(loop.share)]
    return [kernel.description, macs, *shares, *map(str, counts), kernel.schedule]


def static_cost(manifest: Mapping[str, Any]) -> StaticCost:
    """What a manifest says of the code of its kernels; raises `OptionError` where it says nothing."""
    if "code" not in manifest:
        raise OptionError(
            "this artifact does not say what its code consists of: compile it with examine=True, or "
            "graphprune compile --examine"
        )
    code = manifest["code"]
    kernels = []
    for name, entry in manifest.get("kernels", {}).items():
        facts = Facts(**entry)
        loop = Loop(**code[name]) if name in code else None
        kernels.append(KernelCode(name, facts.description, facts.schedule, facts.macs, loop))
    kernels.sort(key=lambda kernel: (-kernel.macs, kernel.name))
    return StaticCost(tuple(kernels), manifest["target"]["name"])
