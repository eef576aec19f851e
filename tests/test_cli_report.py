"""`graphprune report`: which pruned model a page is about, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

import graphprune
from command_line import SHAPE, SMALL, fails, parameters_of, small_net
from graphprune.errors import VerifyError
from graphprune.page import status
from graphprune.report import count


def test_a_page_of_a_model_alone(graphprune_, folder: Path) -> None:
    code, out, err = graphprune_("report", SMALL, "-o", "report.html", "-i", SHAPE)
    assert code == 0, err
    assert "written to report.html" in out
    page = (folder / "report.html").read_text()
    assert "analysis only" in page and count(parameters_of(small_net())) in page and f"<h1>{SMALL}</h1>" in page


@pytest.mark.parametrize("way", ["slim", "plan", "sparsity"])
def test_all_ways_to_a_pruned_model_give_one_page(graphprune_, folder: Path, way: str) -> None:
    options = ("--sparsity", "0.4", "--criterion", "l1")
    if way == "slim":
        graphprune_("optimize", SMALL, "-o", "slim.safetensors", "-i", SHAPE, *options)
    elif way == "plan":
        graphprune_("plan", SMALL, "-o", "plan.json", "-i", SHAPE, *options)
    named = {"slim": ("--slim", "slim.safetensors"), "plan": ("--plan", "plan.json"), "sparsity": options}[way]
    command = ("report", SMALL, "-o", "report.html", "-i", SHAPE, "--title", "Small & fine", *named)
    code, out, err = graphprune_(*command, "--plots", "plots", "--json")
    assert code == 0, err
    told = {"status": "verified: pruned equals masked", "verified": True, "plots": "plots"}
    assert json.loads(out) == {"out": "report.html"} | told
    page = (folder / "report.html").read_text()
    assert "verified: pruned equals masked" in page and "<h1>Small &amp; fine</h1>" in page
    slim = graphprune.optimize(small_net(), 0.4, criterion="l1", example_inputs=torch.zeros(1, 3, 8, 8))
    left = parameters_of(slim)
    assert left < parameters_of(small_net()) and f">{count(left)}</p>" in page
    assert (folder / "plots" / "widths.svg").exists() and (folder / "plots" / "coupling.png").exists()


def test_latencies_measured_or_read(
    graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    options = ("-i", SHAPE, "--sparsity", "0.4", "--multiple-of", "2")
    code, _, err = graphprune_("report", SMALL, "-o", "report.html", "--bench", *options)
    assert code == 0, err
    page = (folder / "report.html").read_text()
    assert "Latency, compiled" in page and "ONNX Runtime" in page
    code, out, err = graphprune_("bench", SMALL, "--budget", "params", "--repeats", "1", "--json", *options)
    assert code == 0, err
    (folder / "bench.json").write_text(out)
    code, _, err = graphprune_("report", SMALL, "-o", "again.html", "--times", "bench.json", *options)
    assert code == 0, err
    assert "Latency, compiled" in (folder / "again.html").read_text()
    fails(
        graphprune_("report", SMALL, "-o", "r.html", "--times", "bench.json", "-i", SHAPE, "--sparsity", "0.6"), "slim"
    )
    assert not (folder / "r.html").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        (("--slim", "slim.safetensors", "--sparsity", "0.5"), "give one of them"),
        (("--plan", "plan.json", "--criterion", "l1"), "--criterion"),
        (("--bench",), "--sparsity"),
        (("--slim", "slim.pt2"), "--plan"),
        (("--bench", "--times", "bench.json", "--sparsity", "0.5"), "--times reads"),
        (("--target", "x86"), "--target is for pruning or --bench"),
        (("--sweep", "absent.jsonl"), "absent.jsonl"),
        (("--times", "absent.json"), "absent.json"),
        (("--plan", "absent.json"), "absent.json"),
    ],
)
def test_contradictions_are_one_clear_line(graphprune_, folder: Path, options: tuple[str, ...], said: str) -> None:
    before = sorted(folder.iterdir())
    fails(graphprune_("report", SMALL, "-o", "report.html", "-i", SHAPE, *options), said)
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_exit_codes_tell_what_failed(graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("report", SMALL, "-o", "report.html", "-i", SHAPE)
    fails(graphprune_(*command, "--sparsity", "0.999"), "sparsity=0.999", code=4)
    assert not (folder / "report.html").exists()

    def differs(*_, **__):
        raise VerifyError("it differs at node 2")

    monkeypatch.setattr(status, "compare", differs)
    code, out, err = graphprune_(*command, "--sparsity", "0.4")
    assert code == 3 and "node 2" in err and "differs" in out
    assert "it differs at node 2" in (folder / "report.html").read_text()


def test_a_page_ends_in_html(graphprune_, folder: Path) -> None:
    assert graphprune_("report", SMALL, "-o", "report.pdf", "-i", SHAPE)[0] == 2
