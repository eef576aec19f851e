"""Names and signatures of the public API are those that docs/public-api.md lists."""

import inspect
from pathlib import Path

import pytest

import graphprune
from helpers import script_of

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "public-api.md").read_text()


@pytest.fixture(scope="module")
def script():
    return script_of("public_api")


def test_the_page_lists_what_there_is(script) -> None:
    assert script.page() == TEXT, "the public API changed: run benchmarks/public_api.py, and say so in CHANGELOG.md"


@pytest.mark.parametrize("change", ["a name", "a default", "a parameter"])
def test_changes_would_be_seen(script, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    def verify(original, slim, plan=None, example_inputs=None, thorough=True): ...

    def verify_less(original, slim, plan=None, example_inputs=None, thorough=False): ...

    def verify_more(original, slim, plan=None, example_inputs=None, thorough=True, more=1): ...

    verify.__doc__ = verify_less.__doc__ = verify_more.__doc__ = graphprune.verify.__doc__
    monkeypatch.setattr(graphprune, "verify", verify)
    assert script.page() == TEXT  # annotations and bodies are no part of it
    if change == "a name":
        monkeypatch.setattr(graphprune, "__all__", [name for name in graphprune.__all__ if name != "verify"])
    else:
        monkeypatch.setattr(graphprune, "verify", {"a default": verify_less, "a parameter": verify_more}[change])
    assert script.page() != TEXT


def test_everything_public_is_typed_and_documented() -> None:
    for name in set(graphprune.__all__) - {"__version__"}:
        found = getattr(graphprune, name)
        assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            signature = inspect.signature(found)
            assert signature.return_annotation is not inspect.Signature.empty, name
            for parameter in signature.parameters.values():
                assert parameter.annotation is not inspect.Parameter.empty, f"{name}({parameter.name})"


def test_type_checkers_see_the_same_names_as_programs() -> None:
    """The names are imported lazily, so that they are written down twice in `graphprune/__init__.py`."""
    text = (ROOT / "graphprune" / "__init__.py").read_text()
    seen = {
        line.rpartition(" as ")[2] for line in text.splitlines() if line.startswith("    from .") and " as " in line
    }
    assert seen == set(graphprune.__all__) - {"__version__"}
    assert set(dir(graphprune)) == set(graphprune.__all__)
