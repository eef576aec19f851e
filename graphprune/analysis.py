"""The dependency analysis: run the rules over a graph, solve, and answer questions about what hangs together."""

import time
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .collector import collector_paused
from .criteria import resolve
from .errors import DataError, OptionError, TraceError
from .graph import Graph, Node, Value
from .labels import Equations, Labels, Layout, Reason, Solution
from .ops import OPS
from .policy import DEFAULT, Policy
from .statistics import GRADIENTS, SENSITIVITIES

if TYPE_CHECKING:
    import networkx

    from .budget import Budget
    from .cost import Cost
    from .plan import Plan
    from .statistics import Statistics
    from .widths import Limit, Widths

UNUSED = "is not used when the model runs"


@dataclass(eq=False)
class Analysis:
    """What hangs together in a model.

    `graph` is the program, `layouts` the labels of every value, `solution` the class of every label.
    `weights(name)` gives a stored tensor as numpy; `inputs` describes the example inputs (JSON-able);
    `seconds` tells what the stages cost; `collector` runs the model over calibration data.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    analysis = graphprune.analyze(net, torch.randn(1, 4))
    print(analysis.explain())
    plan = analysis.plan(sparsity=0.5)
    slim = plan.apply(net)
    ```
    """

    graph: Graph
    layouts: dict[Value, Layout]
    equations: Equations
    solution: Solution
    weights: Callable[[str], NDArray[Any]]
    inputs: Any = None
    seconds: dict[str, float] = field(default_factory=dict)
    collector: Callable[..., "Statistics"] | None = field(default=None, repr=False)

    @classmethod
    @collector_paused()
    def of(
        cls, graph: Graph, weights: Callable[[str], NDArray[Any]], inputs: Any = None, policy: Policy = DEFAULT
    ) -> "Analysis":
        """Analyse a graph that a frontend has read."""
        start = time.process_time()
        equations, layouts = propagate(graph, policy)
        solution = equations.solve()
        seconds = {"labels": time.process_time() - start}
        return cls(graph, layouts, equations, solution, weights, inputs, seconds)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names and shapes of all stored tensors: which models a plan fits."""
        from .plan import fingerprint

        return fingerprint({name: leaf.shape for name, leaf in self.graph.leaves.items()})

    @cached_property
    def leaf_classes(self) -> dict[tuple[str, int], Labels]:
        """The class of every position of every labelled axis of every stored tensor."""
        classes = self.solution.classes
        return {key: classes[labels] for key, labels in self.equations.leaf_axes.items()}

    @cached_property
    def stored(self) -> NDArray[np.bool_]:
        """Which classes are those of stored tensors."""
        stored = np.zeros(self.solution.count, dtype=bool)
        for classes in self.leaf_classes.values():
            stored[classes.ravel()] = True
        return stored

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """Which classes may be dropped: those of stored tensors that no lock holds."""
        return self.stored & (self.solution.locked < 0)

    def cost(self) -> "Cost":
        """Parameters, multiply-accumulates, bytes and peak activation memory of the model as it is."""
        from .cost import CostModel

        return CostModel.of(self).cost(np.ones(self.solution.count, dtype=bool))

    def plan(
        self,
        sparsity: float = 0.5,
        *,
        budget: "Budget" = "params",
        criterion: Any = "l2",
        scope: str = "global",
        keep: Iterable[str] = (),
        multiple_of: int | None = None,
        exact: bool | str = "prefer",
        seed: int = 0,
        allocate: str | None = None,
        widths: "Widths | None" = None,
        min_width: "Limit" = None,
        reduction: str | None = None,
        normalizer: str | None = None,
        data: Any = None,
        loss: Callable[..., Any] | None = None,
    ) -> "Plan":
        """Decide what to drop so that at most `1 - sparsity` of the budgeted quantity is left.

        Arguments are those of `graphprune.optimize`. Raises `BudgetError` where the budget cannot be met,
        `CriterionError`, `DataError` or `WeightsError` where the scores cannot be computed, `OptionError` for other
        values.
        """
        from .budget import Options, make_plan

        policy = self.equations.policy
        options = Options(
            sparsity,
            budget,
            criterion,
            scope,
            tuple(keep),
            multiple_of,
            exact,
            seed,
            policy,
            allocate=allocate,
            widths=widths or {},
            min_width=min_width,
            reduction=reduction,
            normalizer=normalizer,
        )
        options.check()
        return make_plan(self, options, statistics=self.collect(resolve(criterion).needs, data, loss))

    def collect(
        self,
        needs: Iterable[str],
        data: Any,
        loss: Callable[..., Any] | None = None,
        progress: Callable[[str, int, int | None], None] | None = None,
    ) -> "Statistics | None":
        """Run the model over calibration data for what a criterion needs; None where it needs nothing.

        Raises `DataError` for data that is missing, empty, of the wrong form, or on which the model does not run, and
        `OptionError` for a loss that nothing looks at.
        """
        wanted = frozenset(needs)
        if loss is not None and not wanted & {GRADIENTS, SENSITIVITIES}:
            raise OptionError("loss= is for criteria that look at gradients, such as 'taylor', and this one does not")
        if not wanted:
            return None
        if data is None:
            raise DataError("this criterion looks at data: pass data=, an iterable of batches")
        if self.collector is None:
            raise DataError("this kind of model cannot be run over calibration data: choose another criterion")
        return self.collector(data, wanted, loss, progress)

    def locked(self, classes: Labels, text: str, unlock: str = "") -> "Analysis":
        """The same analysis where these classes stay as well, for the given reason."""
        locked = self.solution.locked.copy()
        locked[classes[locked[classes] < 0]] = len(self.equations.locks)
        equations = copy(self.equations)
        equations.locks = [*self.equations.locks, (np.zeros(1, dtype=np.int64), Reason(None, text, unlock))]
        return replace(self, equations=equations, solution=replace(self.solution, locked=locked))

    def explain(self, limit: int | None = None) -> str:
        """A table of the groups: how many, their parameters and MACs, what locks them, how to unlock."""
        from .explain import explain

        return explain(self, limit)

    def to_networkx(self) -> "networkx.Graph":
        """The coarse graph: parameter axes and the links between them, as a networkx graph."""
        from .explain import to_networkx

        return to_networkx(self)

    def to_dot(self) -> str:
        """The coarse graph in Graphviz's language."""
        from .explain import to_dot

        return to_dot(self)

    def to_graphml(self) -> str:
        """The coarse graph as GraphML text."""
        from .explain import to_graphml

        return to_graphml(self)


def _spread(equations: Equations, node: Node, layout: Layout) -> list[Layout]:
    """One layout for all outputs of the first one's shape (values and indices); others fix what they depend on."""
    if len(node.outputs) == 1:
        return [layout]
    shape = node.outputs[0].shape
    for value in node.outputs[1:]:
        if value.shape != shape and value.uses:
            for array in layout:
                equations.lock(array.labels, f"has another output that is read: {value!r}")
    return [layout if value.shape == shape else () for value in node.outputs]


def _live(graph: Graph) -> set[int]:
    """The nodes, by id, on whose results an output depends."""
    live, wanted = set[int](), {id(value) for value in graph.outputs}
    for node in reversed(graph.nodes):
        if any(id(value) in wanted for value in node.outputs):
            live.add(id(node))
            wanted.update(id(value) for value in node.inputs if value is not None)
    return live


def _without_single(equations: Equations, value: Value, layout: Layout) -> Layout:
    """Axes of size 1 carry no labels: their only position stays."""
    left = []
    for array in layout:
        for axis in [axis for axis in array.axes if value.shape[axis] == 1]:
            if len(array.axes) == 1:
                equations.lock(array.labels, "is the only position of an axis")
            where = array.axes.index(axis)
            array = array._replace(
                axes=array.axes[:where] + array.axes[where + 1 :], labels=array.labels.squeeze(where)
            )
        if array.axes:
            left.append(array)
    return tuple(left)


def propagate(graph: Graph, policy: Policy = DEFAULT) -> tuple[Equations, dict[Value, Layout]]:
    """Run the rule of every node in order; lock what leaves the program and what never enters it."""
    equations = Equations(policy)
    layouts = equations.fresh_leaves(graph.leaves.values())
    layouts.update((value, ()) for value in graph.inputs)
    unknown, live = OPS["unknown"], _live(graph)
    for node in graph.nodes:
        equations.node = node
        rule = OPS.get(node.op, unknown)
        inexact = len(equations.inexact)
        arguments = [() if value is None else layouts.setdefault(value, ()) for value in node.inputs]
        try:
            result = rule(equations, node, *arguments)
            results = result if isinstance(result, list) else _spread(equations, node, result)
            for value, layout in zip(node.outputs, results, strict=True):
                layouts[value] = layout if 1 not in value.shape else _without_single(equations, value, layout)
        except Exception as error:
            raise TraceError(f"the rule for {node!r} failed: {error}. Lock it with a rule of your own.") from error
        if id(node) not in live:  # what it gives reaches no output
            del equations.inexact[inexact:]
    equations.node = None
    for value in graph.outputs:
        for array in layouts.setdefault(value, ()):
            equations.lock(array.labels, "is an output of the program", "the sizes of outputs are kept")
    for leaf in graph.leaves.values():
        if leaf.uses == 0:
            for array in layouts[leaf]:
                equations.lock(array.labels, f"{leaf.name} {UNUSED}", "give example_inputs that reach it")
    return equations, layouts
