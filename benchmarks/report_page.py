"""A report with everything in it, of a trained CIFAR-10 ResNet-20: the page, and the pictures of `docs/report.md`.

    GRAPHPRUNE_DATA=... python benchmarks/report_page.py [--out build/report] [--no-times]

The network is pruned to half of its multiply-adds, compiled and timed, and swept over sparsities and criteria, refitted
on unlabelled images. The sweep is kept, so that it can be interrupted. A few minutes, and Chromium for the pictures.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

import graphprune
from cifar import accuracy, data_folder, load
from common import ROOT, console
from graphprune.bench import bench_pair

sys.path.insert(0, str(ROOT / "tests"))
IMAGES = ROOT / "docs" / "images"
SPARSITIES = (0.2, 0.3, 0.4, 0.5, 0.6)
CRITERIA = ("bn_scale", "l2", "random")
CALIBRATION, SCORED = 128, 1000


def main() -> None:
    """Sweep, prune, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "report")
    parser.add_argument("--no-times", action="store_true", help="leave latencies out, where the machine is busy")
    given = parser.parse_args()
    out = given.out
    dense, images, (test, labels) = _trained()
    data = list(images.split(64))

    def score(model: Any) -> float:
        return accuracy(model, test, labels)

    example = torch.zeros(1, 3, 32, 32)
    options: dict[str, Any] = {"data": data, "recover": True, "example_inputs": example}
    sweep = graphprune.sweep(
        dense, SPARSITIES, score=score, budgets="macs", criteria=CRITERIA, out=out / "sweep.jsonl", **options
    )
    console.print(sweep.table("macs"))
    slim = graphprune.optimize(dense, 0.5, budget="macs", multiple_of=8, example_inputs=example)
    bench = None if given.no_times else bench_pair(dense, slim, example)
    for table in bench.tables() if bench else ():
        console.print(table)
    page = graphprune.write_report(
        dense,
        out / "report.html",
        slim=slim,
        example_inputs=example,
        bench=bench,
        sweep=sweep,
        title="ResNet-20, CIFAR-10",
        plots=out / "plots",
    )
    _pictures(page)
    console.print(f"written to {page}, {IMAGES / 'report.png'} and {IMAGES / 'report-map.png'}")


def _trained() -> tuple[Any, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """The network, images to calibrate on, and those to score with."""
    folder = data_folder()
    from resnet_cifar import resnet

    dense = resnet(20, folder / "cifar10_models" / "resnet20_cifar10.pt")
    return dense, load("train", CALIBRATION)[0], load("test_a", SCORED)


def _pictures(page: Path) -> None:
    """The head of the page, and its coupling map in the dark."""
    from PIL import Image

    from browser import Browser, chromium

    browser = Browser(chromium())
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, anchor, height, dark in (("report", "", 1000, False), ("report-map", "map", 640, True)):
        browser.open(page, 1200, height, dark)
        browser.run(f"document.documentElement.style.scrollBehavior = 'auto'; location.hash = '{anchor}'")
        browser.screenshot(IMAGES / f"{name}.png")
        with Image.open(IMAGES / f"{name}.png") as image:
            small = image.convert("RGB").quantize(256)
        small.save(IMAGES / f"{name}.png", optimize=True)
    browser.close()


if __name__ == "__main__":
    main()
