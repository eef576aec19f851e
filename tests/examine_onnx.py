"""Export one random network to ONNX, prune the export, and hold the result against the masked original."""

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto

import graphprune
import onnx_oracle as oracle
from examine import Outcome, Wrong
from graphprune.errors import (
    ApplyError,
    BudgetError,
    CriterionError,
    ExampleInputsError,
    GraphPruneError,
    NothingToPruneError,
    VerifyError,
)
from onnx_build import Pattern, in_constants, in_type, listed_as_inputs
from onnx_masked import masked, unshared
from random_networks import Below, Network, Trial, options, trial

EXACT = 1e-6
"""Numbers that a program computes of sizes, and scales of repaired norms, are rounded to float32."""
SINGLE = 1e-4
"""Where only ONNX Runtime can run a model, in float32."""
LITTLE = 1e-6
OURS = ("opset", "dynamic", "unfolded", "form", "dynamo", "kept", "example")
"""Options of the export; the others are those of `graphprune.optimize`."""


def onnx_trial(below: Below) -> Trial:
    """A random network and options to export it and to prune the export with."""
    network, given = trial(below)

    def one(*items: Any) -> Any:
        return items[below(len(items))]

    given["policy"] = one((), (), (), ("dims",), ("groups",), ("dims", "groups"), ("narrow",))
    given |= {
        "opset": one(17, 13, 11, 18, 20, 9),
        "dynamic": one("", "batch", "batch", "all"),
        "unfolded": one(False, False, True),
        "form": one("", "", "", "constants", "listed", "basic", "extended", "half"),
        "dynamo": one(*[False] * 39, True),
        "kept": one(0, 0, 0, 1, 2),
        "example": one(True, False),
    }
    return network, {key: value for key, value in given.items() if key not in ("train", "traced")}


def plain_options() -> dict[str, Any]:
    """The simplest options."""
    return onnx_trial(lambda n: 0)[1]


# ---- exporting


def exported(network: Network, given: dict[str, Any]) -> tuple[onnx.ModelProto, torch.nn.Module, Any] | Outcome:
    """The network as ONNX, or why the exporter has none."""
    module, inputs = network.build()
    way = _by_dynamo if given["dynamo"] else _by_tracing
    written, data = apart(lambda: way(module, inputs, given).SerializeToString())
    if not written:  # the exporters fail in a hundred ways, none of which is ours
        return Outcome("not exported", "torch.export" if given["dynamo"] else data.decode())
    return in_form(onnx.load_from_string(data), given["form"] or ""), module, inputs


def apart(make: Callable[[], bytes]) -> tuple[bool, bytes]:
    """What a function gives in a process of its own, which exporters bring down now and then; or what it raises."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # the threads of the parent are not here
        logging.disable(logging.WARNING)
        try:
            with quiet():
                data = b"+" + make()
        except Exception as error:
            data = b"-" + type(error).__name__.encode()
        with os.fdopen(writing, "wb") as file:
            file.write(data)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    return data[:1] == b"+", data[1:] or b"the exporter crashes"


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed, by compiled code neither."""
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with open(os.devnull, "w") as nowhere, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)


def _by_tracing(module: torch.nn.Module, inputs: Any, given: dict[str, Any]) -> onnx.ModelProto:
    file = io.BytesIO()
    names = [f"x{place}" for place in range(len(inputs))]
    axes = {name: _axes(item, given["dynamic"]) for name, item in zip(names, inputs, strict=True)}
    torch.onnx.export(
        module,
        inputs,
        file,
        dynamo=False,
        input_names=names,
        dynamic_axes=axes if given["dynamic"] else None,
        opset_version=given["opset"] or 17,
        do_constant_folding=not given["unfolded"],
    )
    return onnx.load_from_string(file.getvalue())


def _axes(item: torch.Tensor, dynamic: str | None) -> dict[int, str]:
    """Names of the axes that an export leaves open: the batch, or places too."""
    places = {2: {1: "T"}, 3: {1: "T"}, 4: {2: "H", 3: "W"}}.get(item.dim(), {}) if dynamic == "all" else {}
    if item.dim() == 2 and item.is_floating_point():
        places = {}
    return {0: "N", **places}


def _by_dynamo(module: torch.nn.Module, inputs: Any, given: dict[str, Any]) -> onnx.ModelProto:
    shapes = None
    if given["dynamic"]:
        shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    program = torch.onnx.export(module, inputs, dynamic_shapes=shapes, dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto


def in_form(model: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """The same model written in another way, where that gives a valid one."""
    pattern = Pattern(model)
    ways: dict[str, Callable[[], onnx.ModelProto]] = {
        "constants": lambda: in_constants(pattern).model,
        "listed": lambda: listed_as_inputs(pattern).model,
        "half": lambda: in_type(pattern, TensorProto.FLOAT16).model,
        "basic": lambda: fused(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        "extended": lambda: fused(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    }
    if form not in ways:
        return model
    other = ways[form]()
    return other if oracle.session(other) is not None else model


def fused(model: onnx.ModelProto, level: Any) -> onnx.ModelProto:
    """What ONNX Runtime makes of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.optimized_model_filepath = level, str(path)
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:  # as for `oracle.session`
            return model
        return onnx.load(path)


def classes(network: Network, given: dict[str, Any]) -> tuple[int, int] | None:
    """How many classes may be dropped in the network, and in its plain export; None where there is none."""
    given = plain_options() | given | {"form": "", "dynamic": "", "opset": 17, "unfolded": False, "dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = exported(network, given)
        if isinstance(found, Outcome):
            return None
        model, module, inputs = found
        first = graphprune.analyze(module, inputs, policy=given["policy"])
        return int(first.free.sum()), int(graphprune.analyze(model, policy=given["policy"]).free.sum())


# ---- running


class Judge:
    """Runs models in float64 where the reference evaluator agrees with ONNX Runtime on the original, else there."""

    def __init__(self, model: onnx.ModelProto, feed: oracle.Feeds) -> None:
        self._session = oracle.session(model)
        reference = oracle.Runner(model)
        self.wide = reference.wide
        if self.wide:
            wide = _tried(reference, feed)
            narrow = _tried(lambda one: self._session.run(None, one), feed) if self._session else None
            self.wide = wide is not None and reference.wide
            if self.wide and narrow is not None:
                self.wide = oracle.difference(wide, narrow) < (0.1 if reference.coarse > 1 else 1e-3)
        self.coarse = reference.coarse

    def runs(self, feed: oracle.Feeds) -> bool:
        """Whether ONNX Runtime runs the original on these inputs."""
        return self._session is not None and _tried(lambda one: self._session.run(None, one), feed) is not None

    def runner(self, model: onnx.ModelProto) -> Callable[[oracle.Feeds], list[np.ndarray]]:
        """A function that runs a model."""
        if self.wide:
            return oracle.Runner(model)
        session = oracle.session(model)
        _require(session is not None, "load: ONNX Runtime does not load the model")
        return lambda feed: session.run(None, feed)

    @property
    def tolerance(self) -> float:
        """How far equal models may be apart."""
        return EXACT if self.wide else SINGLE * (self.coarse / 10 if self.coarse > 1 else 1)


def plain_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession | None:
    """A session without the fusions of ONNX Runtime, some of which break valid models."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # as for `oracle.session`
        return None


def _tried(run: Callable[[oracle.Feeds], Any], feed: oracle.Feeds) -> Any:
    try:
        return run(feed)
    except Exception:  # a model that one evaluator cannot run is judged by the other one
        return None


def feeds_of(model: onnx.ModelProto, inputs: Any) -> list[oracle.Feeds]:
    """The inputs of the network, and others with open axes of another size."""
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in stored]
    generator = np.random.default_rng(0)
    first, second = {}, {}
    used = [item.numpy() for item in inputs]
    for value in given:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        array = used[int(value.name[1:])] if value.name[1:].isdigit() else used[len(first)]
        first[value.name] = array.astype(dtype)
        sizes = [
            size + (1 if axis.dim_param else 0) * (1 if place == 0 else 2)
            for place, (axis, size) in enumerate(zip(kind.shape.dim, array.shape, strict=True))
        ]
        floating = array.dtype.kind == "f"
        second[value.name] = (generator.standard_normal(sizes) if floating else generator.integers(0, 9, sizes)).astype(
            dtype
        )
    return [first, second]


# ---- judging


def examine(network: Network, given: dict[str, Any]) -> Outcome:
    """Export, prune and prove. Raises `Wrong` for whatever must not happen."""
    given = plain_options() | {key: value for key, value in given.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = exported(network, given)
        if isinstance(found, Outcome):
            return found
        model, module, inputs = found
        feeds = feeds_of(model, inputs)
        return examine_model(model, feeds, given)


def examine_model(model: onnx.ModelProto, feeds: list[oracle.Feeds], given: dict[str, Any]) -> Outcome:
    """Prune a model and prove the result on inputs: the first ones are those of the analysis."""
    judge = Judge(model, feeds[0])
    if not judge.wide and not judge.runs(feeds[0]):
        return Outcome("not exported", "nothing runs it")
    before = model.SerializeToString(deterministic=True)
    pruning = {key: value for key, value in given.items() if key not in (*OURS, "twice")}
    pruning["keep"] = _kept(model, given["kept"])
    if given["example"]:
        pruning["example_inputs"] = feeds[0]
    if _moved(judge.runner(model), feeds[0]) < LITTLE:
        return Outcome("says little", "inputs move no output")
    slim = _guarded("optimize", lambda: graphprune.optimize(model, verify=False, **pruning))
    _require(model.SerializeToString(deterministic=True) == before, "touched: the original changed")
    if isinstance(slim, Outcome):
        return slim
    outcome = _judged(judge, model, slim, feeds, pruning)
    if outcome.status != "says little":
        (_again if given["twice"] else _replayed)(judge, model, slim, feeds, pruning)
    _require(model.SerializeToString(deterministic=True) == before, "touched: verification changed the original")
    return outcome


def _kept(model: onnx.ModelProto, count: int) -> tuple[str, ...]:
    names = [item.name for item in model.graph.initializer if len(item.dims) > 1 and np.prod(item.dims) > 1]
    return tuple(names[place * 7 % len(names)] for place in range(count)) if names else ()


def _guarded(what: str, call: Callable[[], Any]) -> Any:
    """The result, or an outcome where the call was refused in a way that is allowed."""
    try:
        return call()
    except (NothingToPruneError, BudgetError, ApplyError, CriterionError) as error:
        return Outcome("refused", f"{type(error).__name__}: {error}")
    except ExampleInputsError as error:
        if "no sizes were found" not in str(error):
            raise Wrong(f"ExampleInputsError in {what}: {error}") from error
        return Outcome("refused", f"ExampleInputsError: {error}")
    except GraphPruneError as error:
        raise Wrong(f"{type(error).__name__} in {what}: {error}") from error
    except Exception as error:
        raise Wrong(f"crash in {what}: {type(error).__name__}: {error}") from error


def _judged(
    judge: Judge, model: onnx.ModelProto, slim: onnx.ModelProto, feeds: list[oracle.Feeds], pruning: dict[str, Any]
) -> Outcome:
    """Sizes, budget, validity, what stays, and equality with the masked original."""
    plan = graphprune.plan_of(slim)
    _require(bool(plan and plan.kept), "idle: nothing was dropped")
    total, left = plan.report[pruning["budget"]]
    _require(left <= total * (1 - pruning["sparsity"]) + 1e-6, f"budget: {left} of {total} left")
    _require(oracle.elements(slim) < oracle.elements(model), "idle: as many numbers as before")
    try:
        if oracle.is_valid(model):
            oracle.valid(slim)
    except Exception as error:
        raise Wrong(f"invalid: {error}") from error
    try:
        oracle.same_outside(model, slim)
    except AssertionError as error:
        raise Wrong(f"outside: {error}") from error
    run = judge.runner(slim)
    moved = _moved(run, feeds[0])
    expected = judge.runner(masked(unshared(model, slim, plan), plan)) if plan.exact else None
    for feed in feeds:
        if feed is not feeds[0] and not judge.runs(feed):
            continue
        found = _ran(run, feed)
        _require(all(np.isfinite(item).all() for item in found if item.dtype.kind == "f"), "different: not finite")
        if expected is not None:
            error = oracle.difference(expected(feed), found)
            _require(
                error <= judge.tolerance,
                f"different: error {error:.1e} for {_shapes(feed)} (inputs move outputs by {moved:.1e})",
            )
    if judge.runs(feeds[0]):
        session = oracle.session(slim) or plain_session(slim)
        _require(session is not None, "load: ONNX Runtime runs the original and does not load the pruned model")
        _ran(lambda feed: session.run(None, feed), feeds[0])
    if moved < LITTLE:
        return Outcome("says little", "inputs move no output after pruning")
    return _verified(model, slim, plan, feeds[0])


def _verified(model: onnx.ModelProto, slim: onnx.ModelProto, plan: Any, feed: oracle.Feeds) -> Outcome:
    try:
        graphprune.verify(model, slim, plan, feed, thorough=False)
    except VerifyError as error:
        if "prove nothing" in str(error):
            return Outcome("says little", "inputs move no output after pruning")
        raise Wrong(f"{'false alarm' if plan.exact else 'different'}: VerifyError: {error}") from error
    except Exception as error:
        raise Wrong(f"crash in verify: {type(error).__name__}: {error}") from error
    return Outcome("proved" if plan.exact else "inexact")


def _ran(run: Callable[[oracle.Feeds], list[np.ndarray]], feed: oracle.Feeds) -> list[np.ndarray]:
    try:
        return run(feed)
    except Wrong:
        raise
    except BaseException as error:  # an assertion of the runner too
        raise Wrong(f"crash in the pruned model: {type(error).__name__}: {error} for {_shapes(feed)}") from error


def _replayed(judge: Judge, model: onnx.ModelProto, slim: onnx.ModelProto, feeds: Any, pruning: dict[str, Any]) -> None:
    """A plan that went through JSON makes the same model."""
    plan = graphprune.Plan.from_json(graphprune.plan_of(slim).to_json())
    other = _guarded("apply", lambda: plan.apply(model, pruning.get("example_inputs")))
    _require(not isinstance(other, Outcome), f"plan: refused when applied again: {other}")
    _require(_without_plan(other) == _without_plan(slim), "plan: applied again it gives another model")


def _without_plan(model: onnx.ModelProto) -> bytes:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    del other.metadata_props[:]
    return other.SerializeToString(deterministic=True)


def _again(judge: Judge, model: onnx.ModelProto, slim: onnx.ModelProto, feeds: Any, pruning: dict[str, Any]) -> None:
    """A pruned model is a model: it can be pruned again, and the composed plan leads there from the original."""
    more = pruning | {"sparsity": 0.1, "keep": ()}
    once = onnx.ModelProto()
    once.CopyFrom(slim)
    kept = [item for item in once.metadata_props if item.key != oracle.OWN_KEY]
    del once.metadata_props[:]
    once.metadata_props.extend(kept)
    twice = _guarded("the second optimize", lambda: graphprune.optimize(once, verify=False, **more))
    if isinstance(twice, Outcome):
        return
    second = Judge(once, feeds[0])
    _judged(second, once, twice, feeds, more)
    composed = _guarded("the second optimize", lambda: graphprune.optimize(slim, verify=False, **more))
    if isinstance(composed, Outcome):
        return
    plan = graphprune.plan_of(composed)
    if not plan.exact or plan.repairs:
        return
    expected, found = judge.runner(masked(unshared(model, composed, plan), plan)), judge.runner(composed)
    error = oracle.difference(expected(feeds[0]), _ran(found, feeds[0]))
    _require(error <= judge.tolerance, f"plan: composed it differs by {error:.1e}")


def _moved(run: Callable[[oracle.Feeds], list[np.ndarray]], feed: oracle.Feeds) -> float:
    """How far another input moves the outputs, relative to their size."""
    generator = np.random.default_rng(99)
    other = {
        name: generator.standard_normal(item.shape).astype(item.dtype)
        if item.dtype.kind == "f"
        else ((item + 1) % 9).astype(item.dtype)
        for name, item in feed.items()
    }
    return oracle.difference(_ran(run, feed), _ran(run, other))


def _shapes(feed: oracle.Feeds) -> str:
    return ", ".join(f"{name} {item.shape}" for name, item in feed.items())


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise Wrong(text)


__all__ = ["Outcome", "Wrong", "examine", "examine_model", "exported", "feeds_of", "onnx_trial", "options"]
