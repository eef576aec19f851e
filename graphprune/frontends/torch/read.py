"""Read a torch model into an Analysis: on meta tensors, or on real ones where sizes depend on data."""

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...analysis import Analysis
from ...collector import collector_paused
from ...errors import ExampleInputsError, TraceError, UnsupportedModelError, WeightsError
from ...graph import Graph
from ...policy import DEFAULT, Policy
from .collect import collect
from .inputs import HOW, Inputs, candidates, describe, normalise
from .masked import check_free
from .norms import mark_norms
from .record import record
from .twins import stored_tensors


def analyze(module: torch.nn.Module, example_inputs: Any = None, policy: Policy = DEFAULT) -> Analysis:
    """Trace and analyse a module. Raises `UnsupportedModelError`, `ExampleInputsError` or `TraceError`."""
    refuse(module)
    start = time.process_time()
    graph, inputs = trace(module, example_inputs)
    mark_norms(module, graph)
    seconds = time.process_time() - start
    tensors = {name: tensor for name, tensor, _ in stored_tensors(module)}
    analysis = Analysis.of(graph, lambda name: _numpy(name, tensors[name]), describe(inputs), policy)
    analysis.seconds["trace"] = seconds
    analysis.collector = partial(collect, module, analysis, inputs)
    return analysis


def refuse(module: torch.nn.Module) -> None:
    """Raise for modules whose operations cannot be seen or whose sizes are not known yet."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(f"{kind} hides its operations: prune the module before torch.jit.script or trace")
    if hasattr(module, "_orig_mod"):
        raise UnsupportedModelError(f"{kind} is compiled: prune model._orig_mod, then torch.compile the result")
    if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        raise UnsupportedModelError(f"{kind} wraps a model: prune model.module, then wrap the result")
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
        raise UnsupportedModelError(f"{kind} has lazy parameters without sizes: run it on one batch first")
    check_free(module)


@collector_paused()
def trace(module: torch.nn.Module, example_inputs: Any = None) -> tuple[Graph, Inputs]:
    """The Graph of a module and the example inputs that were used."""
    if example_inputs is not None:
        inputs = normalise(example_inputs)
        return _trace(module, inputs), inputs
    failures = []
    for inputs in candidates(module):
        try:
            return _trace(module, inputs), inputs
        except (TraceError, ExampleInputsError) as error:
            failures.append(str(error).splitlines()[0])
    tried = f" Tried what the first layer suggests: {failures[0]}" if failures else ""
    raise ExampleInputsError(f"{type(module).__name__}: example inputs could not be inferred. {HOW}{tried}")


def _trace(module: torch.nn.Module, inputs: Inputs) -> Graph:
    """Meta tensors first; a model whose control flow needs numbers is run once on real tensors."""
    try:
        return record(module, inputs, "meta")
    except TraceError:
        raise
    except Exception as error:
        first = error
    try:
        if any(tensor.is_meta for _, tensor, _ in stored_tensors(module)):
            raise first
        return record(module, inputs, None)
    except Exception as error:
        shapes = [
            tuple(item.shape) for item in (*inputs.args, *inputs.kwargs.values()) if isinstance(item, torch.Tensor)
        ]
        given = f"inputs of shape {', '.join(map(str, shapes))}"
        message = f"{type(module).__name__} does not run with {given}: {type(error).__name__}: {error}"
        raise ExampleInputsError(f"{message}\n{HOW}") from error


def _numpy(name: str, tensor: torch.Tensor) -> NDArray[Any]:
    """A stored tensor as numpy, without a copy where its dtype allows."""
    if tensor.is_meta:
        raise WeightsError(f"{name} is on the meta device and has no numbers. Load weights, or use criterion='random'.")
    plain = tensor.detach().cpu()
    if plain.dtype in (torch.bfloat16, torch.float16) or plain.dtype.itemsize == 1:
        plain = plain.float()
    return np.asarray(plain.numpy())
