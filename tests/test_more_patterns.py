"""The patterns of `layer_networks.py` and `attention_networks.py`: pruned and compared, or locked with a reason."""

import pytest
import torch

import attention_networks
import graphprune
import layer_networks
import oracle
from graphprune.errors import NothingToPruneError
from helpers import randomise

PRUNED = layer_networks.LAYERS | attention_networks.ATTENTION
LOCKED = layer_networks.LOCKED | attention_networks.LOCKED


def build(builder):
    torch.manual_seed(0)
    module, shape = builder()
    return module.eval(), torch.randint(0, 20, (2, 7)) if shape == "tokens" else torch.randn(shape)


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_equals_masked(name):
    module, inputs = build(PRUNED[name])
    slim = oracle.check(module, inputs, sparsity=0.12)
    cost, report = graphprune.analyze(slim, inputs).cost(), graphprune.plan_of(slim).report
    assert [cost.params, cost.macs] == [report["params"][1], report["macs"][1]]


@pytest.mark.parametrize("name", LOCKED)
def test_locked_with_a_reason(name):
    builder, reason = LOCKED[name]
    module, inputs = build(builder)
    assert reason in graphprune.analyze(module, inputs).explain()
    with pytest.raises(NothingToPruneError):
        graphprune.optimize(module, 0.1, example_inputs=inputs)


def test_frozen_parameters_stay_frozen():
    module, inputs = build(PRUNED["frozen"])
    slim = oracle.check(module, inputs, sparsity=0.12)
    assert not slim.a.weight.requires_grad and slim.b.weight.requires_grad


DECOMPOSED = """vision_transformer shifted_windows query_key_layer_norm causal_sdpa functional embedding_bag ghost
    state_space lstm_written_out""".split()


@pytest.mark.parametrize("name", DECOMPOSED)
def test_exported_in_core_operations(name):
    module, inputs = build(PRUNED[name])
    program = torch.export.export(randomise(module), (inputs,), strict=False).run_decompositions()
    slim = graphprune.optimize(program, 0.1)
    assert graphprune.verify(program, slim).error < 1e-12
