"""The mapping in pyproject.toml must name every package on disk."""

import sys
from pathlib import Path

import pytest

import graphprune

ROOT = Path(__file__).parents[1]
HOMES = {"graphprune": "graphprune", "passes": "graphprune.passes", "backends": "graphprune.backends"}


@pytest.fixture(scope="module")
def pyproject() -> dict:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_on_disk() -> set[str]:
    found = set()
    for folder, name in HOMES.items():
        # Not rglob: some Python versions follow the two symlinks inside graphprune/, some do not.
        for init in (ROOT / folder).glob("**/__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            if not (folder == "graphprune" and parts and parts[0] in HOMES):
                found.add(".".join([name, *parts]))
    return found | {"graphprune.passes", "graphprune.backends"}


def test_every_package_is_listed(pyproject: dict) -> None:
    """A sub-package that is not listed would be missing from the wheel."""
    assert set(pyproject["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_the_symlinks_lead_to_the_packages() -> None:
    for name in ("passes", "backends"):
        assert (ROOT / "graphprune" / name).resolve() == ROOT / name


def test_version_is_the_same_everywhere(pyproject: dict) -> None:
    assert pyproject["project"]["version"] == graphprune.__version__
    assert f"## {graphprune.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_pins_satisfy_the_declared_ranges(pyproject: dict) -> None:
    """A pin outside the range of its package would make every installation fail."""
    requirements = pytest.importorskip("packaging.requirements")
    declared = list(pyproject["project"]["dependencies"])
    for extra in pyproject["project"]["optional-dependencies"].values():
        declared += extra
    ranges = {r.name: r.specifier for r in map(requirements.Requirement, declared)}
    pins = [requirements.Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert len(pins) > 10
    for pin in pins:
        (version,) = (s.version for s in pin.specifier)
        assert ranges.get(pin.name) is None or version in ranges[pin.name], pin
