"""Prune one random network in every way that its options ask for, and hold the result against the oracle."""

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import fx, nn

import graphprune
import oracle
from graphprune.errors import ApplyError, BudgetError, CriterionError, GraphPruneError, NothingToPruneError, VerifyError
from random_networks import Network

TOLERANCE = 1e-9
LITTLE = 1e-7
"""Inputs that move no output by more prove nothing."""


class Outcome(NamedTuple):
    """What came of one network: "proved", "inexact", "refused" or "says little", and which refusal."""

    status: str
    detail: str = ""


class Wrong(AssertionError):
    """A finding: the first word says what kind."""


def examine(network: Network, options: dict[str, Any], deep: bool = True) -> Outcome:
    """Prune and prove. Raises `Wrong` for whatever must not happen; `deep` also replays the plan or prunes twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _examine(network, options, deep)


def _examine(network: Network, options: dict[str, Any], deep: bool) -> Outcome:
    module, inputs = network.build()
    if _moved(module, inputs) < LITTLE:
        return Outcome("says little", "inputs move no output")
    if options.get("traced"):
        module = _traced(module)
    for place, part in enumerate(module.modules()):
        part.training = options.get("train") == "all" or options.get("train") == "some" and place % 2 == 0
    before = _state(module)
    twice = options.get("twice")
    options = {key: value for key, value in options.items() if key not in ("train", "traced", "twice")}
    slim = _guarded("optimize", lambda: graphprune.optimize(module, example_inputs=inputs, verify=False, **options))
    if isinstance(slim, Outcome):
        _require(_state(module) == before, "touched: the original changed although pruning was refused")
        return slim
    outcome = _judged(module, slim, inputs, options)
    _require(_state(module) == before, "touched: the original changed")
    if deep and outcome.status != "says little":
        (_again if twice else _replayed)(module, slim, inputs, options)
    return outcome


def _traced(module: nn.Module) -> nn.Module:
    try:
        return fx.symbolic_trace(module)
    except Exception:  # written by position: not everything can be traced symbolically
        return module


def _guarded(what: str, call: Any) -> Any:
    """The result, or an outcome where the call was refused in a way that is allowed."""
    try:
        return call()
    except NothingToPruneError:
        return Outcome("refused", "NothingToPruneError")
    except BudgetError:
        return Outcome("refused", "BudgetError")
    except ApplyError as error:
        return Outcome("refused", f"ApplyError: {error}")
    except CriterionError as error:
        return Outcome("refused", f"CriterionError: {error}")
    except GraphPruneError as error:
        raise Wrong(f"{type(error).__name__} in {what}: {error}") from error
    except Exception as error:
        raise Wrong(f"crash in {what}: {type(error).__name__}: {error}") from error


def _judged(module: nn.Module, slim: nn.Module, inputs: Any, options: dict[str, Any]) -> Outcome:
    """Sizes, budget and equality with the masked original."""
    plan = graphprune.plan_of(slim)
    _require(bool(plan.kept), "idle: nothing was dropped")
    _require(slim.training == module.training, "mode: train() or eval() was not kept")
    _require(
        all(size for tensor in slim.state_dict().values() for size in tensor.shape), "emptied: an axis has no size"
    )
    total, left = plan.report[options["budget"]]
    _require(
        left <= total * (1 - options["sparsity"]) + 1e-6, f"budget: {left} of {total} left at {options['sparsity']}"
    )
    counted = sum(parameter.numel() for parameter in slim.parameters())
    _require(
        counted == plan.report["params"][1],
        f"count: {counted} parameters where {plan.report['params'][1]} were promised",
    )
    _run_in_float32(slim, inputs)
    moved = _moved(slim, inputs)
    if plan.exact:
        error = _error(module, slim, inputs)
        _require(
            error < (1e-6 if plan.repairs else TOLERANCE),
            f"different: error {error:.1e} (inputs move outputs by {moved:.1e})",
        )
    if moved < LITTLE:
        return Outcome("says little", "inputs move no output after pruning")
    try:
        graphprune.verify(module, slim, plan, inputs, thorough=False)
    except VerifyError as error:
        if "prove nothing" in str(error):
            return Outcome("says little", "inputs move no output after pruning")
        raise Wrong(f"{'false alarm' if plan.exact else 'different'}: VerifyError: {error}") from error
    except Exception as error:
        raise Wrong(f"crash in verify: {type(error).__name__}: {error}") from error
    return Outcome("proved" if plan.exact else "inexact", type(slim).__name__)


def _error(module: nn.Module, slim: nn.Module, inputs: Any) -> float:
    try:
        return oracle.error(module, slim, inputs)
    except RuntimeError as error:
        if not isinstance(slim, fx.GraphModule) or "dtype" not in str(error):
            raise Wrong(f"different: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise Wrong(f"different: {type(error).__name__}: {error}") from error
    # an exported graph has float32 written into it
    pairs = zip(
        oracle.outputs(oracle.masked(module, graphprune.plan_of(slim)).float(), inputs),
        oracle.outputs(slim, inputs),
        strict=True,
    )
    return 1e-5 * max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs)


def _run_in_float32(slim: nn.Module, inputs: Any) -> None:
    try:
        with _evaluated(slim):
            found = oracle.outputs(slim, inputs)
    except Exception as error:
        raise Wrong(f"crash in the pruned model: {type(error).__name__}: {error}") from error
    _require(all(bool(torch.isfinite(item).all()) for item in found), "different: outputs are not finite")


def _replayed(module: nn.Module, slim: nn.Module, inputs: Any, options: dict[str, Any]) -> None:
    """A plan that went through JSON makes the same model."""
    plan = graphprune.plan_of(slim)
    loaded = graphprune.Plan.from_json(plan.to_json())
    _require(json.loads(loaded.to_json()) == json.loads(plan.to_json()), "plan: saving and loading changes it")
    other = _guarded("apply", lambda: loaded.apply(module, inputs))
    _require(not isinstance(other, Outcome), f"plan: refused when applied again: {other}")
    first, second = slim.state_dict(), other.state_dict()
    _require(
        type(slim) is type(other) or {type(slim).__name__, type(other).__name__} == {"GraphModule"},
        "plan: another class",
    )
    same = first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    _require(same, "plan: applied again it gives other weights")


def _again(module: nn.Module, slim: nn.Module, inputs: Any, options: dict[str, Any]) -> None:
    """A pruned model is a model: it can be pruned again, and the composed plan leads there from the original."""
    once = copy.deepcopy(slim)
    if hasattr(once, "_graphprune_plan"):
        del once._graphprune_plan
    more = options | {"sparsity": 0.1}
    twice = _guarded(
        "the second optimize", lambda: graphprune.optimize(once, example_inputs=inputs, verify=False, **more)
    )
    if isinstance(twice, Outcome):
        return
    _judged(once, twice, inputs, more)


def _moved(module: nn.Module, inputs: Any) -> float:
    """How far another input moves the outputs, relative to their size."""
    torch.manual_seed(1)
    other = tuple(torch.randn_like(item) if item.is_floating_point() else (item + 1) % 9 for item in inputs)
    with _evaluated(module):
        pairs = list(zip(oracle.outputs(module, inputs), oracle.outputs(module, other), strict=True))
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs)


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """In evaluation mode for a while; exported graphs refuse `eval()`."""
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    yield
    for part, mode in modes:
        part.training = mode


def _state(module: nn.Module) -> Any:
    """Everything that must not change: numbers, modes, attributes of modules and tensors."""
    parts = [(name, part.training, sorted(vars(part))) for name, part in module.named_modules()]
    tensors = [*module.named_parameters(), *module.named_buffers()]
    numbers = [
        (name, id(item), item.detach().clone().numpy().tobytes(), sorted(vars(item)), item.requires_grad)
        for name, item in tensors
    ]
    return parts, numbers


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise Wrong(text)
