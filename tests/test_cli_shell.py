"""What shells, scripts and readers of help meet: JSON alone on stdout, stages on terminals, completion, examples."""

import json
import shlex
from pathlib import Path

import pytest
import typer

import graphprune.demo
from command_line import SHAPE, SMALL
from graphprune.cli import app
from graphprune.cli.entry import COMMANDS, EXIT_CODES
from graphprune.errors import BudgetError, GraphPruneError, VerifyError

INPUT = ("-i", SHAPE)


def commands() -> dict:
    return typer.main.get_command(app).commands


def test_stdout_is_json_alone(graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command, on a terminal: what is said on the way goes to stderr."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(graphprune.demo, "run", lambda out, seed, threads, console: console.print("hi") or {"a": 1})
    asked = {
        "demo": (),
        "explain": (SMALL, *INPUT),
        "optimize": (SMALL, "-o", "slim.safetensors", *INPUT),
        "plan": (SMALL, "-o", "plan.json", *INPUT),
        "apply": (SMALL, "plan.json", "-o", "again.safetensors", *INPUT),
        "verify": (SMALL, "slim.safetensors", "--thorough", *INPUT),
        "compile": (SMALL, "-o", "small.gp", *INPUT),
        "bench": ("small.gp", "--repeats", "1"),
        "report": (SMALL, "--slim", "slim.safetensors", "-o", "page.html", *INPUT),
        "sweep": (SMALL, "--score", "sys:getsizeof", "-o", "sweep.jsonl", *INPUT),
        "inspect": ("small.gp",),
        "targets": (),
        "runtime": ("deploy",),
    }
    said = {}
    assert set(asked) == set(COMMANDS)
    for command in COMMANDS:
        code, out, said[command] = graphprune_(command, *asked[command], "--json")
        assert code == 0, said[command]
        assert isinstance(json.loads(out), dict)
    assert "prune channels" in said["optimize"] and "verify" in said["optimize"]
    assert "apply the plan" in said["apply"]
    assert "3/3" in said["verify"]
    assert "make machine code" in said["compile"] and "link" in said["compile"]


def test_every_command_prints_json() -> None:
    for name, command in commands().items():
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_nothing_is_said_where_there_is_no_terminal(graphprune_, folder: Path) -> None:
    code, _, err = graphprune_("optimize", SMALL, "-o", "slim.safetensors", *INPUT)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse(graphprune_, name: str) -> None:
    code, out, _ = graphprune_(name, "--help")
    assert code == 0 and "Examples" in out and "Usage" in out
    command = commands()[name]
    examples = [line.strip() for line in command.epilog.replace("[b]", "").replace("[/b]", "").split("\n\n")[1:]]
    assert examples
    for example in examples:
        program, said, *arguments = shlex.split(example)
        assert (program, said) == ("graphprune", name)
        command.make_context(name, arguments)  # raises for options that there are not


def test_a_wrong_example_would_be_seen() -> None:
    with pytest.raises(Exception, match="--sparseness"):
        commands()["optimize"].make_context("optimize", ["net", "-o", "slim.pt2", "--sparseness", "0.5"])


def test_every_error_has_an_exit_code(graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(of: type) -> list[type]:
        return [of, *(kind for below in of.__subclasses__() for kind in kinds(below))]

    assert len(kinds(GraphPruneError)) > 10
    for kind in kinds(GraphPruneError):

        def fail(*_: object, kind=kind, **__: object) -> None:
            raise kind("first line\nsecond line: \n  third")

        monkeypatch.setattr("graphprune.api.analyze", fail)
        monkeypatch.setattr("graphprune.analyze", fail, raising=False)
        code, out, err = graphprune_("explain", SMALL, *INPUT)
        expected = 3 if issubclass(kind, VerifyError) else 4 if issubclass(kind, BudgetError) else 1
        assert code == expected and code in EXIT_CODES
        assert (out, err) == ("", "graphprune: first line; second line: third\n")


@pytest.mark.parametrize(
    ("typed", "proposed"),
    [
        ("optimize --criterion re", {"reconstruction"}),
        ("optimize --criterion spars", {"sparsegpt"}),
        ("compile --target arm-cortex", {"arm-cortex-a72", "arm-cortex-a76"}),
        ("plan --budget m", {"macs", "memory"}),
        ("plan --policy d", {"dims"}),
        ("optimize --structure ", {"channel", "unstructured", "2:4", "block:16x1"}),
        ("optimize --recover ", {"least_squares", "bias", "batch_norm"}),
        ("compile --precision t", {"tf32"}),
        ("explain net", {"net.onnx", "nets/"}),
        ("explain nets/", {"nets/slim.pt2"}),
        ("explain ti", {"timm:"}),
        ("opt", {"optimize"}),
        ("optimize --criterion magic", set()),
    ],
)
def test_completion(graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch, typed: str, proposed: set) -> None:
    (folder / "nets").mkdir()
    for name in ("net.onnx", "nets/slim.pt2", "nets/notes.txt", "network.txt"):
        (folder / name).touch()
    words = f"graphprune {typed}".split(" ")
    monkeypatch.setenv("_GRAPHPRUNE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    code, out, err = graphprune_()
    assert code == 0, err
    assert set(out.split()) == proposed


def test_completion_can_be_installed(graphprune_, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # the shell is named, not that of the tests
    for shell in ("bash", "zsh", "fish"):
        code, out, _ = graphprune_("--show-completion", shell)
        assert code == 0 and "_GRAPHPRUNE_COMPLETE" in out
    assert "--install-completion" in graphprune_("--help")[1]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (("x=1,2", "3,4"), "a name of its own"),
        (("x=1,2", "x=3,4"), "a name of its own"),
        (("1,0",), "is not a shape"),
        (("1,2:bits",), "is not a shape"),
        (("",), "is not a shape"),
    ],
)
def test_inputs_told(shapes: tuple[str, ...], said: str) -> None:
    import numpy as np

    from graphprune.errors import ExampleInputsError
    from graphprune.frontends import source_of

    for model in ("net.onnx", "package:net"):
        source = source_of(model)
        with pytest.raises(ExampleInputsError, match=said):
            source.example_inputs(shapes)
        assert source.example_inputs([]) is None
        named = source.example_inputs(["ids=1,4:int64", "x.0=2,3"])
        assert list(named) == ["ids", "x.0"] and tuple(named["x.0"].shape) == (2, 3)
        assert np.asarray(named["ids"]).tolist() == [[1, 0, 1, 0]]
        assert isinstance(source.example_inputs(["2,3"]), tuple)
