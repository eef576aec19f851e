"""What is in an artifact, without running it: also on a machine that could not.

```python
print(contents("model.gp"))
contents("model.gp").figures()      # the same as a dictionary
```
"""

import os
from dataclasses import dataclass
from io import StringIO
from typing import Any

from .manifest import packed, unpacked
from .specs import spec_of
from .targets import missing_here


@dataclass(frozen=True)
class Described:
    """An artifact that was read and checked. `members`: sizes by name; `missing`: what this machine lacks to run it."""

    path: str
    manifest: dict[str, Any]
    members: dict[str, int]
    missing: tuple[str, ...]

    def figures(self) -> dict[str, Any]:
        """Everything as a dictionary that fits into JSON."""
        return {
            "path": self.path,
            "runs_here": not self.missing,
            "missing": list(self.missing),
            "sizes": self.members,
            **{key: self.manifest[key] for key in _SHOWN if key in self.manifest},
        }

    def rows(self) -> list[tuple[str, str]]:
        """What people want to know, by name."""
        from .. import report

        manifest, target = self.manifest, self.manifest["target"]
        needs = ", ".join(target["features"]) or "nothing beyond its architecture"
        rows = [("target", f"{target['name']} ({target['architecture']}); needs {needs}")]
        here = "yes" if not self.missing else f"no: this machine lacks {', '.join(self.missing)}"
        rows.append(("runs here", here))
        rows += [(f"input {spec.name}", str(spec)) for spec in map(spec_of, manifest["inputs"])]
        rows += [(f"output {spec.name}", str(spec)) for spec in map(spec_of, manifest["outputs"])]
        if manifest.get("batch_sizes"):
            rows.append(("batch sizes", ", ".join(map(str, manifest["batch_sizes"]))))
        rows += [(name, report.size(size)) for name, size in self.members.items()]
        rows.append(("kernels", f"{len(manifest['kernels'])} distinct ones"))
        rows += [(f"{cost} pruned", _pruned(pair)) for cost, pair in manifest["source"].get("report", {}).items()]
        if "latency" in manifest:
            rows.append(("latency", _latency(manifest["latency"])))
        rows.append(("made by", ", ".join(f"{tool} {version}" for tool, version in manifest["tools"].items())))
        rows.append(("fingerprint", manifest["fingerprint"]))
        return rows

    def __str__(self) -> str:
        from rich.console import Console

        from .. import report

        console = Console(file=StringIO(), width=120)
        drawn = report.table(self.path, ["", ""], self.rows(), "format, members, sizes and checksums are right")
        drawn.columns[1].justify, drawn.columns[1].no_wrap, drawn.show_header = "left", False, False
        console.print(drawn)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return text.rstrip()


_SHOWN = (
    "format_version", "target", "inputs", "outputs", "batch_sizes", "fingerprint", "source", "tools", "members",
    "tuning", "latency", "kernels", "code",
)  # fmt: skip


def contents(path: "str | os.PathLike[str]") -> Described:
    """Read and check an artifact. Raises `FileNotFoundError` or `FileFormatError`."""
    found = unpacked(path)
    target = found.manifest["target"]
    missing = missing_here(
        target["architecture"], tuple(target["features"]), target.get("triple", ""), target.get("device", "")
    )
    sizes = {name: len(data) for name, data in packed(found.manifest, {}).items()}
    listed = {name: entry["bytes"] for name, entry in found.manifest["members"].items()}
    return Described(os.fspath(path), found.manifest, {**sizes, **listed}, tuple(missing))


def _pruned(pair: Any) -> str:
    """Costs before and after."""
    from .. import report

    if not isinstance(pair, list) or len(pair) != 2:
        return str(pair)
    return f"{report.count(pair[0])} -> {report.count(pair[1])} ({report.change(*pair)} left)"


def _latency(found: dict[str, Any]) -> str:
    return (
        f"{found['milliseconds']:.3f} ms (median of {found['repeats']}; fastest {found['fastest']:.3f} ms) on "
        f"{found['threads']} thread(s) of {found['processor']}"
    )
