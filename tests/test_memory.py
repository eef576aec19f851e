"""Peak activation memory: by hand, by counting references, and predicted for the pruned model as analysed anew."""

from collections import Counter
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from graphprune.memory import VIEWS, itemsize
from helpers import randomise
from networks import NETWORKS, Net, build, conv

ELEMENT_WISE = {"relu", "add", "mul", "batch_norm", "sigmoid", "gelu", "silu", "tanh", "hardswish", "relu6", "clamp"}


def peak(module, x):
    return graphprune.analyze(module.eval(), x).cost().memory


def test_by_hand():
    x, image = torch.randn(1, 3, 8, 8), 4 * 64
    chain = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 5), nn.Flatten(), nn.Linear(5 * 64, 2))
    assert peak(chain, x) == image * (3 + 8 + 5)
    residual = Net(lambda m, x: (y := m.a(x)) + m.c(F.relu(m.b(y))), a=conv(3, 8), b=conv(8, 10), c=conv(10, 8))
    assert peak(residual, x) == image * (3 + 8 + 10 + 8), "the skip waits while the branch runs"
    plain = Net(lambda m, x: m.c(F.relu(m.b(m.a(x)))), a=conv(3, 8), b=conv(8, 10), c=conv(10, 8))
    assert peak(plain, x) == image * (3 + 8 + 10)
    concat = Net(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=conv(3, 6), b=conv(3, 7))
    assert peak(concat, x) == image * (3 + 13 + 13)


def test_views_and_overwriting():
    x, image = torch.randn(1, 3, 8, 8), 4 * 64
    viewed = Net(lambda m, x: m.a(x).permute(0, 2, 3, 1).reshape(1, -1), a=conv(3, 9))
    assert peak(viewed, x) == image * (3 + 9)
    copied = Net(lambda m, x: m.a(x).flip(1), a=conv(3, 9))
    assert peak(copied, x) == image * (3 + 9 + 9), "this is no view"
    over = Net(lambda m, x: torch.sigmoid(F.relu(m.a(x))), a=conv(3, 9))
    assert peak(over, x) == image * (3 + 9)
    kept = Net(lambda m, x: torch.cat([y := m.a(x), F.relu(y)], 1), a=conv(3, 9))
    assert peak(kept, x) == image * (3 + 9 + 9 + 18), "what is read later may not be overwritten"
    inputs = Net(lambda m, x: m.a(F.relu(x)), a=conv(3, 9))
    assert peak(inputs, x) == image * (3 + 3 + 9), "inputs belong to the caller"


def test_half_precision_takes_half():
    module, x = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)).eval(), torch.randn(1, 3, 8, 8)
    whole = graphprune.analyze(module, x).cost()
    half = graphprune.analyze(module.to(torch.bfloat16), x.to(torch.bfloat16)).cost()
    assert (half.bytes * 2, half.memory * 2) == (whole.bytes, whole.memory)
    names = ("float32", "bfloat16", "int8", "bool", "complex64", "float8_e4m3fn", "uint4")
    assert [itemsize(name) for name in names] == [4, 2, 1, 1, 8, 1, 0.5]


def counted(graph):
    """The peak by simulation: storages hold as many claims as there are reads of what lies in them."""
    nodes = [node for node in graph.nodes if node.measured]
    reads = Counter(value for node in nodes for value in node.inputs if value is not None)
    reads.update(graph.outputs)
    storage = {value: [prod(value.shape) * itemsize(value.dtype), float("inf")] for value in graph.inputs}
    inputs = list(storage.values())
    alive, largest = list(inputs), sum(size for size, _ in inputs)
    for node in nodes:
        known = [value for value in node.inputs if value in storage]
        for value in known:
            storage[value][1] -= 1
        made = []
        for value in node.outputs:
            size = prod(value.shape) * itemsize(value.dtype)
            home = None
            if node.op in VIEWS and known and known[0] is node.inputs[0]:
                home = storage[known[0]]
            elif node.op in ELEMENT_WISE:
                same = [storage[v] for v in known if v.shape == value.shape and v.dtype == value.dtype]
                home = next((s for s in same if s[1] == 0 and s[0] == size), None)
            if home is None:
                home = [size, 0]
                made.append(home)
            home[1] += reads[value]
            storage[value] = home
        alive += made
        largest = max(largest, sum(size for size, _ in alive))
        alive = [one for one in alive if one[1] > 0]
    return largest


@pytest.mark.parametrize("name", NETWORKS)
def test_by_counting_references(name):
    module, inputs = build(name)
    analysis = graphprune.analyze(module, inputs)
    others = {node.op for node in analysis.graph.nodes} - ELEMENT_WISE
    from graphprune.ops import OPS

    if any(getattr(OPS.get(op), "__module__", "").endswith("pointwise") for op in others):
        pytest.skip("an element-wise operation that the simulation does not know")
    assert analysis.cost().memory == counted(analysis.graph)


@pytest.mark.parametrize("name", NETWORKS)
def test_predicted_bytes_and_memory_are_real(name):
    """Bytes as in the state dict of the slim module, memory as analysed anew."""
    module, inputs = build(name)
    slim = graphprune.optimize(randomise(module), 0.25, example_inputs=inputs)
    report = graphprune.plan_of(slim).report
    for model, place in ((module, 0), (slim, 1)):
        stored = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
        assert sum(stored.values()) == report["bytes"][place]
    if name != "found_rows":  # how many rows there are depends on the weights
        assert graphprune.analyze(slim, inputs).cost().memory == report["memory"][1]
