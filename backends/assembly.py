"""Reads assembly as LLVM writes it, and counts what the innermost loops of every kernel consist of.

```python
loops_of(text, "aarch64")["fused_conv2d_relu"].products      # vector multiply-adds in the loop that does the work
```
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Loop:
    """One innermost loop, in instructions of one round.

    `vectors` use vector registers, `products` multiply and add vectors, `loads` and `stores` touch memory, and `stack`
    counts those of them that touch the stack: registers that were spilled, or small buffers that live there.
    """

    instructions: int
    vectors: int
    products: int
    loads: int
    stores: int
    stack: int

    @property
    def share(self) -> float:
        """The share of the instructions that are multiply-adds of vectors."""
        return self.products / self.instructions if self.instructions else 0.0


@dataclass(frozen=True)
class Syntax:
    """How to read an architecture's instructions: what each kind of them begins with; `jump` finds the label, too."""

    vector: re.Pattern[str]
    product: re.Pattern[str]
    load: re.Pattern[str]
    store: re.Pattern[str]
    stack: re.Pattern[str]
    jump: re.Pattern[str]


SYNTAXES = {
    "aarch64": Syntax(
        vector=re.compile(r".*\b[vzq]\d+\b"),
        product=re.compile(r"[fbsu]\w*(mla|mls|mad|msb|dot)[\w.]*\s.*\b[vz]\d+\b"),
        load=re.compile(r"ld\w*"),
        store=re.compile(r"st\w*"),
        stack=re.compile(r"(ld|st)\w*.*\[(sp|x29)\b"),
        jump=re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z)\s(?:.*,\s*)?(\S+)$"),
    ),
    # In AT&T's order: the last operand is the result.
    "x86_64": Syntax(
        vector=re.compile(r".*%[xyz]mm\d"),
        product=re.compile(r"v(fn?m(add|sub)\w*p[sdh]|pdp\w+|dpbf16ps)\s"),
        load=re.compile(r"(?!lea|prefetch|nop)\w+\s.*\([^()]*\)(\{\w+\})?,"),
        store=re.compile(r"(?!prefetch|nop|cmp|test|v?u?comis|j|call)\w+\s.*\)(\s*\{%k\d\})?$"),
        stack=re.compile(r"(?!lea)\w+\s.*\(%r[sb]p\b"),
        jump=re.compile(r"j\w+\s(\S+)$"),
    ),
}

_LABEL = re.compile(r"([\w.$]+):")
_LOCAL = re.compile(r"\.?L\w*\d")
# ARM writes numbers with the sign that begins comments on x86.
_COMMENT = re.compile(r"\s*//|\s+##?\s")
_NAME = re.compile(r"[\w.$]+")
# How often a loop may turn, for all that its code says.
_ROUNDS = 8
# What TVM and Mach-O put before the name of a kernel.
_PREFIXES = ("_", "__tvm_ffi_", "___tvm_ffi_")


def loops_of(text: str, architecture: str) -> dict[str, Loop]:
    """The loop of every function that does most of its work, by the names of the functions that TVM exports.

    What runs in parallel is a function of its own: it belongs to the one that mentions it. Functions without a loop, or
    of an architecture that is not known, are left out.
    """
    syntax = SYNTAXES.get(architecture)
    if syntax is None:
        return {}
    functions = dict(_functions(text))
    loops = {name: list(_innermost(lines, syntax)) for name, lines in functions.items()}
    mentions = {name: _mentioned(lines, functions) for name, lines in functions.items()}
    found = {}
    for name in functions:
        inside = [entry for part in _reachable(name, mentions) for entry in loops[part]]
        if inside:
            found[name] = max(inside, key=_work)[0]
    return {_plain(name): loop for name, loop in found.items()}


def _work(entry: tuple[Loop, int]) -> tuple[int, int, int]:
    """How much a loop that lies in so many others may do."""
    loop, depth = entry
    rounds: int = _ROUNDS**depth
    return loop.products * rounds, loop.vectors * rounds, loop.instructions * rounds


def _plain(name: str) -> str:
    """The name of a kernel as the runtime calls it."""
    return next((name[len(prefix) :] for prefix in sorted(_PREFIXES, key=len)[::-1] if name.startswith(prefix)), name)


def _functions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every function: its name, and its labels and instructions, one each."""
    name = ""
    lines: list[str] = []
    for line in text.splitlines():
        label = _LABEL.match(line)
        if label and not _LOCAL.match(label[1]):
            if name:
                yield name, lines
            name, lines = label[1], []
        elif label:
            lines.append(f"{label[1]}:")
        elif line.startswith("\t") and not line.startswith(("\t.", "\t#", "\t/")):
            lines.append(_COMMENT.split(line[1:], maxsplit=1)[0].rstrip().replace("\t", " "))
    if name:
        yield name, lines


def _innermost(lines: list[str], syntax: Syntax) -> Iterator[tuple[Loop, int]]:
    """The loops that contain no other, from a label to the last jump back to it, and in how many others they lie."""
    places = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    ends: dict[int, int] = {}
    for number, line in enumerate(lines):
        jump = syntax.jump.match(line)
        start = places.get(jump[1], number) if jump else number
        if start < number:
            ends[start] = number
    for start, end in ends.items():
        if not any(start <= other and ends[other] <= end and other != start for other in ends):
            depth = sum(other < start and ends[other] >= end for other in ends)
            yield count((line for line in lines[start : end + 1] if not line.endswith(":")), syntax), depth


def count(lines: Iterable[str], syntax: Syntax) -> Loop:
    """What some instructions consist of."""
    instructions = list(lines)

    def number(name: str) -> int:
        pattern: re.Pattern[str] = getattr(syntax, name)
        return sum(1 for instruction in instructions if pattern.match(instruction))

    return Loop(len(instructions), *(number(name) for name in ("vector", "product", "load", "store", "stack")))


def _mentioned(lines: list[str], functions: dict[str, list[str]]) -> set[str]:
    """The functions that a function mentions: those it calls, or gives away to be called."""
    return {word for line in lines if not line.endswith(":") for word in _NAME.findall(line) if word in functions}


def _reachable(name: str, mentions: dict[str, set[str]]) -> set[str]:
    """A function and all that it mentions, directly or not."""
    found, waiting = {name}, [name]
    while waiting:
        new = mentions[waiting.pop()] - found
        found |= new
        waiting += new
    return found
