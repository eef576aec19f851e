"""Weights in large pages: where they lie is found, results stay as they were, and systems without them do without."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from graphprune.backends import large_pages, runtime
from graphprune.backends.compiler import compile_model

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
X = torch.randn(2, 2100)


@pytest.fixture
def large():
    """A model with 18 MB of weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2100, 2100), nn.ReLU(), nn.Linear(2100, 8)).eval()


@pytest.fixture
def advised(monkeypatch):
    """What becomes large pages, a list of regions per program and function."""
    calls = []
    monkeypatch.setattr(runtime, "use_large_pages", lambda regions: calls.append(list(regions)))
    return calls


def large_bytes():
    """Bytes of this process that lie in large pages."""
    return int(re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1]) << 10


def gives_large_pages():
    """Whether Linux makes large pages when it is asked to: from 6.1."""
    if not SETTING.exists() or "[never]" in SETTING.read_text():
        return False
    return tuple(map(int, re.findall(r"\d+", Path("/proc/sys/kernel/osrelease").read_text())[:2])) >= (6, 1)


def test_regions_are_joined_and_widened():
    page = 2 << 20
    assert large_pages.joined([(5, 7), (1, 3), (2, 4), (7, 9), (20, 20)]) == [(1, 4), (5, 9)]
    assert large_pages.whole_pages((page + 1, page + 2)) == (page, 2 * page)
    assert large_pages.whole_pages((page, 3 * page)) == (page, 3 * page)


def test_all_weights_are_found_once_and_no_input(large, advised):
    artifact = compile_model(large, "x86", X)
    first, second = artifact(X), artifact(X)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, large(X), atol=1e-4, rtol=1e-4)
    (regions,) = advised
    assert max(end - start for start, end in regions) >= 2100 * 2100 * 4
    assert X.data_ptr() not in {start for start, _ in regions}


def test_every_batch_size_finds_its_own(large, advised):
    artifact = compile_model(large, "x86", X, batch_sizes=(1, 2))
    for count in (1, 2, 1, 2):
        artifact(X[:count])
    assert len(advised) == 2


@pytest.mark.parametrize("options", [{"weights": "separate"}, {}], ids=["mapped", "small"])
def test_weights_that_are_shared_or_few_stay_where_they_are(options, large, advised):
    model = large if options else nn.Linear(2100, 8).eval()
    compile_model(model, "x86", X, **options)(X)
    assert advised == []


def test_the_first_call_may_be_watched_or_come_from_several_threads(large, advised):
    artifact = compile_model(large, "x86", X, threads=1)
    seen = []
    with artifact.watched(lambda name, before: seen.append(name)):
        artifact(X)
    assert seen and advised == []
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(artifact, [X] * 8))
    assert all(torch.equal(result, results[0]) for result in results) and advised


@pytest.mark.skipif(not gives_large_pages(), reason="this system makes no large pages on demand")
def test_weights_do_lie_in_large_pages(large, tmp_path):
    """In a process of its own: in this one, memory that was large for others is used again."""
    compile_model(large, "x86", X).save(tmp_path / "large.gp")
    code = (
        "import sys, numpy, graphprune, test_backend_large_pages as here\n"
        "artifact = graphprune.load(sys.argv[1])\n"
        "before = here.large_bytes()\n"
        "artifact(numpy.ones((2, 2100), 'float32'))\n"
        "print(here.large_bytes() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.gp")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) >= 12 << 20


def test_a_system_without_large_pages(large, monkeypatch):
    monkeypatch.setattr(large_pages, "_HUGEPAGE", None)
    monkeypatch.setattr(large_pages, "_library", lambda: pytest.fail("there is nobody to advise"))
    torch.testing.assert_close(compile_model(large, "x86", X)(X), large(X), atol=1e-4, rtol=1e-4)


def test_advice_that_is_not_taken_is_no_error():
    large_pages.use_large_pages([(1 << 46, (1 << 46) + (4 << 20))])  # nothing is there
