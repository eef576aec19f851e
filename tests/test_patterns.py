"""Every pattern of `networks.py`, pruned and compared with the masked original."""

import pytest

import graphprune
import oracle
from graphprune.budget import Options
from graphprune.passes.pipeline import Program, run_passes
from graphprune.passes.prune_channels import PruneChannels
from networks import NETWORKS, build


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_equals_masked(name):
    module, inputs = build(name)
    oracle.check(module, inputs, sparsity=0.25)


@pytest.mark.parametrize("name", ["chain", "grouped", "concat", "depthwise", "heads", "chunk_free"])
@pytest.mark.parametrize(
    "options", [{"scope": "layer"}, {"criterion": "l1"}, {"criterion": "random"}, {"budget": "macs"}]
)
def test_options(name, options):
    module, inputs = build(name)
    oracle.check(module, inputs, sparsity=0.25, **options)


@pytest.mark.parametrize("name", ["hard_coded_view", "hard_coded_slices", "split", "slice", "fixed_heads"])
def test_sizes_in_forward_give_a_graph_module(name):
    module, inputs = build(name)
    slim = oracle.check(module, inputs, sparsity=0.25)
    assert type(slim).__name__ == "GraphModule" or name == "split"
    program = Program(module, inputs)
    report = run_passes(program, [PruneChannels(Options(0.25))]).report
    assert "written into forward()" in report["note"] or name == "split"


@pytest.mark.parametrize(
    "name", ["chain", "residual", "shuffle", "chunk_free", "grouped_residual", "heads", "unbind_qkv"]
)
def test_the_class_is_kept(name):
    module, inputs = build(name)
    assert type(oracle.check(module, inputs, sparsity=0.25)) is type(module)


def test_softmax_over_channels_is_locked():
    module, inputs = build("softmax_channels")
    analysis = graphprune.analyze(module, inputs)
    assert "softmax runs over it" in analysis.explain()
    plan = analysis.plan(0.25)
    assert 0 not in plan.kept.get("b.weight", {})
