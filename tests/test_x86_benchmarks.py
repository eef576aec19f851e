"""What the benchmarks on x86 compute from times, and what their committed pages say."""

import sys
from pathlib import Path

import pytest

from graphprune.backends.targets import TARGETS, get_target
from helpers import import_torchvision

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    import_torchvision()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


def test_targets_declare_the_alignment_that_was_measured():
    page = (ROOT / "docs" / "benchmarks" / "staircase.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    measured = {row[0]: int(row[1]) for row in cells if len(row) == 3 and row[0] in TARGETS}
    here = [name for name, target in TARGETS.items() if target.family == "x86" and not target.dots]
    assert measured == {name: get_target(name).channel_alignment for name in here}
    for target in TARGETS.values():
        twin = measured.get(target.name.removesuffix("-vnni"))
        assert twin is None or target.channel_alignment == twin


@pytest.mark.parametrize("step", [4, 8, 16])
def test_the_alignment_is_where_the_steps_are(step):
    import staircase

    found = []
    for power in (1, 2):
        times = {count: float((-(-count // step) * step) ** power) for count in staircase.COUNTS}
        found.append(staircase.wastes(times, power))
        assert found[-1]["16n + 1"] > 0.04 and found[-1]["odd multiples of 16"] == pytest.approx(0)
    assert staircase.alignment(found) == step


def test_a_smooth_slope_has_no_steps():
    import staircase

    times = {count: 3.0 + count**2 for count in staircase.COUNTS}
    assert staircase.alignment([staircase.wastes(times, 2)]) == 4


def record(model, threads, **ratios):
    """A record in which the artifact takes a second."""
    variants = {}
    for variant, ratio in ratios.items():
        share = 1.0 if variant == "dense" else 0.5
        variants[variant] = {
            "macs": int(1e9 * share),
            "compile": 3.0,
            "errors": {"artifact": 1e-7, "onnxruntime": 2e-7},
            "seconds": {"artifact": share / threads, "onnxruntime": share / threads / ratio},
        }
    return {"model": model, "threads": threads, "machine": "a machine", "variants": variants}


def test_tables_of_latencies():
    import x86_page

    records = [record("resnet18", 1, dense=0.5, aligned=2.0), record("swin_t", 1, dense=0.5, aligned=0.5)]
    summary = {(row[0], row[1]): row[2:] for row in x86_page.summaries(records)}
    assert summary["ONNX Runtime", "dense"] == ["2", "0.50", "0.50 resnet18", "0"]
    assert summary["ONNX Runtime", "aligned"] == ["2", "1.00", "2.00 resnet18", "1"]
    assert x86_page.times(records)[0] == [
        "resnet18, dense", "1.00 G", "1000.00 ms", "2000.00 ms", "-", "-", "0.50", "3 s"
    ]  # fmt: skip
    assert x86_page.gains(records)[0] == ["resnet18 *", "aligned", "2.00 x", "2.00 x", "1.00", "8.00 x"]
    others = [*records, record("vgg11_bn", 1, dense=2.0, aligned=0.5)]  # swin_t is not one of the networks that count
    assert x86_page.gains(others)[-1] == ["geometric mean of *", "aligned", "2.00 x", "2.00 x", "1.00", "2.00 x"]
    two = [record("resnet18", 2, dense=1.0, aligned=1.0)]
    assert x86_page.scaling(records + two) == [["resnet18", "2.00 x", "4.00 x", "2.00 x", "1.00 x"]]
    assert x86_page.errors(records)[1] == ["swin_t", "1.0e-07", "2.0e-07", "-", "-"]


def test_another_machine_has_a_page_of_its_own(monkeypatch):
    import x86_page

    pages, pictures = {}, []
    monkeypatch.setattr(x86_page, "page", lambda name, *text, more: pages.update({name: text}))
    monkeypatch.setattr(x86_page, "picture", lambda records, name: pictures.append(name))
    made = record("resnet18", 1, dense=0.5) | {"machine": "A Processor (2 cores), 2026"}
    for name in (x86_page.NAME, "x86_other"):
        x86_page.write_page([made], name)
    assert pictures == list(pages) == ["x86_latency", "x86_other"]
    assert [pages[name][0] for name in pages] == ["Latency on x86", "Latency on A Processor"]
    for name, command in (("x86_latency", "x86_latency.py`."), ("x86_other", "x86_latency.py --name x86_other`. A")):
        assert command in pages[name][1] and f"({name}.svg)" in pages[name][1]


def test_an_interrupted_run_goes_on(tmp_path):
    import json

    import x86_latency

    path = tmp_path / "results.jsonl"
    assert x86_latency.load_results(path) == {}
    lines = [json.dumps(record("resnet18", threads, dense=ratio)) for threads, ratio in ((1, 1.0), (2, 1.0), (1, 0.5))]
    path.write_text("\n".join([*lines, lines[0][:40]]))  # the process died while it wrote the last one
    found = x86_latency.load_results(path)
    assert set(found) == {("resnet18", 1), ("resnet18", 2)}
    assert found["resnet18", 1]["variants"]["dense"]["seconds"]["onnxruntime"] == 2.0
