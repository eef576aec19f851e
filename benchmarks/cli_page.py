"""Fill docs/cli.md: run the commands that it shows, list the exit codes, describe every option.

python benchmarks/cli_page.py
"""

import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo

from graphprune.cli import app
from graphprune.cli.entry import COMMANDS, EXIT_CODES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cli.md"
COLUMNS = "100"

Run = Callable[[list[str]], tuple[int, str]]
"""From the words of a command to its exit code and what it prints."""


def page(text: str, run: Run | None) -> str:
    """The page with everything that is generated made anew; without `run`, what commands print stays as it is."""
    filled = {"exit codes": exit_codes(), "reference": reference()}
    for name, content in filled.items():
        before, rest = text.split(f"<!-- {name} -->\n", 1)
        text = f"{before}<!-- {name} -->\n\n{content}\n\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    if run is not None:
        text = re.sub(r"(```console\n)(.*?)(```)", lambda m: m[1] + session(m[2], run) + m[3], text, flags=re.S)
    return text


def session(block: str, run: Run) -> str:
    """A block of commands, each followed by what it prints and, where it fails, by its exit code."""
    shown = []
    for command in commands(block):
        code, printed = run(command.split())
        lines = [line.rstrip() for line in printed.rstrip().splitlines()]
        shown.append("\n".join([f"$ {command}", *lines, *([f"(exit code {code})"] if code else [])]))
    return "\n\n".join(shown) + "\n"


def commands(block: str) -> list[str]:
    """The commands of a block."""
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def module_of(text: str) -> str:
    """The module of models that the page shows."""
    found = re.search(r"```python title=\"my_models.py\"\n(.*?)```", text, re.S)
    assert found is not None
    return found[1]


def exit_codes() -> str:
    """The table of exit codes."""
    rows = [f"| {code} | {meaning} |" for code, (_, meaning) in EXIT_CODES.items()]
    return "\n".join(["| exit code | means |", "| ---: | --- |", *rows])


def reference() -> str:
    """A section for every command."""
    found = {command.name: command for command in app.registered_commands}
    return "\n\n".join(_section(name, found[name]) for name in COMMANDS)


def _section(name: str, command: Any) -> str:
    parameters = [one for one in inspect.signature(command.callback).parameters.values() if _info(one) is not None]
    arguments = [one for one in parameters if isinstance(_info(one), ArgumentInfo)]
    options = [one for one in parameters if isinstance(_info(one), OptionInfo)]
    usage = " ".join(["graphprune", name, *(_info(one).metavar for one in arguments), "[OPTIONS]"])
    rows = [f"| `{_info(one).metavar}` | {_plain(_info(one).help)} |" for one in arguments]
    rows += [f"| {_spelling(one)} | {_plain(_info(one).help)}{_default(one)} |" for one in options]
    examples = re.findall(r"\[b\](.*?)\[/b\]", command.epilog)
    about = " ".join(command.callback.__doc__.split())
    code = '```sh no-run="names files of yours"\n' + "\n".join(examples) + "\n```"
    return "\n\n".join([f"### {name}", about, code, f"`{usage}`", "\n".join(["| | |", "| --- | --- |", *rows])])


def _info(parameter: inspect.Parameter) -> Any:
    """What typer is told of a parameter; None for the context."""
    said = getattr(parameter.annotation, "__metadata__", ())
    return next((one for one in said if isinstance(one, (ArgumentInfo, OptionInfo))), None)


def _spelling(option: inspect.Parameter) -> str:
    info = _info(option)
    given = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    takes = info.metavar or _kind(option.annotation.__origin__)
    return ", ".join(f"`{name} {takes}`".replace(" `", "`") for name in given or [f"--{option.name.replace('_', '-')}"])


def _kind(kind: Any) -> str:
    """How the value of an option is called: its words, its type, or nothing for a flag."""
    inner = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        return "/".join(inner)
    if inner:
        return _kind(inner[0])
    return {bool: "", str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "FILE"}[kind]


def _default(option: inspect.Parameter) -> str:
    if option.default is inspect.Parameter.empty:
        return " Required."
    shown = _info(option).show_default
    default = shown if isinstance(shown, str) else option.default
    return "" if default is None or default is False or not shown else f" Default: `{default}`."


def _plain(text: str | None) -> str:
    """Help without the markup of terminals."""
    return re.sub(r"\[b\](.*?)\[/b\]", r"`\1`", text or "").replace("|", "\\|")


def _in_a_process(folder: str) -> Run:
    def run(words: list[str]) -> tuple[int, str]:
        assert words[0] == "graphprune"
        environment = os.environ | {"COLUMNS": COLUMNS, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr + done.stdout

    return run


def main() -> None:
    """Write the page."""
    text = PAGE.read_text()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "my_models.py").write_text(module_of(text))
        PAGE.write_text(page(text, _in_a_process(folder)))


if __name__ == "__main__":
    main()
