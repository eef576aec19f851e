"""The operators that are understood: `python docs/generate/operator_page.py` writes docs/operators.md."""

import inspect
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from graphprune.frontends.onnx import names as onnx_names
from graphprune.frontends.torch import names as torch_names
from graphprune.ops import OPS

PAGE = Path(__file__).parents[1] / "operators.md"

TEXT = """
# Operators

Models of every framework are translated into one vocabulary; a rule per operation says how channels pass through it.
What is not in these tables locks the channels that it reads, with a reason that `analysis.explain()` prints: it is
never guessed. Functions of torch that are written in Python are entered, so whatever is made of these calls is
understood, too. How whole models fare is on the page [Coverage](coverage.md); how to add an operator on
[Extending](extending.md#an-operator); how fast each one is when compiled on
[One operator at a time](benchmarks/operators.md).

This page is made from the tables of the source by `python docs/generate/operator_page.py`.
"""


def text() -> str:
    """The page."""
    rules = defaultdict(list)
    for operation, rule in OPS.items():
        rules[rule].append(operation)
    rows = [
        f"| {summary(rule)} | {' '.join(f'`{operation}`' for operation in operations)} |"
        for rule, operations in rules.items()
    ]
    domains = defaultdict(list)
    for domain, name in onnx_names.TRANSLATIONS:
        domains[domain or "ai.onnx"].append(name)
    parts = [
        TEXT.strip(),
        "## Rules",
        "\n".join(["| what it is, and what becomes of channels | operations |", "| --- | --- |", *rows]),
        "## Calls of torch",
        f"{len(torch_names.TRANSLATIONS)} functions, methods and ATen operators, by their names:",
        listed(torch_names.TRANSLATIONS),
        "## Operators of ONNX",
        *(f"Of the domain `{domain}`, {len(names)}:\n\n{listed(names)}" for domain, names in sorted(domains.items())),
    ]
    return "\n\n".join(parts) + "\n"


def summary(rule: object) -> str:
    """The first line of a rule's docstring, for a cell of a table."""
    line = (inspect.getdoc(rule) or "").splitlines()[0].partition(" attrs:")[0]
    return line.replace("|", "\\|").replace("<", "&lt;")


def listed(names: Iterable[str]) -> str:
    """Names in alphabetical order."""
    return " ".join(f"`{name}`" for name in sorted(names, key=str.lower))


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
