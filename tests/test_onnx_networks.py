"""Every pattern of `onnx_networks.py`, pruned and compared with the masked original."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphprune
import onnx_oracle as oracle
from graphprune.errors import NothingToPruneError
from onnx_masked import masked
from onnx_networks import NETWORKS

UNLOCKED = [name for name in NETWORKS if not NETWORKS[name]().locked]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_itself(name):
    """The models are what they claim to be: valid, run somewhere, and inputs move their outputs."""
    pattern = NETWORKS[name]()
    assert oracle.is_valid(pattern.model) or name == "group_norm_18"
    feeds = oracle.draw(pattern.model, pattern.sizes, pattern.highest)
    oracle.equal(pattern.model, pattern.model, feeds)


@pytest.mark.filterwarnings("ignore:.*not exact.*")
@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_equals_masked(name):
    pattern = NETWORKS[name]()
    feeds = oracle.draw(pattern.model, pattern.sizes, pattern.highest)
    if pattern.refused:
        with pytest.raises(NothingToPruneError, match=pattern.locked[0]):
            graphprune.optimize(pattern.model, pattern.sparsity)
        return
    oracle.check(pattern.model, pattern.sparsity, feeds, pattern.inexact, pattern.untouched)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in UNLOCKED])
def test_locks_have_reasons(name):
    pattern = NETWORKS[name]()
    text = graphprune.analyze(pattern.model).explain().lower()
    for reason in pattern.locked:
        assert reason.lower() in text


@pytest.mark.parametrize("name", ["chain_opset_17", "grouped", "concat", "lstm", "attention", "qdq_per_channel"])
@pytest.mark.parametrize(
    "options", [{"scope": "layer"}, {"criterion": "l1"}, {"criterion": "random"}, {"budget": "macs"}]
)
def test_options(name, options):
    pattern = NETWORKS[name]()
    oracle.check(pattern.model, 0.25, **options)


@pytest.mark.parametrize("name", ["chain_opset_17", "channel_shuffle", "attention_fused_split", "microsoft_attention"])
def test_the_library_verifies_too(name):
    pattern = NETWORKS[name]()
    slim = graphprune.optimize(pattern.model, pattern.sparsity)
    assert graphprune.verify(pattern.model, slim).error <= 1e-5


def sliced_by_hand() -> tuple[onnx.ModelProto, onnx.ModelProto, graphprune.Plan]:
    """A network of two Gemm, a slim copy that keeps units 0 to 9, and the plan that says so."""
    model = NETWORKS["gemm"]().model
    kept = np.arange(10)
    plan = graphprune.Plan(
        kept={"w1": {1: kept}, "b1": {0: kept}, "w2": {1: kept}},
        groups={},
        shapes={"w1": (6, 16), "b1": (16,), "w2": (4, 16)},
        fingerprint="",
    )
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    for tensor in slim.graph.initializer:
        array = numpy_helper.to_array(tensor)
        for axis, index in plan.kept.get(tensor.name, {}).items():
            array = np.take(array, index, axis)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    return model, slim, plan


def test_the_oracle_accepts_what_is_right():
    model, slim, plan = sliced_by_hand()
    oracle.equal(masked(model, plan), slim, oracle.draw(model))


@pytest.mark.parametrize("name", ["w1", "b1", "w2"])
def test_the_oracle_sees_one_wrong_channel(name):
    model, slim, plan = sliced_by_hand()
    wrong = {key: dict(axes) for key, axes in plan.kept.items()}
    axis = next(iter(wrong[name]))
    wrong[name][axis] = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 11])
    plan.kept = wrong
    with pytest.raises(AssertionError, match="differs"):
        oracle.equal(masked(model, plan), slim, oracle.draw(model))


def test_the_oracle_sees_changed_surroundings():
    model, slim, _ = sliced_by_hand()
    oracle.same_outside(model, slim)
    for change in (
        lambda m: m.metadata_props.add(key="more", value="text"),
        lambda m: setattr(m.opset_import[0], "version", 18),
        lambda m: setattr(m.graph.output[0], "name", "z"),
        lambda m: setattr(m.graph, "doc_string", ""),
        lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].Clear(),
    ):
        other = onnx.ModelProto()
        other.CopyFrom(slim)
        change(other)
        with pytest.raises(AssertionError):
            oracle.same_outside(model, other)
