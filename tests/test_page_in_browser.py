"""The page of a report: what it holds, that it needs nothing else, and how it behaves in a browser."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from browser import Browser, chromium
from graphprune.explain import group_rows
from helpers import randomise

EVIL = "<script>document['title']='taken'</script>"
QUOTED = "\"><img src=x onerror=document['title']='taken'>"


class Odd(nn.Module):
    """Layers whose names a page must not read as markup."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module(EVIL, nn.Conv2d(3, 24, 3))
        self.add_module(QUOTED, nn.Conv2d(24, 32, 3))
        self.add_module("${norm} {{ 7 * 7 }} \\frac", nn.BatchNorm2d(32))
        self.add_module("last", nn.Conv2d(32, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x).relu()
        return x.softmax(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of a model with odd names: analysed, and pruned, with latencies and a sweep; and the drawings."""
    folder = tmp_path_factory.mktemp("report")
    model, x = randomise(Odd().eval()), torch.randn(1, 3, 8, 8)
    graphprune.write_report(model, folder / "analysed.html", example_inputs=x, title="Odd")
    slim = graphprune.optimize(model, 0.4, example_inputs=x)
    plan = graphprune.plan_of(slim)
    costs = {name: plan.report[name] for name in ("params", "macs")}
    seconds = {"dense": {"artifact": 2e-3, EVIL: 4e-3}, "slim": {"artifact": 1e-3, EVIL: 3e-3}}
    bench = {"seconds": seconds, **costs, "target": "x86", "threads": 2, "difference": {"dense": 1e-6, "slim": 1e-6}}
    head = {"format": "graphprune-sweep-1", "model": "", "function": "", "better": "higher", "score": 0.9}
    lines: list[dict[str, Any]] = [head]
    for name in (EVIL, "l2"):
        for left, score in ((0.5, 0.7), (0.8, 0.85)):
            costs_then = {key: [before, int(before * left)] for key, (before, _) in costs.items()}
            options = {"criterion": name, "sparsity": 1 - left}
            lines.append({"key": f"{name}{left}", "options": options, "costs": costs_then, "score": score})
    error = {"type": "BudgetError", "message": EVIL, "stage": "prune", "own": True}
    lines.append({"key": "x", "options": {"criterion": "l1", "sparsity": 0.99}, "error": error})
    (folder / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {"slim": slim, "bench": bench, "sweep": folder / "sweep.jsonl", "title": EVIL, "plots": folder / "plots"}
    graphprune.write_report(model, folder / "pruned.html", example_inputs=x, **options)
    return folder


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text within its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inner: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.inner:
            self.inner[self.cdata_elem].append(data)


@pytest.mark.parametrize("name", ["analysed", "pruned"])
def test_the_page_needs_nothing_else_and_names_stay_text(folder: Path, name: str):
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    page = Tags(text)
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("script") == kinds.count("style") == 1 and "img" not in kinds
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("href", "src", "srcset", "action", "data", "xlink:href"):
                assert value.startswith("#") or value == "data:,", (tag, value)
    (style,), (script,) = page.inner["style"], page.inner["script"]
    assert not re.search(r"url\(|@import", style) and not re.search(r"fetch|XMLHttp|import\(|eval|innerHTML", script)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert "{{ 7 * 7 }}" in text and EVIL.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;") in text


def test_drawings_are_written(folder: Path):
    names = sorted(path.name for path in (folder / "plots").iterdir())
    whole = ["coupling", "latency", "macs", "params", "sweep-macs", "sweep-params", "widths"]
    assert names == sorted(f"{name}.{ending}" for name in whole for ending in ("png", "svg"))
    for path in (folder / "plots").iterdir():
        start = path.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in path.read_bytes(), path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser(chromium())
    yield browser
    browser.close()


@pytest.mark.parametrize("name", ["analysed", "pruned"])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_quietly_and_fits(browser: Browser, folder: Path, name: str, dark: bool):
    for width in (1280, 768, 390):
        browser.open(folder / f"{name}.html", width, 900, dark)
        assert browser.run("document.documentElement.scrollWidth") <= width, f"wider than {width} pixels"
        assert browser.run("document.querySelectorAll('script').length") == 1
        assert browser.run("document.title").endswith("GraphPrune report")
        assert browser.requests == [(folder / f"{name}.html").as_uri()] and browser.complaints == []
    light = sum(map(int, re.findall(r"\d+", browser.run("getComputedStyle(document.body).backgroundColor"))[:3]))
    assert (light < 3 * 60) is dark


def test_the_browser_tells_of_what_is_wrong(browser: Browser, folder: Path):
    """What the tests above rely on: a page that asks for something, complains and is too wide is told from others."""
    page = folder / "wrong.html"
    page.write_text("<div style='width:999px'>x</div><img src='missing.png'><script>console.error('no')</script>")
    browser.open(page, 390, 800)
    assert len(browser.requests) == 2 and any("no" in text for text in browser.complaints)
    assert browser.run("document.documentElement.scrollWidth") > 390
    text = (folder / "analysed.html").read_text().replace("</body>", "<script>document.title=1</script></body>")
    page.write_text(text)
    browser.open(page)
    assert browser.run("document.title") != "taken" and browser.complaints, "the policy stops other scripts"


def shown(browser: Browser, table: str) -> list[str]:
    rows = f"[...document.querySelectorAll('#{table} tbody tr')]"
    return list(browser.run(f"{rows}.filter(row => row.offsetParent !== null).map(row => row.id)"))


def test_search_and_status_filter_groups(browser: Browser, folder: Path):
    model, x = Odd().eval(), torch.randn(1, 3, 8, 8)
    rows = group_rows(graphprune.analyze(model, x))
    browser.open(folder / "analysed.html")
    assert len(shown(browser, "groups-table")) == len(rows)

    def search(words: str) -> list[str]:
        browser.run(
            "(field => { field.value = ''; field.focus(); })(document.querySelector('[data-filters=groups-table]'))"
        )
        browser.type(words) if words else browser.run("document.activeElement.dispatchEvent(new Event('input'))")
        return shown(browser, "groups-table")

    def wanted(*words: str) -> int:
        texts = [" ".join([row.status, row.reason, row.unlock, *row.members]).lower() for row in rows]
        return sum(all(word in text for word in words) for text in texts)

    assert len(search("SOFTMAX over")) == wanted("softmax", "over") == 1
    assert len(search("onerror")) == wanted("onerror") > 0
    assert search("no such tensor") == []
    assert browser.run("document.querySelector('[data-shown=groups-table]').textContent") == f"0 of {len(rows)} rows"
    assert len(search("")) == len(rows)
    browser.run("document.querySelector('.chips [data-status=locked]').click()")
    locked = shown(browser, "groups-table")
    assert len(locked) == sum(row.status == "locked" for row in rows) < len(rows)
    assert browser.run("document.querySelectorAll('.chips [aria-pressed=true]').length") == 1
    assert len(search("softmax")) == 1


def test_tables_are_sorted_by_key_and_keyboard(browser: Browser, folder: Path):
    browser.open(folder / "pruned.html")
    values = "[...document.querySelectorAll('#layers-table tbody tr')].map(row => Number(row.cells[4].dataset.value))"
    start = browser.run(values)
    browser.run("document.querySelectorAll('#layers-table thead button')[4].focus()")
    browser.press("Enter")
    assert browser.run(values) == sorted(start, reverse=True) != start
    browser.press("Enter")
    assert browser.run(values) == sorted(start)
    assert browser.run("document.querySelector('#layers-table [aria-sort]').cellIndex") == 4


def test_colours_can_be_chosen(browser: Browser, folder: Path):
    colour = "getComputedStyle(document.body).backgroundColor"
    browser.open(folder / "pruned.html", dark=False)
    seen = []
    for _ in range(3):
        browser.run("document.getElementById('theme').click()")
        seen.append(browser.run(colour))
    light, dark, system = seen
    assert light == system != dark
    browser.run("document.getElementById('theme').click(); document.getElementById('theme').click()")
    browser.open(folder / "pruned.html", dark=False)
    assert browser.run(colour) == dark, "the choice is remembered"
    browser.run("document.getElementById('theme').click()")


def test_the_map_leads_to_the_tables(browser: Browser, folder: Path):
    browser.open(folder / "pruned.html")
    browser.run("document.querySelector('.chips [data-status=inexact]').click()")
    assert shown(browser, "groups-table") == []
    target = browser.run("document.querySelector('#map-drawing .rail').getAttribute('href')").removeprefix("#")
    browser.run(f"location.hash = '{target}'; new Promise(done => setTimeout(done, 50))")
    assert shown(browser, "groups-table") == [target]
    browser.run("document.querySelector('#map-drawing .wire').focus()")
    assert not browser.run("document.getElementById('tip').hidden")
    assert EVIL in browser.run("document.getElementById('tip').textContent")
    width = "document.getElementById('map-drawing').getBoundingClientRect().width"
    before = browser.run(width)
    browser.run("document.querySelector('[data-zoom=\"1.25\"]').click()")
    assert browser.run(width) == pytest.approx(1.25 * before, rel=1e-3)
    browser.run("document.querySelector('[data-zoom=fit]').click()")
    assert browser.run("(f => f.scrollWidth <= f.clientWidth)(document.querySelector('.map'))")


def test_bars_are_as_long_as_their_figures(browser: Browser, folder: Path):
    browser.open(folder / "pruned.html")
    lengths = browser.run("[...document.querySelectorAll('.times .bar i')].map(i => i.getBoundingClientRect().width)")
    longest = max(lengths)
    assert [length / longest for length in lengths] == pytest.approx([0.5, 0.25, 1.0, 0.75], abs=0.01)
    width = "getBoundingClientRect().width"
    found = browser.run(
        "[...document.querySelectorAll('#widths-list li')].map(row => [row.querySelector('.figures').textContent, "
        f"row.querySelector('.bar').{width}, row.querySelector('i').{width}])"
    )
    assert len(found) == 3
    for text, whole, part in found:
        numbers = [int(number.replace(",", "")) for number in text.split(" → ")]
        assert part / whole == pytest.approx(numbers[-1] / 32, abs=0.01), "32 is the most channels"
