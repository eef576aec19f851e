"""One model of the coverage benchmark, pruned to half of its parameters by one tool, in a process of its own."""

import copy
import gc
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

import graphprune
from common import parameters
from coverage_models import FAMILIES, Case, calibrated
from graphprune.errors import BudgetError, GraphPruneError, VerifyError
from graphprune.frontends import frontend_of

SECONDS = 60
"""Processor seconds that one tool may take to prune one model."""

RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of channels that Torch-Pruning is asked to drop, in turn, until half of the parameters are gone."""

Record = dict[str, Any]


def measure(family: str, name: str, tool: str) -> Record:
    """What one tool makes of one model."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    case = FAMILIES[family].build(name)
    case = case._replace(model=calibrated(case))
    return TOOLS[tool](case) | {"size": parameters(case.model)}


def warm_up(families: Iterable[str]) -> None:
    """Build a model of every family, prune a small network with both tools: what is loaded once is no model's time."""
    for family in families:
        FAMILIES[family].build(FAMILIES[family].names()[0])
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)
    )
    case = Case(net.eval(), (torch.randn(1, 3, 8, 8),))
    for tool in TOOLS.values():
        tool(case)


class OutOfTime(BaseException):
    """A tool took more processor time than it may; no error of its own, so that no handler takes it for one."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise `OutOfTime` after `SECONDS` of processor time."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"more than {SECONDS} s of processor time")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def timed(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """What a call gives, and its processor seconds."""
    gc.collect()
    start = time.process_time()
    with limited():
        result = call(*arguments, **options)
    return result, time.process_time() - start


def ours(case: Case) -> Record:
    """`graphprune.optimize(sparsity=0.5)`, or as much as can be reached, and `graphprune.verify`."""
    inputs = None if case.inferred else case.inputs
    record: Record = {}
    try:
        slim, record["seconds"] = timed(graphprune.optimize, case.model, 0.5, example_inputs=inputs, verify=False)
    except OutOfTime as error:
        return {"status": "failed", "reason": str(error)}
    except BudgetError as error:
        record |= {"locks": _locks(error)}
        if not error.reachable:
            return record | {"status": "refused", "reason": _first_line(error)}
        try:
            less = error.reachable * 0.999
            slim, record["seconds"] = timed(graphprune.optimize, case.model, less, example_inputs=inputs, verify=False)
        except GraphPruneError as second:
            return record | {"status": "refused", "reason": _first_line(second)}
    except GraphPruneError as error:
        return {"status": "refused", "reason": _first_line(error)}
    plan = graphprune.plan_of(slim)
    kind = "class" if type(slim) is type(case.model) else "GraphModule"
    record |= {"params": plan.report["params"], "macs": plan.report["macs"], "kind": kind, "exact": plan.exact}
    record["note"] = frontend_of(slim).note_of(slim)
    assert parameters(slim) == plan.report["params"][1] or kind == "GraphModule"
    start = time.process_time()
    try:
        seen = graphprune.verify(case.model, slim, example_inputs=case.inputs, thorough=False)
        record |= {"status": "proved", "error": seen.error, "sensitivity": seen.sensitivity}
    except VerifyError as error:
        status = "not proved" if "prove nothing" in str(error) else "failed"
        record |= {"status": status, "reason": _first_line(error)}
    return record | {"verify": time.process_time() - start}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:400]}"


def _locks(error: BudgetError) -> list[str]:
    return [line.strip() for line in str(error).splitlines()[1:] if line.strip()][:6]


def torch_pruning(case: Case) -> Record:
    """Torch-Pruning as its guide shows it, with nothing told of the model but the layers that make the outputs."""
    limit = parameters(case.model) // 2
    shapes = _shapes(_run(case.model, case.inputs))
    record: Record = {}
    start = time.process_time()
    for ratio in RATIOS:
        slim = copy.deepcopy(case.model)
        try:
            if time.process_time() - start > SECONDS:
                raise OutOfTime(f"more than {SECONDS} s of processor time")
            _, seconds = timed(_torch_pruning_step, slim, case.inputs, ratio, shapes)
        except OutOfTime as error:
            return {"status": "timeout", "reason": str(error)}
        except Exception as error:
            return {"status": "crash", "reason": _first_line(error) if str(error) else type(error).__name__}
        left = parameters(slim)
        record = {"seconds": seconds, "params": [parameters(case.model), left], "ratio": ratio}
        if left <= limit:
            break
    else:
        return record | {"status": "budget missed", "reason": f"{left / parameters(case.model):.0%} of parameters left"}
    try:
        found = _shapes(_run(slim, case.inputs))
    except Exception as error:
        return record | {"status": "broken", "reason": f"does not run: {_first_line(error)}"}
    if found != shapes:
        return record | {"status": "wrong shape", "reason": f"{found[:2]} instead of {shapes[:2]}"}
    return record | {"status": "ok"}


def _torch_pruning_step(model: torch.nn.Module, inputs: Any, ratio: float, shapes: list[tuple[int, ...]]) -> None:
    import torch_pruning

    torch_pruning.pruner.BasePruner(
        model,
        inputs,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=_last_layers(model, shapes),
    ).step()


def _last_layers(model: torch.nn.Module, shapes: list[tuple[int, ...]]) -> list[torch.nn.Module]:
    """For every size of an output's second or last axis, the last layer that is as wide."""
    widths = {size for shape in shapes if len(shape) > 1 for size in (shape[1], shape[-1])}
    found: dict[int, torch.nn.Module] = {}
    for layer in model.modules():
        width = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
        if width in widths and list(layer.parameters(recurse=False)):
            found[width] = layer
    return list(found.values())


@torch.no_grad()
def _run(model: torch.nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(item.shape) for item in tree_leaves(_plain(outputs)) if isinstance(item, torch.Tensor)]


def _plain(outputs: Any) -> Any:
    return dict(outputs) if hasattr(outputs, "items") else outputs


TOOLS: dict[str, Callable[[Case], Record]] = {"graphprune": ours, "torch-pruning": torch_pruning}
