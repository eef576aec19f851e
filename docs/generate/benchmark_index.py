"""The index of what was measured: `python docs/generate/benchmark_index.py` writes docs/benchmarks/index.md.

Everything on it is read off the pages that the scripts in benchmarks/ have printed.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "benchmarks/index.md"
TOPICS = {
    "Speed": [
        *("x86_latency", "staircase", "latency_budget", "operators", "narrow", "sparse", "half", "int8", "loader"),
        *("x86_latency_amd", "paced", "cuda"),
    ],
    "Accuracy": ["cifar_pruning", "imagenet_pruning", "cifar", "stories_pruning", "stories"],
    "Right on everything": ["../coverage", "budgets", "fuzz", "fuzz_onnx", "onnx", "onnx_bad_input"],
    "Time of the compiler itself": ["speed", "scaling", "onnx_speed", "onnx_large", "tracers"],
}
# In short: a page, how the header of one of its tables begins, which of its rows.
HEADLINES = {
    "Latency, one thread: time of the artifact over that of others, on models dense and at half of the multiply-adds": (
        "x86_latency",
        "| artifact against | variant | models |",
        r"",
    ),
    "CIFAR-10, no training: accuracy in per cent at fewer multiply-adds, and that of Torch-Pruning (peer)": (
        "cifar_pruning",
        "|  | l2 | l2 recovered |",
        r"\| \d+, (1.5|2.0)x",
    ),
    "Coverage: models pruned to half of their parameters and proved": (
        "../coverage",
        "| family | models | proved |",
        r"\| \*\*all",
    ),
}
PICTURES = ("x86_latency", "cifar_pruning")

INTRODUCTION = """
Every figure in this documentation is printed by a script of the repository; each page names its script, the machine,
the versions, and what was compared with what. Others are run in the same process or in turn, on the same inputs.
This index is made from those pages by `python docs/generate/benchmark_index.py`.
"""


def text() -> str:
    """The page; raises `ValueError` where there is a page that no topic names."""
    named = {Path(page).name for pages in TOPICS.values() for page in pages}
    missing = {path.stem for path in PAGE.parent.glob("*.md")} - named - {"index"}
    if missing:
        raise ValueError(f"name these pages in TOPICS: {sorted(missing)}")
    parts = ["# Benchmarks", INTRODUCTION.strip(), "## In short"]
    for words, (page, header, rows) in HEADLINES.items():
        parts += [f"[{words}]({page}.md).", table(read(page), header, rows)]
    parts += [picture(page) for page in PICTURES]
    for topic, pages in TOPICS.items():
        rows = [row(page) for page in pages]
        parts += [f"## {topic}", "\n".join(["| page | printed by | last measured |", "| --- | --- | --- |", *rows])]
    return "\n\n".join(parts) + "\n"


def read(page: str) -> str:
    """The text of a page beside the index."""
    return (PAGE.parent / f"{page}.md").read_text(encoding="utf-8")


def table(page: str, header: str, rows: str) -> str:
    """The header of the first table that begins so, and those of its rows that match."""
    lines = page[page.index(header) :].split("\n\n")[0].splitlines()
    return "\n".join([*lines[:2], *(line for line in lines[2:] if re.match(rows, line))])


def picture(page: str) -> str:
    """The first picture of a page, leading to the page."""
    found = re.search(r"!\[[^\]]*\]\([^)]*\)", read(page))
    if found is None:
        raise ValueError(f"{page} has no picture")
    return f"[{found[0]}]({page}.md)"


def row(page: str) -> str:
    """Title, script and date of a page."""
    content, stem = read(page), Path(page).stem
    script = re.search(r"(?:Printed|Written) by\s+`?(?:python )?(benchmarks/\w+\.py[^`\n:]*)", content)
    shown = script[1] if script else f"benchmarks/{stem}.py"
    if not (DOCS.parent / shown.split()[0]).exists():
        raise ValueError(f"{page} does not name the script that prints it")
    dates = re.findall(r"\b20\d\d-\d\d-\d\d\b", content)
    title = content.splitlines()[0].removeprefix("# ")
    return f"| [{title}]({page}.md) | `{shown}` | {max(dates, default='')} |"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
