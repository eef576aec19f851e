"""The test cases that ONNX ships for every operator: compiled right, or refused."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test import loader

from graphprune.backends.compiler import compile_model
from graphprune.errors import GraphPruneError


def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cases, about numbers that overflow on purpose
        return {case.name: case for case in loader.load_model_tests(kind="node")}


def attempts(case):
    """The model as it is, and with its integers and truth values made constants, as in most real models."""
    inputs = case.data_sets[0][0]
    feed = {value.name: np.asarray(item) for value, item in zip(case.model.graph.input, inputs, strict=False)}
    yield case.model, feed
    bound = onnx.ModelProto()
    bound.CopyFrom(case.model)
    bound.ir_version = max(bound.ir_version, 4)
    for value in list(bound.graph.input):
        if value.name in feed and feed[value.name].dtype != np.float32:
            bound.graph.initializer.append(numpy_helper.from_array(feed.pop(value.name), value.name))
            bound.graph.input.remove(value)
    yield bound, feed


def run(model, feed):
    artifact = compile_model(model, "x86", feed, threads=1)
    got = artifact(**feed)
    return [np.asarray(item) if feed else np.from_dlpack(item) for item in (got if isinstance(got, tuple) else [got])]


@pytest.mark.slow
def test_every_operator():
    compiled, wrong = 0, []
    for name, case in cases().items():
        inputs, outputs = case.data_sets[0]
        if not all(isinstance(item, (np.ndarray, np.generic)) for item in [*inputs, *outputs]):
            continue  # sequences, optional values, and types that numpy has not
        got = None
        for model, feed in attempts(case):
            try:
                got = run(model, feed)
                break
            except GraphPruneError:
                continue
        if got is None:
            continue
        compiled += 1
        for have, want in zip(got, outputs, strict=True):
            same = have.dtype == np.asarray(want).dtype and have.shape == np.shape(want)
            if not same or not np.allclose(have, want, rtol=1e-3, atol=1e-5, equal_nan=True):
                wrong.append(name)
    assert compiled > 1000
    assert not wrong, wrong
