"""Write docs/public-api.md: the names that stay, with their signatures.

python benchmarks/public_api.py
"""

import inspect
import re
from pathlib import Path
from typing import Any

import graphprune

PAGE = Path(__file__).resolve().parents[1] / "docs" / "public-api.md"

HEAD = """# The public API

What `graphprune.__all__` names stays as it is within a minor version: names, parameters, defaults. All else may change.
This page is written by `python benchmarks/public_api.py`, and a test compares it with the code.
"""


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for name in sorted(set(graphprune.__all__) - {"__version__"}, key=lambda name: (name.lower(), name)):
        found = getattr(graphprune, name)
        about = (inspect.getdoc(found) or "").splitlines()[0]
        listed = "\n".join(signatures(name, found))
        parts.append(f"## {name}\n\n{about}\n\n```text\n{listed}\n```\n")
    return "\n".join(parts)


def signatures(name: str, found: Any) -> list[str]:
    """The signature of a function; of a class that of its constructor and of every public method."""
    if not inspect.isclass(found):
        return [f"graphprune.{name}{_written(found)}"]
    if issubclass(found, Exception):
        return [f"graphprune.{name}({', '.join(kind.__name__ for kind in found.__bases__)})"]
    lines = [f"graphprune.{name}{_written(found)}"]
    for method, value in sorted(vars(found).items()):
        inner = getattr(value, "__func__", value)  # class methods
        if not method.startswith("_") and inspect.isfunction(inner):
            lines.append(f"graphprune.{name}.{method}{_written(inner)}")
    return lines


def _written(found: Any) -> str:
    """Parameters and defaults; annotations are left out, since their spelling differs between versions of Python."""
    bare = inspect.signature(found)
    parameters = [one.replace(annotation=inspect.Parameter.empty) for one in bare.parameters.values()]
    written = str(bare.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return re.sub(r"<(function|class|object)[^>]*>", "...", re.sub(r" at 0x[0-9a-f]+", "", written))


if __name__ == "__main__":
    PAGE.write_text(page())
