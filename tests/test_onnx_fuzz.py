"""Random ONNX models: whatever is pruned must equal the masked original; refusals must be ours.

`GRAPHPRUNE_FUZZ=5000` runs that many; `benchmarks/fuzz_onnx.py` runs exports of random torch networks.
"""

import os
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnx_oracle as oracle
from examine import Wrong
from examine_onnx import examine_model
from graphprune.frontends.onnx import names, slim
from random_networks import Choices, options
from random_onnx import finish, sketch

EXAMPLES = int(os.environ.get("GRAPHPRUNE_FUZZ", "150"))
PLAIN = {"kept": 0, "example": True, "twice": False}


def trial(below):
    """A random model, inputs for it, and options."""
    drawn = sketch(below)
    model = finish(drawn)
    chosen = {key: value for key, value in options(below).items() if key not in ("train", "traced")}
    chosen |= {"kept": below(2), "example": below(2) == 0}
    return drawn, model, oracle.draw(model), chosen


def judge(below):
    drawn, model, feeds, chosen = trial(below)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return drawn, examine_model(model, feeds, chosen)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 1000)
@given(st.data())
def test_random_models(data):
    judge(lambda n: data.draw(st.integers(0, n - 1)))


def test_the_generator_prunes_many_models():
    """Without this, refusals alone would pass the test above."""
    seen = [judge(Choices(seed))[1].status for seed in range(30)]
    assert sum(status in ("proved", "inexact") for status in seen) >= 8


def moved_concat(call):
    operation, parts, attrs = names.views.concat(call)
    same = len({value.shape for value in parts}) == 1
    return operation, parts[::-1] if same else parts, attrs


def swapped_split(call):
    operation, inputs, attrs = names.views.split(call)
    return operation, inputs, attrs | {"sizes": attrs["sizes"][::-1]}


WRONG = {
    "Concat": moved_concat,
    "Split": swapped_split,
    "Gather": names.to.same,
    "Softmax": names.to.same,
    "CumSum": lambda call: ("softmax", (call.x,), {"axis": 99}),
}
"""Operators and wrong translations of them: operands exchanged, sizes swapped, an operator ignored."""


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_translation_is_found(name, monkeypatch):
    monkeypatch.setitem(names.TRANSLATIONS, ("", name), WRONG[name])
    for seed in range(400):
        if any(node.op_type == name for node in sketch(Choices(seed)).nodes):
            try:
                if judge(Choices(seed))[1].detail.startswith("ApplyError"):  # labels predict other shapes
                    return
            except Wrong as wrong:
                if not str(wrong).startswith("crash in optimize"):
                    return
    raise AssertionError(f"no model showed that {name} is translated wrongly")


@pytest.mark.parametrize("name", ["Conv", "Reshape", "Slice", "Split"])
def test_what_is_not_brought_in_line_stays(name, monkeypatch):
    """Where the writer forgets sizes, the model is held against the labels and those channels stay: never wrong."""
    calls = []
    monkeypatch.setitem(slim.FIXES, name, calls.append)
    for seed in range(60):
        if any(node.op_type == name for node in sketch(Choices(seed)).nodes):
            judge(Choices(seed))
    assert calls
