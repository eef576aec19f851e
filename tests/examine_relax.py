"""Import one random network into TVM, prune the module as its options say, and hold it against both oracles."""

import warnings
from typing import Any

import numpy as np
import torch

import graphprune
import relax_oracle as oracle
from examine import Outcome, Wrong
from graphprune.errors import BudgetError, CriterionError, GraphPruneError
from random_networks import Network

OPTIONS = ("sparsity", "exact", "scope", "criterion", "multiple_of", "policy")
ROUNDING = 1e-3
"""The slim module runs in float32 where torch tells what is right."""


def examine(network: Network, options: dict[str, Any]) -> Outcome:
    """Prune and prove. Raises `Wrong` for whatever must not happen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, inputs = network.build()
        try:
            module = oracle.imported(net, *inputs)
        except Exception as error:  # what torch cannot export, or TVM's importer does not know
            return Outcome("refused", f"the importer: {type(error).__name__}")
        return _examined(net, inputs, module, {name: options[name] for name in OPTIONS})


def _examined(net: torch.nn.Module, inputs: tuple, module: Any, options: dict[str, Any]) -> Outcome:
    before = oracle.contents(module)
    try:
        slim = graphprune.optimize(module, verify=False, **options)
    except (BudgetError, CriterionError) as error:
        return Outcome("refused", type(error).__name__)
    except GraphPruneError as error:
        raise Wrong(f"refusal: {type(error).__name__}: {error}") from error
    if oracle.contents(module) != before:
        raise Wrong("touched: the module that was given changed")
    plan = graphprune.plan_of(slim)
    try:
        seen = graphprune.verify(module, slim, thorough=False)
    except graphprune.errors.VerifyError as error:
        if "prove nothing" in str(error) or "cannot compile" in str(error) or "not finite" in str(error):
            return Outcome("says little", str(error).split(":")[0][:80])
        raise Wrong(f"differs: {error}") from error
    if plan.exact and not plan.repairs:
        _compare(net, inputs, module, slim, plan)
    return Outcome("proved" if plan.exact else "inexact", f"{seen.error:.0e}")


def _compare(net: torch.nn.Module, inputs: tuple, module: Any, slim: Any, plan: graphprune.Plan) -> None:
    """The slim module as TVM runs it against torch's masked network."""
    try:
        masked = oracle.masked(net, module, plan)
    except AssertionError:  # the importer computed a constant of its own
        return
    wide = [item.double() if item.is_floating_point() else item for item in inputs]
    with torch.no_grad():
        expected = [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(masked(*wide))]
        dense = [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(net(*inputs))]
    if any(np.abs(a - b).max(initial=0) > ROUNDING for a, b in zip(oracle.run(module, *inputs), dense, strict=True)):
        return  # TVM's importer made something else of it
    for left, right in zip(expected, oracle.run(slim, *inputs), strict=True):
        apart = np.abs(left - right).max(initial=0) / max(np.abs(left).max(initial=0), ROUNDING)
        if not apart < ROUNDING:
            raise Wrong(f"differs from torch: {apart:.1e}")
