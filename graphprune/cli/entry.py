"""The way into the command line: the table of commands, and what becomes of errors.

Frameworks are imported inside the commands, so that `--help` answers at once.
"""

import sys
import warnings
from importlib import import_module
from typing import Annotated

import typer

from .. import __version__
from ..errors import GraphPruneError
from .groups import spread

COMMANDS = (
    "demo",
    "explain",
    "optimize",
    "plan",
    "apply",
    "verify",
    "compile",
    "bench",
    "report",
    "inspect",
    "targets",
    "runtime",
)
"""Every command is a function in the file of the same name, with `EXAMPLES` for its help; in the order of `--help`."""

app = typer.Typer(
    help="Make trained neural networks smaller and faster, and verify that they still compute the same.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"graphprune {__version__}")
        raise typer.Exit


def _register(name: str) -> None:
    module = import_module(f".{name}", __package__)
    examples = "\n\n".join(f"[b]{example}[/b]" for example in module.EXAMPLES)
    app.command(name, epilog=f"Examples:\n\n{examples}")(spread(getattr(module, name)))


for _name in COMMANDS:
    _register(_name)


def main() -> None:
    """Run the command line; errors of ours become one line and exit code 1."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        app()
    except (GraphPruneError, OSError) as error:
        print(f"graphprune: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
