"""What verification asks of the ONNX frontend: random inputs, runs of both programs, and where they differ first."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...analysis import Analysis
from ...errors import ExampleInputsError
from ...places import dropping
from ...plan import Plan
from ...shapes import Alive, living
from . import files
from .inputs import HOW, Feeds, describe, grown, normalise
from .masked import masked
from .read import analyse, prepare
from .run import Runner
from .tracing import trace


def inputs_of(origin: Any, plan: Plan | None, example_inputs: Any, seed: int) -> Feeds:
    """Random inputs in the form of the example inputs, or of those that the plan describes."""
    rng = np.random.default_rng(seed)
    if example_inputs is not None:
        model = files.read(origin)
        given = normalise(model, example_inputs)
        sizes = {name: tuple(array.shape) for name, array in given.items()}
        specs = describe(model, sizes, given)["onnx"]
        return {name: _random(spec, rng, given[name]) for name, spec in specs.items()}
    if plan is None or not plan.inputs or "onnx" not in plan.inputs:
        raise ExampleInputsError(f"verification needs example inputs, or a plan for ONNX that describes them. {HOW}")
    return {name: _random(spec, rng, None) for name, spec in plan.inputs["onnx"].items()}


def _random(spec: dict[str, Any], rng: np.random.Generator, like: "NDArray[Any] | None") -> NDArray[Any]:
    """Whole numbers within the range, real ones spread as those that were given."""
    shape = tuple(spec["shape"])
    if "low" in spec:
        return np.asarray(rng.integers(spec["low"], spec["high"] + 1, shape)).astype(spec["dtype"])
    numbers = np.asarray(rng.standard_normal(shape))
    if like is not None and like.size > 1 and np.isfinite(like := like.astype(np.float64)).all() and like.std() > 0:
        numbers = numbers * like.std() + like.mean()
    return numbers.astype("float32" if spec["dtype"] == "bfloat16" else spec["dtype"])


def other_sizes(origin: Any, inputs: Feeds, seed: int) -> Feeds | None:
    """Random inputs that are larger along every axis that the model leaves open; None where all sizes are fixed."""
    model, rng = files.read(origin), np.random.default_rng(seed)
    sizes = grown(model, {name: tuple(array.shape) for name, array in inputs.items()})
    if sizes is None:
        return None
    specs = describe(model, sizes, inputs)["onnx"]
    return {name: _random(spec, rng, inputs[name]) for name, spec in specs.items()}


def runner(origin: Any, inputs: Feeds, plan: Plan | None = None) -> Runner:
    """A model ready to be run on inputs of these sizes; with a plan, what it drops is set to zero."""
    return Runner(files.read(origin), inputs) if plan is None else _masked(origin, inputs, plan)[0]


def outputs(origin: Any, inputs: Feeds, plan: Plan | None = None) -> list[NDArray[Any]]:
    """The outputs of one run in float64; with a plan, of the masked original."""
    return runner(origin, inputs, plan)(inputs)


def _masked(origin: Any, inputs: Feeds, plan: Plan, explain: bool = False) -> tuple[Runner, Analysis | None]:
    """The masked original, ready to be run; to explain it, all its values are outputs and its analysis is returned."""
    model = prepare(files.read(origin))
    analysis = None
    if explain or plan.repairs or not plan.exact:
        found = trace(model, {name: tuple(array.shape) for name, array in inputs.items()})
        analysis = analyse(found, plan.inputs, plan.policy)
    names = _names(analysis) if explain and analysis is not None else ()
    return Runner(masked(model, plan, analysis), inputs, names), analysis


def _names(analysis: Analysis) -> Iterable[str]:
    return [value.name for node in analysis.graph.nodes for value in node.outputs if value.name]


def first_difference(original: Any, slim: Any, plan: Plan, inputs: Feeds) -> str:
    """The name of the first node whose living positions differ; a plain sentence where none does."""
    try:
        run, analysis = _masked(original, inputs, plan, explain=True)
        assert analysis is not None
        other = Runner(files.read(slim), inputs, _names(analysis))
        wide, narrow = _named(run, inputs), _named(other, inputs)
        tolerance = max(run.precision.tolerance, other.precision.tolerance)
        return _first(analysis, living(analysis, plan), wide, narrow, tolerance)
    except Exception as error:
        return f"an operation that could not be found ({error})"


def _named(run: Runner, inputs: Feeds) -> dict[str, NDArray[Any]]:
    return dict(zip([*run.outputs, *run.exposed], run(inputs), strict=True))


def _first(
    analysis: Analysis, alive: Alive, wide: dict[str, NDArray[Any]], narrow: dict[str, NDArray[Any]], tolerance: float
) -> str:
    for node in analysis.graph.nodes:
        for value in node.outputs:
            if value.name not in wide or value.name not in narrow:
                continue
            expected, found = wide[value.name], narrow[value.name]
            for places in dropping(analysis.layouts[value], value.shape, alive):
                expected = places.compress(expected)
            if expected.shape != found.shape:
                return f"{node} [{value.name}]: shape {found.shape} where {expected.shape} is right"
            apart = _apart(expected, found)
            if not apart <= tolerance:
                return f"{node} [{value.name}]: error {apart:.1e}"
    return "an output, although every operation agrees"


def _apart(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest error relative to the largest number."""
    if expected.dtype.kind not in "fiub":
        return 0.0
    left, right = expected.astype(np.float64), found.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(left - right)).max(initial=0.0)
    return float(apart) / max(float(np.abs(left[np.isfinite(left)]).max(initial=0.0)), 1e-30)
