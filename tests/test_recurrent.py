"""Recurrent layers and cells: hidden units go from every gate, layer and direction, and nothing else changes."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphprune
import oracle
from networks import Net

X, HIDDEN = torch.randn(3, 5, 6), 12


def reads(layer, function, width=HIDDEN, **more):
    return Net(lambda m, x: m.head(function(m, x)), layer=layer, head=nn.Linear(width, 3), **more).eval()


def every_output(m, x):
    return m.layer(x)[0]


KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
CASES = [(kind, layers, both, bias, 0) for kind in KINDS for layers, both, bias in [(1, False, True), (2, True, False)]]
CASES += [("lstm", 2, True, True, 5), ("lstm", 1, False, False, 5)]


@pytest.mark.parametrize("kind, layers, both, bias, projected", CASES)
def test_pruned_equals_masked(kind, layers, both, bias, projected):
    torch.manual_seed(0)  # with some weights only units of the projection go
    more = {"proj_size": projected} if projected else {}
    layer = KINDS[kind](6, HIDDEN, layers, bidirectional=both, bias=bias, batch_first=both, **more)
    slim = oracle.check(reads(layer, every_output, (projected or HIDDEN) * (1 + both)), X, sparsity=0.3).layer
    assert slim.hidden_size < HIDDEN and slim.weight_hh_l0.shape[1] == (slim.proj_size or slim.hidden_size)
    assert type(slim) is KINDS[kind]
    macs = graphprune.analyze(reads(slim, every_output, slim(X)[0].shape[-1]), X).cost().macs
    length, width = X.shape[0] * X.shape[1], slim(X)[0].shape[-1]
    weights = sum(weight.numel() for name, weight in slim.named_parameters() if "weight" in name)
    assert macs == length * (weights + 3 * width)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(kind, bias):
    def steps(m, x):
        state = None
        for step in x.unbind(1):
            state = m.layer(step, state)
        return state[0] if isinstance(state, tuple) else state

    slim = oracle.check(reads(kind(6, HIDDEN, bias=bias), steps), X)
    assert type(slim.layer) is kind and slim.layer.hidden_size < HIDDEN


def last_of_both(m, x):
    state = m.layer(x)[1]
    return torch.cat([state[-2], state[-1]], 1)


def last_layer_viewed(m, x):
    state = m.layer(x)[1]
    return state.view(2, 2, state.shape[1], -1)[-1].transpose(0, 1).flatten(1)


@pytest.mark.parametrize("function", [last_of_both, last_layer_viewed])
def test_final_states(function):
    oracle.check(reads(nn.GRU(6, HIDDEN, 2, bidirectional=True), function, 2 * HIDDEN), X)


def test_states_are_handed_on():
    module = reads(nn.LSTM(6, HIDDEN, 2), lambda m, x: m.decoder(x, m.layer(x)[1])[0], decoder=nn.LSTM(6, HIDDEN, 2))
    slim = oracle.check(module, X)
    kept = graphprune.plan_of(slim).kept
    assert kept["layer.weight_hh_l1"][1].tolist() == kept["decoder.weight_hh_l1"][1].tolist()


def test_a_learned_first_state():
    def run(m, x):
        return m.layer(x, m.start.expand(-1, x.shape[1], -1).contiguous())[0]

    oracle.check(reads(nn.GRU(6, HIDDEN), run, start=nn.Parameter(torch.randn(1, 1, HIDDEN))), X)


@pytest.mark.parametrize("literal", [True, False])
def test_a_first_state_of_zeros(literal):
    def run(m, x):
        return m.layer(x, torch.zeros(1, 5, HIDDEN if literal else m.layer.hidden_size, dtype=x.dtype))[0]

    slim = oracle.check(reads(nn.GRU(6, HIDDEN), run), X)
    assert (type(slim).__name__ == "GraphModule") == literal


def test_a_given_first_state_is_locked():
    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.layer, self.head = nn.Linear(6, 16), nn.GRU(16, HIDDEN), nn.Linear(HIDDEN, 3)

        def forward(self, x, state):
            return self.head(self.layer(self.up(x), state)[0])

    inputs = X, torch.randn(1, 5, HIDDEN)
    assert "starts from a state whose size is fixed" in graphprune.analyze(Given(), inputs).explain()
    slim = oracle.check(Given().eval(), *inputs, sparsity=0.2)
    assert slim.layer.hidden_size == HIDDEN and slim.layer.input_size < 16


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences(kind):
    def run(m, x):
        packed, state = m.layer(pack_padded_sequence(m.up(x), torch.tensor([5, 3, 4]), True, enforce_sorted=False))
        state = state[0] if isinstance(state, tuple) else state
        return pad_packed_sequence(packed, batch_first=True)[0] + state[-1][:, None]

    oracle.check(reads(kind(10, HIDDEN, batch_first=True), run, up=nn.Linear(6, 10)), X)


def test_exported():
    module = reads(nn.LSTM(6, HIDDEN, 2, bidirectional=True), every_output, 2 * HIDDEN)
    program = torch.export.export(module, (X,))
    slim = graphprune.optimize(program, 0.3)
    assert graphprune.verify(program, slim).error < 1e-12


def test_the_slim_layer_is_a_whole_layer():
    slim = oracle.check(reads(nn.LSTM(6, HIDDEN, 2, batch_first=True), every_output), X).layer

    def holds_its_own(layer):
        names = layer._flat_weights_names
        return all(one is getattr(layer, name) for one, name in zip(layer._flat_weights, names, strict=True))

    assert holds_its_own(slim) and holds_its_own(copy.deepcopy(slim).double())
    slim.train()(X)[0].sum().backward()
    assert slim.weight_hh_l0.grad.shape == slim.weight_hh_l0.shape
    file = io.BytesIO()
    torch.save(slim, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False).eval()(X)[0], slim.eval()(X)[0])
    fresh = nn.LSTM(6, slim.hidden_size, 2, batch_first=True)
    fresh.load_state_dict(slim.state_dict())
    assert torch.equal(fresh.eval()(X)[0], slim(X)[0])


def test_long_sequences_are_traced_at_once():
    module = reads(nn.GRU(6, HIDDEN), every_output)
    assert graphprune.analyze(module, torch.randn(4000, 1, 6)).seconds["trace"] < 1
