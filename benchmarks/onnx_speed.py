"""Time of analysis, plan and apply on ONNX models: two exports and a program of 10,000 nodes.

    python benchmarks/onnx_speed.py

`onnx.shape_inference.infer_shapes` of the same model, a pass over it in C++ that computes sizes alone, is measured in
turn with it, as a unit that any machine has.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import graphprune  # noqa: E402
from common import machine, page, show  # noqa: E402
from onnx_zoo import every_model  # noqa: E402

REPEATS = 5
COLUMNS = ("model", "nodes", "weights", "analyze", "plan", "apply", "together", "shape inference alone")


_ENDS = [(name, TensorProto.FLOAT, ["n", size, 8, 8]) for name, size in (("x", 3), ("y", 4))]


def long_program(nodes: int = 10_000, width: int = 16) -> onnx.ModelProto:
    """Residual blocks of six nodes, of which two compute a size, one after another."""
    random = np.random.default_rng(0)
    weights: list[Any] = []

    def stored(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) * 0.1, name))
        return name

    made = [helper.make_node("Conv", ["x", stored("first", width, 3, 3, 3)], ["s"], pads=[1] * 4)]
    last = "s"
    while len(made) + 6 < nodes:
        n = len(made)
        steps = [
            ("Conv", [last, stored(f"a{n}.w", 2 * width, width, 1, 1), stored(f"a{n}.b", 2 * width)], f"a{n}"),
            ("Relu", [f"a{n}"], f"r{n}"),
            ("Conv", [f"r{n}", stored(f"b{n}.w", width, 2 * width, 1, 1)], f"b{n}"),
            ("Add", [last, f"b{n}"], f"c{n}"),
            ("Shape", [f"c{n}"], f"h{n}"),
            ("Reshape", [f"c{n}", f"h{n}"], f"d{n}"),
        ]
        made += [helper.make_node(op, inputs, [output]) for op, inputs, output in steps]
        last = f"d{n}"
    made.append(helper.make_node("Conv", [last, stored("last", 4, width, 1, 1)], ["y"]))
    ends = [helper.make_tensor_value_info(*end) for end in _ENDS]
    graph = helper.make_graph(made, "long", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def measure(model: onnx.ModelProto) -> list[float]:
    """Seconds of analyze, plan, apply and of shape inference: medians of runs that take turns."""
    runs = []
    for _ in range(REPEATS):
        seconds: list[float] = []

        def timed(function: Callable[[], Any], into: list[float] = seconds) -> Any:
            start = time.perf_counter()
            result = function()
            into.append(time.perf_counter() - start)
            return result

        analysis = timed(lambda: graphprune.analyze(model))
        plan = timed(lambda analysis=analysis: analysis.plan(sparsity=0.5))
        timed(lambda plan=plan: plan.apply(model))
        timed(lambda: onnx.shape_inference.infer_shapes(model, data_prop=True))
        runs.append([*seconds[:3], sum(seconds[:3]), seconds[3]])
    return [statistics.median(column) for column in zip(*runs, strict=True)]


def main() -> None:
    """Measure, print and write the page."""
    models = {name: every_model()[name] for name in ("resnet50", "vit_b_16")}
    loaded = {name: onnx.load(path()) for name, path in models.items()}
    loaded["10,000 nodes"] = long_program()
    graphprune.analyze(long_program(20)).plan(sparsity=0.3)  # what is imported is no part of the time
    rows = []
    for name, model in loaded.items():
        weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
        times = [f"{seconds:.2f} s" for seconds in measure(model)]
        rows.append([name, f"{len(model.graph.node):,}", f"{weights / 1e6:.1f} M", *times])
    show("ONNX: analysis, plan, apply", COLUMNS, rows)
    text = f"""{machine(1, "onnx", "onnx-ir")}.

Medians of {REPEATS} runs in turn. Everything is in: reading and checking the model, analysis, plan at half of the
parameters, the slim model as an `onnx.ModelProto`; verification is not."""
    page("onnx_speed", "Speed on ONNX models", text, (COLUMNS, rows))


if __name__ == "__main__":
    main()
