"""Run an ONNX model over batches from one value of interest to the next, so that weights can change in between.

ONNX Runtime cannot stop in the middle of a run: the part of the model between two stops becomes a model of its own,
which starts from the values that the earlier ones gave. All in all every node runs about once.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import DataError, GraphPruneError
from .batches import Batch
from .read import captured
from .run import session_of

Array = NDArray[Any]
Values = dict[str, Array]
Sessions = dict[tuple[tuple[str, ...], tuple[str, ...]], Any]


THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Walk:
    """A model on its way through some batches.

    `known` holds, batch by batch, the values that what is still to run reads. `sessions` may be shared by walks over
    one model whose weights stay: parts are built once then.
    """

    def __init__(self, model: ir.Model, batches: Sequence[Batch], sessions: Sessions | None = None) -> None:
        self.model, self.batches, self.sessions = model, batches, sessions
        self.known: list[Values] = [dict(batch.feeds) for batch in batches]
        self._producers = {value.name or "": node for node in model.graph for value in node.outputs}
        self._place = {node: place for place, node in enumerate(model.graph)}
        self._readers: dict[str, set[ir.Node]] = {}
        for node in model.graph:
            for name in _reads(node):
                self._readers.setdefault(name, set()).add(node)
        self._done: set[ir.Node] = set()
        self._outputs = {value.name or "" for value in model.graph.outputs}

    def at(self, names: Iterable[str], moving: Collection[ir.Node] = ()) -> list[Values]:
        """Values by name, batch by batch. What `moving` nodes give, and all that follows, is not remembered.

        Raises `DataError` where a batch does not run.
        """
        names = list(dict.fromkeys(names))
        have, sessions = set(self.known[0]), {} if self.sessions is None else self.sessions
        nodes = self._before(names, have)
        settled = self._settled(nodes, moving)
        done = self._done | settled
        made = {value.name or "" for node in settled if node.op_type != "Constant" for value in node.outputs}
        kept = {name for name in have | made if name and self._wanted(name, done)}
        outputs = [*(name for name in names if name not in have), *sorted(kept - have - set(names))]
        reads = {name for node in nodes for name in _reads(node)}
        inputs = [name for name in self.known[0] if name in reads]
        found: list[Values] = []
        for place, values in enumerate(self.known):
            values = values | (self._run(inputs, outputs, place, sessions) if outputs else {})
            found.append({name: values[name] for name in names})
            self.known[place] = {name: values[name] for name in kept}
        self._done = done
        return found

    def _wanted(self, name: str, done: set[ir.Node]) -> bool:
        return name in self._outputs or not self._readers.get(name, set()) <= done

    def _before(self, names: Sequence[str], have: set[str]) -> list[ir.Node]:
        """The nodes that give some values from those that are known, in order."""
        found: set[ir.Node] = set()
        left = [name for name in names if name not in have]
        while left:
            producer = self._producers.get(left.pop())
            if producer is not None and producer not in found:
                found.add(producer)
                left += [name for name in _reads(producer) if name not in have]
        return sorted(found, key=self._place.__getitem__)

    def _settled(self, nodes: Sequence[ir.Node], moving: Collection[ir.Node]) -> set[ir.Node]:
        """Those of the nodes that no moving one comes before."""
        open_names: set[str] = set()
        settled: set[ir.Node] = set()
        for node in nodes:
            if node in moving or not open_names.isdisjoint(_reads(node)):
                open_names.update(value.name or "" for value in node.outputs)
            else:
                settled.add(node)
        return settled

    def _run(self, inputs: Sequence[str], outputs: Sequence[str], place: int, sessions: Sessions) -> Values:
        batch, given = self.batches[place], {name: self.known[place][name] for name in inputs}
        key = tuple(inputs), tuple(outputs)
        try:
            if key not in sessions:
                sessions[key] = part_of(self.model, given, outputs)
            found = sessions[key].run(list(outputs), given)
        except GraphPruneError:
            raise
        except Exception as error:  # the runtime raises whatever its kernels raise
            raise unfit(batch, str(error)) from error
        return dict(zip(outputs, found, strict=True))


def unfit(batch: Batch, reason: str) -> DataError:
    """The error that a batch does not fit a model."""
    sizes = {name: array.shape for name, array in batch.feeds.items()}
    return DataError(
        f"the model does not run on {batch.name} with inputs of sizes {sizes}: {reason}. "
        "Give batches of sizes that it takes."
    )


def part_of(model: ir.Model, given: Values, outputs: Sequence[str]) -> Any:
    """A session for the part of a model that gives some values, as they are named, from others."""
    graph = ir.convenience.extract(model.graph, list(given), list(outputs))
    for value in graph.inputs:
        array = given[value.name or ""]
        value.type = value.type or ir.TensorType(ir.DataType.from_numpy(np.asarray(array).dtype))
        value.shape = ir.Shape([None] * np.ndim(array))
    functions = [function.clone() for function in model.functions.values()]
    part = ir.Model(graph, ir_version=max(model.ir_version, 4), functions=functions)
    return session_of(part, THREADS, optimised=True)


def _reads(node: ir.Node) -> list[str]:
    """The names of the values that a node reads, also inside of its graphs."""
    return [value.name for value in node.inputs if value is not None and value.name] + captured(node)
