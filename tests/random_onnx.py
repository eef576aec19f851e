"""Random ONNX models, written node by node from a table of steps.

A `Sketch` runs every node as it is written, so shapes need no formulas, and steps that do not fit are taken back. All
choices go through one function `below(n)`, as in random_networks.py. The batch is an open axis.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from random_networks import Below

OPSET = 19
BATCH = 2
LARGEST = 4000
OPSETS = [helper.make_opsetid("", OPSET)]
RANK = {"image": 4, "tokens": 3}
AXIS = {"image": 1, "tokens": 2}
"""Kind of a value -> its channel axis."""

STEPS: dict[str, Callable[["Sketch"], None]] = {}


class Misfit(Exception):
    """This step does not fit here."""


def step(function: Callable[["Sketch"], None]) -> Callable[["Sketch"], None]:
    """Put a step into the table."""
    STEPS[function.__name__] = function
    return function


class Sketch:
    """A model in the making; steps ask it for values and choices, and add nodes."""

    def __init__(self, below: Below) -> None:
        self.below = below
        self.random = np.random.default_rng(below(1000))
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, np.ndarray] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.kinds: dict[str, str] = {}
        self.inputs: dict[str, np.ndarray] = {}
        self.steps: list[str] = []
        self.count = 0

    # ---- choices

    def choice(self, items: Sequence[Any]) -> Any:
        """One of the items; the first is the simplest."""
        return items[self.below(len(items))]

    def number(self, low: int, high: int) -> int:
        """From low to high, both included."""
        if high < low:
            raise Misfit
        return low + self.below(high - low + 1)

    def pick(self, *kinds: str, shape: tuple[int, ...] | None = None) -> str:
        """A value of one of the kinds, often the newest."""
        fits = [name for name, kind in reversed(self.kinds.items()) if not kinds or kind in kinds]
        fits = [name for name in fits if shape is None or self.arrays[name].shape == shape]
        if not fits:
            raise Misfit
        return str(fits[max(0, self.below(2 * len(fits)) - len(fits) + 1) % len(fits)])

    def divisor(self, number: int) -> int:
        """A divisor above 1 and below the number."""
        fits = [d for d in range(2, number) if number % d == 0]
        if not fits:
            raise Misfit
        return int(self.choice(fits))

    # ---- writing

    def name(self, prefix: str) -> str:
        """A name that is not taken."""
        self.count += 1
        return f"{prefix}{self.count}"

    def store(self, array: Any, prefix: str = "c") -> str:
        """A stored tensor."""
        name = self.name(prefix)
        self.stored[name] = self.arrays[name] = np.asarray(array)
        return name

    def ints(self, *numbers: int) -> str:
        """A stored vector of whole numbers."""
        return self.store(np.array(numbers, dtype=np.int64))

    def weight(self, *shape: int) -> str:
        """A stored tensor of random numbers."""
        fan = np.prod(shape[1:]) ** 0.5 if len(shape) > 1 else 2.0
        return self.store((self.random.standard_normal(shape) / max(fan, 1)).astype(np.float32), "w")

    def node(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        """Add a node and run it; the name of its output, or names where there are several."""
        names = [self.name("v") for _ in range(outputs)]
        node = helper.make_node(op, inputs, names, name=names[0], **attrs)
        graph = helper.make_graph(
            [node], "g", [helper.make_value_info(n, onnx.TypeProto()) for n in inputs if n],
            [helper.make_value_info(n, onnx.TypeProto()) for n in names],
        )  # fmt: skip
        try:
            run = ReferenceEvaluator(helper.make_model(graph, opset_imports=OPSETS))
            found = run.run(None, {n: self.arrays[n] for n in inputs if n})
        except Exception as error:  # the evaluator says in many ways that a node does not fit
            raise Misfit from error
        if any(array.size > LARGEST or not array.size for array in found):
            raise Misfit
        self.nodes.append(node)
        self.arrays.update(zip(names, found, strict=True))
        return names[0] if outputs == 1 else names

    def keep(self, name: str, kind: str) -> str:
        """Let later steps use a value."""
        array = self.arrays[name]
        low, high = array.min(), array.max()
        if array.ndim != RANK[kind] or array.shape[0] != BATCH or not -100 < low < high < 100 or high - low < 1e-3:
            raise Misfit
        self.kinds[name] = kind
        return name

    def attempt(self, function: Callable[["Sketch"], None]) -> None:
        """Run a step; take it back where it does not fit."""
        nodes, kinds = len(self.nodes), dict(self.kinds)
        try:
            function(self)
            self.steps.append(function.__name__)
        except Misfit:
            del self.nodes[nodes:]
            self.kinds = kinds

    # ---- sizes

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape for the batch of the sketch."""
        return self.arrays[name].shape

    def kind(self, name: str) -> tuple[str, int, int]:
        """Kind, channel axis and width of a value."""
        kind = self.kinds[name]
        return kind, AXIS[kind], self.shape(name)[AXIS[kind]]

    def size(self, name: str, axis: int) -> str:
        """One size as a vector of one number, computed in one of several ways."""
        shape = self.node("Shape", name)
        style = self.below(3)
        if style == 0:
            return str(self.node("Slice", shape, self.ints(axis), self.ints(axis + 1), self.ints(0)))
        if style == 1:
            return str(self.node("Gather", shape, self.ints(axis)))
        picked = self.node("Gather", shape, self.store(np.int64(axis)))
        return str(self.node("Unsqueeze", picked, self.ints(0)))

    def reshape(self, name: str, source: str, sizes: Sequence[Any]) -> str:
        """A Reshape to sizes: numbers, or (axis of the source, divisor, factor); written down or computed."""
        computed = self.below(2) == 1
        parts = []
        for place, size in enumerate(sizes):
            axis, divisor, factor = size if isinstance(size, tuple) else (None, 1, size)
            if axis is None:
                parts.append(self.ints(factor))
            elif not computed and place == 0 and axis == 0:
                parts.append(self.ints(0))
            elif not computed:
                parts.append(self.ints(self.shape(source)[axis] // divisor * factor))
            else:
                part = self.size(source, axis)
                part = part if divisor == 1 else self.node("Div", part, self.ints(divisor))
                parts.append(part if factor == 1 else self.node("Mul", part, self.ints(factor)))
        if computed:
            target = self.node("Concat", *parts, axis=0)
        else:
            target = self.ints(*(int(self.stored[part][0]) for part in parts))
        return str(self.node("Reshape", name, target))

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        """The model."""
        used = {name for node in self.nodes for name in node.input}
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *array.shape[1:]])
            for name, array in self.inputs.items()
        ]
        results = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *self.shape(name)[1:]]) for name in outputs
        ]
        stored = [numpy_helper.from_array(array, name) for name, array in self.stored.items() if name in used]
        graph = helper.make_graph(self.nodes, "random", inputs, results, stored)
        return helper.make_model(graph, opset_imports=OPSETS, ir_version=9)


def sketch(below: Below, longest: int = 9, steps: dict[str, Callable[[Sketch], None]] | None = None) -> Sketch:
    """A random model of up to `longest` steps; its last outputs are named by `finish`."""
    import random_onnx_steps  # noqa: F401  fills the table

    table = list((steps or STEPS).values())
    s = Sketch(below)
    kind = s.choice(["image", "tokens"])
    shape = {"image": (BATCH, 3, 4, 4), "tokens": (BATCH, 4, 6)}[kind]
    s.inputs["x"] = s.arrays["x"] = s.random.standard_normal(shape).astype(np.float32)
    width = s.choice([8, 12, 6])
    if kind == "image":
        s.keep(s.node("Conv", "x", s.weight(width, 3, 3, 3), s.weight(width), pads=[1] * 4), kind)
    else:
        s.keep(s.node("Add", s.node("MatMul", "x", s.weight(6, width)), s.weight(width)), kind)
    for _ in range(2 + below(longest - 1)):
        s.attempt(table[below(len(table))])
    return s


def finish(s: Sketch) -> onnx.ModelProto:
    """A last layer on every value that nothing reads."""
    read = {name for node in s.nodes for name in node.input}
    outputs = []
    for name in [name for name in s.kinds if name not in read][-3:]:
        kind, _, width = s.kind(name)
        weight = s.weight(3, width, 1, 1) if kind == "image" else s.weight(width, 3)
        outputs.append(s.node("Conv" if kind == "image" else "MatMul", name, weight))
    return s.model(outputs)
