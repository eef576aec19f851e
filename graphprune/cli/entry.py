"""The way into the command line: the table of commands, and what becomes of errors.

Frameworks are imported inside the commands, so that `--help` answers at once.
"""

import signal
import sys
import warnings
from importlib import import_module
from typing import Annotated

import typer

from .. import __version__
from ..errors import BudgetError, GraphPruneError, VerifyError
from .groups import spread
from .stopping import stoppable

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
    "sweep",
    "inspect",
    "targets",
    "runtime",
)
"""Every command is a function in the file of the same name, with `EXAMPLES` for its help; in the order of `--help`."""

EXIT_CODES: dict[int, tuple[type[Exception] | None, str]] = {
    0: (None, "done"),
    1: (None, "an error, told in one line: a wrong model, file or option, or a machine that lacks something"),
    2: (None, "a command, option or argument that there is not, or a value that it cannot take"),
    3: (VerifyError, "the pruned model does not compute what the masked original computes"),
    4: (BudgetError, "the budget cannot be met, nothing can be pruned, or what is pruned is not faster"),
    130: (None, "stopped by Ctrl-C; nothing is left half-written"),
    143: (None, "stopped by SIGTERM; nothing is left half-written"),
}
"""Exit code -> the errors that lead to it, if they are of one kind, and what it means."""

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
    """Run the command line; errors of ours become one line on stderr and an exit code (see `EXIT_CODES`)."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    with stoppable() as received:
        code = _run()
    if received:
        print("graphprune: stopped", file=sys.stderr)
        code = 128 + received[0]
    sys.exit(code)


def _run() -> int:
    """The exit code of the command that was asked for."""
    try:
        app(prog_name="graphprune")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (GraphPruneError, OSError) as error:
        print(f"graphprune: {_one_line(error)}", file=sys.stderr)
        return next((code for code, (kind, _) in EXIT_CODES.items() if kind and isinstance(error, kind)), 1)
    return 0


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return " ".join(line if line[-1] in ".:;," else f"{line};" for line in lines).removesuffix(";")
