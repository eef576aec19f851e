"""Calls at a steady pace, as of a camera: time of one call after a pause, of the artifact and of ONNX Runtime.

    python benchmarks/paced.py [--calls 60] [--only mobilenet_v2 ...]

Between two calls caches and the tables that addresses are looked up in fill with other things, so that a call takes
longer than in a row. Large pages (`backends/large_pages.py`) make that less.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import graphprune
from common import console, machine, page, show
from graphprune.backends import peers, runtime
from graphprune.backends.artifact import Artifact
from graphprune.backends.targets import get_target
from x86_models import build

MODELS = ("mobilenet_v2", "shufflenet_v2_x1_0", "resnet18", "resnet50")
PAUSES = (0, 5, 33, 100)
PROGRAMS = ("artifact", "artifact, small pages", "ONNX Runtime")
COLUMNS = (
    "model",
    "pause, ms",
    *(f"{name}, ms" for name in PROGRAMS),
    "artifact / small pages",
    "artifact / ONNX Runtime",
)
TEXT = """
Models pruned to half of their multiply-adds (`target="x86"`), one 224x224 image, one thread. A program is called once
after each pause (0: in a row); programs take turns, and the table has medians over {calls} calls of each. *Small
pages*: the same artifact with weights and intermediate results where the runtime puts them. Printed by
`benchmarks/paced.py` on

{machine}; target {target}.
"""
Call = Callable[[], Any]


def programs(name: str) -> dict[str, Call]:
    """What is compared, ready to be called."""
    dense, example = build(name)
    slim = graphprune.optimize(dense, sparsity=0.5, budget="macs", example_inputs=example, target="x86").eval()
    artifact = graphprune.compile(slim, "x86", example_inputs=example, threads=1)
    worth, runtime.WORTH = runtime.WORTH, 1 << 62
    plain = Artifact(artifact.library, artifact.manifest, 1)
    runtime.WORTH = worth
    others = peers.onnx_runtime(slim, (example,), 1)
    image = example.numpy()
    return dict(zip(PROGRAMS, (lambda: artifact(image), lambda: plain(image), others), strict=True))


def paced(calls: dict[str, Call], pause: float, count: int) -> list[float]:
    """Median milliseconds of a call after so many seconds of rest, for each program."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            if pause == 0:
                for _ in range(3):  # back in its stride
                    call()
            time.sleep(pause)
            start = time.perf_counter()
            call()
            samples[name].append(1e3 * (time.perf_counter() - start))
    return [median(values) for values in samples.values()]


def main() -> None:
    """Print the table and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS)
    options = parser.parse_args()
    rows = []
    for name in options.only:
        calls = programs(name)
        for call in calls.values():
            call()
        for pause in PAUSES:
            times = paced(calls, pause / 1e3, options.calls)
            ratios = [times[0] / other for other in times[1:]]
            rows.append([name, str(pause), *(f"{t:.2f}" for t in times), *(f"{ratio:.2f}" for ratio in ratios)])
            console.print(*rows[-1])
    show("paced calls", COLUMNS, rows)
    if tuple(options.only) == MODELS:
        where = machine(1, "apache-tvm", "onnxruntime")
        text = TEXT.format(calls=options.calls, machine=where, target=get_target("x86").name)
        page("paced", "Calls at a steady pace", text, (COLUMNS, rows))


if __name__ == "__main__":
    main()
