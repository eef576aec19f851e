"""The frontend for TVM: a tvm.ir.IRModule with a Relax function whose weights are bound."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from ...analysis import Analysis
from ...collector import collector_paused
from ...errors import ApplyError, FileFormatError, UnsupportedModelError
from ...masks import Masks, masked_names
from ...packing import packed, unpacked
from ...places import dropping
from ...plan import Plan
from ...policy import DEFAULT, Policy
from ...shapes import living, mismatches
from ...transfer import fitted
from . import run
from .inputs import KEY, Feeds, describe, normalise, random_inputs, shapes_in, symbols_of
from .program import Program
from .read import analyse, read, static
from .rebuild import Rebuilder, constant_like
from .slim import slim_module
from .widen import Masker, is_wide

PLAN = "graphprune.plan"
"""The attribute of a slim module under which the plan that made it travels."""

MASKS = "graphprune.masks"
"""The attribute for all facts of masks but the bits, which are those of the zeros in the constants."""


@collector_paused()
def analyze(module: tvm.IRModule, example_inputs: Any = None, policy: Policy = DEFAULT) -> Analysis:
    """Analyse a module. Raises `UnsupportedModelError` or `ExampleInputsError`."""
    program = Program.of(module)
    feeds = None if example_inputs is None else normalise(program, example_inputs)
    return _analysed(program, {} if feeds is None else {n: a.shape for n, a in feeds.items()}, feeds, policy)


def _analysed(program: Program, shapes: Mapping[str, tuple[int, ...]], feeds: Feeds | None, policy: Policy) -> Analysis:
    sized = static(program, symbols_of(program, shapes or None))
    analysis = analyse(sized, None, policy)
    analysis.inputs = describe(analysis.graph, feeds)
    if not any(leaf.kind == "parameter" for leaf in analysis.graph.leaves.values()):
        raise UnsupportedModelError(
            f"function {program.entry.name_hint} holds no weights: where they are parameters, bind them first with "
            f"relax.transform.BindParams({program.entry.name_hint!r}, params)(module)"
        )
    return analysis


@collector_paused()
def apply(
    module: tvm.IRModule, plan: Plan, example_inputs: Any = None, analysis: Analysis | None = None
) -> tvm.IRModule:
    """A slim module, whose attributes hold the plan."""
    program = Program.of(module)
    plan = replace(plan, inputs=_own_form(plan.inputs, program))
    feeds = None if example_inputs is None else normalise(program, example_inputs)
    shapes = {name: array.shape for name, array in feeds.items()} if feeds else shapes_in(plan.inputs or {KEY: {}})
    if analysis is None:
        analysis = _analysed(program, shapes, feeds, plan.policy)
        plan = replace(plan, inputs=plan.inputs or analysis.inputs)
    else:
        shapes = shapes_in(analysis.inputs)
    own = analysis
    plan, _ = fitted(plan, {name: leaf.shape for name, leaf in own.graph.leaves.items()}, lambda: own)
    slim = slim_module(program, plan, analysis)
    narrow = Program.of(slim)
    graph = read(static(narrow, symbols_of(narrow, shapes or None)))
    problem = next(mismatches(analysis, plan, graph, living(analysis, plan)), None)
    if problem is not None:
        blame = np.unique(analysis.solution.classes[problem.labels])
        raise ApplyError(f"{problem.text}. Keep its channels (keep=...).", blame)
    if graph.leaves.keys() != analysis.graph.leaves.keys():
        raise ApplyError("internal: TVM gave the steps of the slim program other names")
    earlier = plan_of(module)
    slim = slim.with_attr(PLAN, packed((plan if earlier is None else earlier.then(plan)).to_json()))
    return slim.without_attr(MASKS) if MASKS in (slim.attrs or {}) else slim


def _own_form(inputs: Any, program: Program) -> Any:
    """The inputs that a plan describes, where they are those of this program; None for a plan of another form."""
    found = (inputs or {}).get(KEY, {})
    return inputs if found.keys() == program.inputs.keys() else None


def plan_of(module: tvm.IRModule) -> Plan | None:
    """The plan that made a slim module. Raises `FileFormatError` where its attribute is damaged."""
    plan = _attribute(module, PLAN)
    return None if plan is None else Plan.from_json(plan)


def _attribute(module: tvm.IRModule, name: str) -> str | None:
    text = (module.attrs or {}).get(name)
    try:
        return None if text is None else unpacked(str(text))
    except ValueError as error:
        raise FileFormatError(f"attribute {name!r} of the module is damaged ({error}): remove it") from error


def inputs_of(module: tvm.IRModule, plan: Any, example_inputs: Any, seed: int) -> Feeds:
    """Random inputs in the form of the example inputs, or of those that the plan describes."""
    program = Program.of(module)
    if example_inputs is not None:
        feeds = normalise(program, example_inputs)
        graph = read(static(program, symbols_of(program, {name: array.shape for name, array in feeds.items()})))
        return random_inputs(describe(graph, feeds), seed)
    described = _own_form(getattr(plan, "inputs", None), program)
    if described is None:
        described = describe(read(static(program, symbols_of(program))), None)
    return random_inputs(described, seed)


def example_inputs_of(module: tvm.IRModule, example_inputs: Any) -> Any:
    """Example inputs by the names of parameters."""
    program = Program.of(module)
    return inputs_of(module, None, None, 0) if example_inputs is None else normalise(program, example_inputs)


def other_sizes(module: tvm.IRModule, inputs: Feeds, seed: int) -> Feeds | None:
    """Random inputs that are larger along every symbolic axis; None where all sizes are fixed."""
    program = Program.of(module)
    symbols = symbols_of(program, {name: array.shape for name, array in inputs.items()})
    if not symbols:
        return None
    grown = {var: size + (1 if size < 8 else size // 2) for var, size in symbols.items()}
    return random_inputs(describe(read(static(program, grown)), inputs), seed)


def runner(module: tvm.IRModule, inputs: Feeds, plan: Any = None) -> run.Runner:
    """A module ready to be run; with a plan or masks, what they drop is set to zero."""
    if plan is None:
        return run.plain(Program.of(module))
    if isinstance(plan, Masks):
        return run.plain(Program.of(_with_zeros(module, plan, {})))
    return run.Runner(_masker(module, inputs, plan))


def _masker(module: tvm.IRModule, inputs: Feeds, plan: Plan, exposed: bool = False) -> Masker:
    program = Program.of(module)
    sized = static(program, symbols_of(program, {name: array.shape for name, array in inputs.items()}))
    analysis = analyse(sized, plan.inputs, plan.policy)
    return Masker(program, plan, analysis, sized, exposed=exposed, wide=is_wide(program))


def outputs(module: tvm.IRModule, inputs: Feeds, plan: Any = None) -> list[NDArray[Any]]:
    """The outputs of one run in float64; with a plan, of the masked original."""
    return runner(module, inputs, plan)(inputs)


def first_difference(original: tvm.IRModule, slim: tvm.IRModule, plan: Plan, inputs: Feeds) -> str:
    """The first step whose living positions differ; a plain sentence where none does."""
    try:
        build = _masker(original, inputs, plan, exposed=True)
        wide, narrow = run.Runner(build), run.plain(Program.of(slim), exposed=True)
        expected, found = (dict(zip(one.steps, one(inputs), strict=True)) for one in (wide, narrow))
        for step in wide.steps:
            value = build.named[step]
            left = expected[step]
            for places in dropping(build.layouts.get(value.name, ()), value.shape, build.alive):
                left = places.compress(left)
            right = found[step]
            if left.shape != right.shape:
                return f"{step}: shape {right.shape} where {left.shape} is right"
            apart = np.abs(left.astype(np.float64) - right).max(initial=0.0) / max(np.abs(left).max(initial=0.0), 1e-30)
            if apart > wide.precision.tolerance:
                return f"{step}: error {apart:.1e}"
        return "an output, although every step agrees"
    except Exception as error:
        return f"a step that could not be found ({error})"


def with_masks(module: tvm.IRModule, masks: Masks, weights: Mapping[str, NDArray[Any]]) -> tvm.IRModule:
    """A module with new weights where they are given, and zeros where the masks say so."""
    sparse = _with_zeros(module, masks, weights)
    return sparse.with_attr(MASKS, packed(masks.facts()))


def _with_zeros(module: tvm.IRModule, masks: Masks, weights: Mapping[str, NDArray[Any]]) -> tvm.IRModule:
    program = Program.of(module)
    masks.check({name: program.weights(name).shape for name in program.constants})
    return _Zeros(program, masks, weights).run()


class _Zeros(Rebuilder):
    def __init__(self, program: Program, masks: Masks, weights: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(program)
        self.masks, self.weights, self.made = masks, weights, dict[str, Any]()

    def constant(self, step: Any, place: Any, constant: Any) -> Any:
        """A constant with zeros; steps that read one tensor go on reading one."""
        name = self.program.leaves.get((step.name, place), "")
        if name not in self.masks.kept:
            return constant
        if name not in self.made:
            numbers = self.weights.get(name, self.program.weights(name))
            self.made[name] = constant_like(np.where(self.masks.kept[name], numbers, 0), constant)
        return self.made[name]


def masks_of(module: tvm.IRModule) -> Masks | None:
    """The masks of a module: which of the weights that its attribute names are zero."""
    facts = _attribute(module, MASKS)
    if facts is None:
        return None
    program, names = Program.of(module), masked_names(facts)
    missing = sorted(set(names) - program.constants.keys())
    if missing:
        raise FileFormatError(f"attribute {MASKS!r} names {missing[0]}, which the module lacks: remove it")
    return Masks.of_facts(facts, {name: np.asarray(program.weights(name) != 0) for name in names})


def note_of(module: Any) -> str | None:
    """Nothing is odd about slim Relax modules."""
    return None
