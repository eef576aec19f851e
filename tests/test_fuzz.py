"""Random networks: whatever is pruned must equal the masked original; refusals must be ours.

`benchmarks/fuzz.py` runs many more.
"""

import pytest
from hypothesis import HealthCheck, given, settings

from examine import Wrong, examine
from graphprune import ops
from graphprune.rules import view
from random_networks import Choices, trial, trials


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(trials())
def test_random_networks(drawn):
    network, options = drawn
    examine(network, options)


def test_the_generator_prunes_most_networks():
    """Without this, refusals alone would pass the test above."""
    seen = [examine(*trial(Choices(seed)), deep=False).status for seed in range(24)]
    assert sum(status in ("proved", "inexact") for status in seen) >= 10


def reversed_cat(eq, node, *parts):
    return (
        view.cat(eq, node, *parts[::-1])
        if len({value.shape for value in node.inputs}) == 1
        else view.cat(eq, node, *parts)
    )


WRONG_RULES = {
    "cat": reversed_cat,
    "flip": view.identity,
    "roll": view.identity,
    "repeat_interleave": lambda eq, node, x: view.copied(eq, x, node.attrs["axis"], node.attrs["times"], each=False),
    "mean": ops.OPS["sum"],
    "group_norm": lambda eq, node, *inputs: ops.OPS["batch_norm"](eq, node, *inputs),
}


@pytest.mark.parametrize("name", WRONG_RULES)
def test_a_wrong_rule_is_found(name, monkeypatch):
    monkeypatch.setitem(ops.OPS, name, WRONG_RULES[name])
    spelling = {"group_norm": "GroupNorm"}.get(name, f"{name}(")
    for seed in range(600):
        network, options = trial(Choices(seed))
        if spelling in network.source:
            try:
                examine(network, options, deep=False)
            except Wrong:
                return
    raise AssertionError(f"no network showed that the rule for {name} is wrong")
