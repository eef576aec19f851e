"""A framework-neutral view of a program: nodes, values, leaves. It is read for analysis and never edited."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Value:
    """One tensor of the program.

    `kind` is "input", "parameter", "buffer", "constant" (a tensor stored in the model) or "computed".
    The first kinds but "input" are leaves: storages that a plan may slice. `uses` counts consumers. `numbers` are
    those of a stored tensor of whole numbers, which may be positions that are looked up. "uniform" is a computed one
    that holds one number everywhere.
    """

    name: str
    shape: Shape
    dtype: str
    kind: str = "computed"
    uses: int = 0
    numbers: NDArray[np.int64] | None = None

    @property
    def is_leaf(self) -> bool:
        """True where the tensor is stored in the model."""
        return self.kind in ("parameter", "buffer", "constant")

    def __repr__(self) -> str:
        return f"%{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(slots=True, eq=False)
class Node:
    """One operation in the canonical vocabulary of `graphprune.ops`.

    `scope` is the path of the module that ran it; `measured` is False for nodes that run in training only
    (auxiliary heads): they couple channels but cost nothing at inference. `call` is the frontend's own handle.
    """

    name: str
    op: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    scope: str = ""
    measured: bool = True
    call: Any = None

    def __str__(self) -> str:
        return f"{self.scope} ({self.op})" if self.scope else self.name

    def __repr__(self) -> str:
        attrs = ", ".join(f"{key}={value}" for key, value in self.attrs.items())
        reads = ", ".join("none" if value is None else f"%{value.name}" for value in self.inputs)
        writes = ", ".join(map(repr, self.outputs))
        return f"{writes} = {self.op}({reads}){'{' + attrs + '}' if attrs else ''}  # {self.scope or 'top'}"


@dataclass(slots=True, eq=False)
class Graph:
    """A program in execution order.

    `leaves` maps the first name of every stored tensor to its value, `aliases` further names of tied tensors to the
    first one. `numeric` tells that real numbers were at hand, so that sizes may depend on them. `alignments` are the
    numbers whose multiples suit, as channel counts, what runs the program: the best first.
    """

    nodes: list[Node] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    leaves: dict[str, Value] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    numeric: bool = False
    alignments: tuple[int, ...] = (1,)

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, leaves, then what the nodes compute."""
        yield from self.inputs
        yield from self.leaves.values()
        for node in self.nodes:
            yield from node.outputs

    def __str__(self) -> str:
        head = "graph(" + ", ".join(map(repr, self.inputs)) + ")"
        tail = "return " + ", ".join(f"%{value.name}" for value in self.outputs)
        return "\n".join([head, *(f"  {node!r}" for node in self.nodes), f"  {tail}"])
