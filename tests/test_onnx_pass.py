"""ONNX pipelines: a pass of onnx_ir among others, and ONNX Runtime on a model that never was a file."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes import PassError, PassManager, Sequential
from onnx_ir.passes.common import RemoveUnusedNodesPass

import graphprune
import onnx_oracle
from graphprune.errors import BudgetError, FileFormatError, OptionError
from graphprune.frontends.onnx import files, saving
from onnx_networks import chain


def test_a_pass_among_others() -> None:
    """The result is that of `optimize`, proved by the oracle; the model that goes in stays what it was."""
    proto = chain().model
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = Sequential(RemoveUnusedNodesPass(), graphprune.OnnxPass(0.5, budget="macs"))(model)
    slim = ir.to_proto(result.model)
    assert result.modified and result.model is not model
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    onnx_oracle.judge(proto, slim, 0.5, onnx_oracle.draw(proto), budget="macs")


def test_a_pass_manager() -> None:
    model = ir.from_proto(chain().model)
    slim = PassManager([graphprune.OnnxPass(sparsity=0.5)], steps=1)(model).model
    plan = graphprune.plan_of(slim)
    assert 0 < plan.report["params"][1] <= plan.report["params"][0] / 2
    twice = PassManager([graphprune.OnnxPass(sparsity=0.3)], steps=2, early_stop=False)(model).model
    before, after = graphprune.plan_of(twice).report["params"]
    assert after <= before * 0.7 * 0.7, "every step prunes again"


def test_errors() -> None:
    with pytest.raises(OptionError, match="did you mean 'budget'"):
        graphprune.OnnxPass(0.5, budgets="macs")
    model = ir.from_proto(chain().model)
    with pytest.raises(BudgetError, match="must stay"):
        graphprune.OnnxPass(0.9999)(model)
    with pytest.raises(PassError) as caught:
        Sequential(graphprune.OnnxPass(0.9999))(model)
    assert isinstance(caught.value.__cause__, BudgetError)


def test_a_session_from_memory() -> None:
    proto = chain().model
    slim = graphprune.optimize(proto, 0.5)
    feeds = onnx_oracle.draw(proto)[0]
    session = onnxruntime.InferenceSession(slim.SerializeToString())
    (found,) = session.run(None, feeds)
    expected = onnx.reference.ReferenceEvaluator(slim).run(None, feeds)[0]
    assert found.shape == expected.shape and np.allclose(found, expected, rtol=1e-4, atol=1e-5)
    again = ir.to_proto(graphprune.optimize(ir.from_proto(proto), 0.5)).SerializeToString()
    assert np.array_equal(onnxruntime.InferenceSession(again).run(None, feeds)[0], found)


def test_a_session_of_weights_that_no_message_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 2 GB (here: 1 kB) a path gives an onnx_ir.Model; it is saved, and the session opens the file."""
    proto = chain().model
    onnx.save(proto, tmp_path / "net.onnx")
    expected = graphprune.optimize(tmp_path / "net.onnx", 0.5)
    for module in (files, saving):
        monkeypatch.setattr(module, "LIMIT", 1000)
    large = graphprune.optimize(tmp_path / "net.onnx", 0.5)
    assert isinstance(large, ir.Model)
    graphprune.save(large, tmp_path / "slim.onnx")
    assert (tmp_path / "slim.onnx.data").exists()
    feeds = onnx_oracle.draw(proto)[0]
    (found,) = onnxruntime.InferenceSession(tmp_path / "slim.onnx").run(None, feeds)
    assert np.array_equal(found, onnxruntime.InferenceSession(expected.SerializeToString()).run(None, feeds)[0])


def test_weights_that_are_not_loaded_are_refused_with_the_way_out(tmp_path: Path) -> None:
    onnx.save(chain().model, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    stubs = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    with pytest.raises(FileFormatError, match="load"):
        graphprune.optimize(stubs, 0.5)
    slim = graphprune.optimize(tmp_path / "net.onnx", 0.5)
    assert onnxruntime.InferenceSession(slim.SerializeToString()).get_inputs()
