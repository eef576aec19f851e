"""What random networks taught about sizes that nobody gave, and about what verification may touch."""

import numpy as np
import pytest

import graphprune
import onnx_oracle as oracle
from graphprune.errors import ExampleInputsError
from onnx_build import Pattern, net, rows
from onnx_networks import NETWORKS


def flattened() -> Pattern:
    """Images of an open size, of which only 4 x 4 fits the last layer."""
    weights = {"w1": (8, 3, 3, 3), "w2": (3, 128)}
    return net(
        "float[N,3,H,W] x", "a = Conv<pads=[1,1,1,1]>(x, w1) f = Flatten(a) y = Gemm<transB=1>(f, w2)", **weights
    )


def test_sizes_that_cannot_be_guessed_are_asked_for():
    model = flattened().model
    with pytest.raises(ExampleInputsError, match="Gemm.*example_inputs"):
        graphprune.optimize(model, 0.3)
    with pytest.raises(ExampleInputsError, match="does not run"):
        graphprune.optimize(model, 0.3, example_inputs=np.zeros((2, 3, 5, 5), np.float32))
    example = {"x": np.zeros((2, 3, 4, 4), np.float32)}
    feeds = oracle.draw(model, {"H": (4, 4), "W": (4, 4)})
    oracle.check(model, 0.3, feeds, example_inputs=example)


def test_a_size_of_one_is_no_guess_where_it_is_spread():
    model = rows("m = Add(r, places)", inputs="float[N,L,6] x", places=(6, 16)).model
    with pytest.raises(ExampleInputsError, match="other than 1"):
        graphprune.optimize(model, 0.3)
    example = {"x": np.zeros((2, 6, 6), np.float32)}
    oracle.check(model, 0.3, oracle.draw(model, {"L": (6, 6)}), example_inputs=example)


@pytest.mark.parametrize("name", ["number_made_of_width", "number_made_of_width_by_root"])
def test_numbers_made_of_sizes_are_verified(name):
    pattern = NETWORKS[name]()
    slim = graphprune.optimize(pattern.model, pattern.sparsity)
    assert graphprune.verify(pattern.model, slim).error <= 1e-9


def test_parts_of_one_vector_are_counted_once():
    model = NETWORKS["vector_in_slices"]().model
    assert graphprune.analyze(model).cost().params == oracle.elements(model)


def test_verification_touches_neither_model():
    pattern = NETWORKS["gather_list"]()
    slim = graphprune.optimize(pattern.model, pattern.sparsity, verify=False)
    before = [model.SerializeToString(deterministic=True) for model in (pattern.model, slim)]
    graphprune.verify(pattern.model, slim)
    assert before == [model.SerializeToString(deterministic=True) for model in (pattern.model, slim)]
