"""What is built, installed and declared: nothing is missing from a wheel, and a wheel works away from here."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
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
    assert "version" in pyproject["project"]["dynamic"] and "version" not in pyproject["project"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "graphprune.__version__"}
    assert f"version: {graphprune.__version__}\n" in (ROOT / "CITATION.cff").read_text()
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


def test_extras_have_the_names_that_are_documented(pyproject: dict) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    assert {"cuda", "demo", "dev", "hf", "link", "ray", "zig"} <= set(extras)
    assert any("apache-tvm" in one for one in pyproject["project"]["dependencies"])  # the compiler is no extra
    for name, wanted in extras.items():
        own = [one for one in wanted if one.startswith("graphprune[")]
        named = {extra for one in own for extra in one.partition("[")[2].rstrip("]").split(",")}
        assert named <= set(extras) - {name}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source distribution, the wheel built from it, and that wheel unpacked."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("built")
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "data")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=skipped)
    build("sdist", folder / "source", folder)
    (archive,) = folder.glob("graphprune-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "unpacked", filter="tar")
    (source,) = (folder / "unpacked").iterdir()
    build("wheel", source, folder)
    (wheel,) = folder.glob("graphprune-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "installed")
    return folder


def build(what: str, source: Path, out: Path) -> None:
    """As a build frontend does it, without fetching anything."""
    code = f"import setuptools.build_meta as b, sys; b.build_{what}(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def files_to_ship() -> set[str]:
    """Every module and file of data below the three homes, by its place in an installation."""
    found = set()
    for folder, name in HOMES.items():
        for path in (ROOT / folder).glob("**/*"):
            parts = path.relative_to(ROOT / folder).parts
            linked = folder == "graphprune" and parts[0] in HOMES
            if path.is_file() and not linked and "__pycache__" not in parts:
                found.add("/".join([name.replace(".", "/"), *parts]))
    return found


def test_the_wheel_holds_everything_and_nothing_else(built: Path) -> None:
    inside = {path.relative_to(built / "installed").as_posix() for path in (built / "installed").glob("**/*.*")}
    code = {name for name in inside if not name.split("/")[0].endswith(".dist-info")}
    assert code == files_to_ship()
    assert {"graphprune/py.typed", "graphprune/backends/cpp/graphprune.h", "graphprune/passes/recover.py"} <= code


def test_the_wheel_declares_what_it_is(built: Path, pyproject: dict) -> None:
    (metadata,) = (built / "installed").glob("*.dist-info/METADATA")
    said = message_from_bytes(metadata.read_bytes())
    assert said["Name"] == "graphprune" and said["Version"] == graphprune.__version__
    assert set(said.get_all("Provides-Extra")) == set(pyproject["project"]["optional-dependencies"])
    assert said["Requires-Python"] == ">=3.10" and said["License-Expression"] == "Apache-2.0"
    for version in ("3.10", "3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in said.get_all("Classifier")
    (entries,) = (built / "installed").glob("*.dist-info/entry_points.txt")
    assert "graphprune = graphprune.cli:main" in entries.read_text()


def test_the_wheel_works_away_from_here(built: Path, tmp_path: Path) -> None:
    """The same script that is run after an installation into an empty environment."""
    shutil.copy(ROOT / ".ci" / "smoke.py", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(built / "installed")}
    command = [sys.executable, "smoke.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"works, from {built / 'installed'}" in done.stdout


CONSUMER = """
import graphprune
from graphprune.plan import Plan

plan: Plan = graphprune.Plan.load("plan.json")
sizes: list[tuple[str, int, int, int]] = plan.widths()
error: float = graphprune.verify(None, None).error
text: str = graphprune.analyze(None).explain()
graphprune.compile(None, target="x86", threads=1).save("net.gp")
"""


def test_users_of_the_wheel_see_its_types(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed: pip install 'graphprune[lint]'")
    wrong = {'sparsity: int = graphprune.Plan.load("plan.json")': "assignment", "graphprune.verify(None)": "call-arg"}
    (tmp_path / "right.py").write_text(CONSUMER)
    (tmp_path / "wrong.py").write_text(CONSUMER + "\n".join(wrong))
    # Frameworks are left out: what is asked is whether the types of this package are seen.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\nfollow_imports = silent\n"
        + "".join(f"[mypy-{name}.*]\nfollow_imports = skip\nignore_missing_imports = True\n" for name in SKIPPED)
    )
    environment = os.environ | {"MYPYPATH": str(built / "installed"), "PYTHONPATH": ""}

    def check(name: str) -> str:
        command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), name]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "Success" in check("right.py")
    found = check("wrong.py")
    assert f"Found {len(wrong)} errors" in found and all(f"[{code}]" in found for code in wrong.values()), found


SKIPPED = ("torch", "onnx", "onnx_ir", "onnxruntime", "tvm", "tvm_ffi", "scipy", "networkx", "safetensors", "rich")


@pytest.mark.parametrize(
    "name", [".github/workflows/ci.yml", ".gitlab-ci.yml", "CITATION.cff", ".pre-commit-config.yaml"]
)
def test_files_of_hosts_are_valid(name: str, pyproject: dict) -> None:
    yaml = pytest.importorskip("yaml")
    text = (ROOT / name).read_text()
    read = yaml.safe_load(text)
    assert isinstance(read, dict) and read
    versions = [one.rsplit(" ", 1)[1] for one in pyproject["project"]["classifiers"] if ":: 3." in one]
    if name.startswith(".git"):
        assert "make lint" in text and "make test" in text and ".ci/package" in text
        jobs = read["jobs"] if "jobs" in read else read
        matrix = jobs["test"]["strategy"]["matrix"]["python"] if "jobs" in read else None
        assert (matrix or jobs["test"]["parallel"]["matrix"][0]["PYTHON"]) == versions
    if name == "CITATION.cff":
        assert {"cff-version", "message", "title", "authors", "version"} <= set(read)
