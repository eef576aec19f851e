"""Operators of the user's own: locked until they are registered, then pruned by their rule; wrong rules are found."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import graphprune
from graphprune import errors
from graphprune.ops import OPS
from graphprune.rules.pointwise import keeps_zero
from helpers import randomise

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    known = dict(OPS)
    yield
    OPS.clear()
    OPS.update(known)


@torch.library.custom_op("graphprune_tests::softclip", mutates_args=())
def softclip(x: torch.Tensor, limit: float) -> torch.Tensor:
    """`limit * tanh(x / limit)`."""
    return limit * torch.tanh(x / limit)


@torch.library.custom_op("graphprune_tests::clone", mutates_args=())
def mirrored(x: torch.Tensor) -> torch.Tensor:
    """Not what its name says: channels come in reverse order."""
    return x.flip(1)


@torch.library.custom_op("graphprune_tests::mix", mutates_args=())
def mix(x: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor:
    """A weighted mean."""
    return share * x + (1 - share) * y


softclip.register_fake(lambda x, limit: torch.empty_like(x))
mirrored.register_fake(lambda x: torch.empty_like(x))
mix.register_fake(lambda x, y, share: torch.empty_like(x))


class Around(nn.Module):
    """Two linear layers with an operator between them."""

    def __init__(self, operator) -> None:
        super().__init__()
        self.first, self.second, self.operator = nn.Linear(6, 24), nn.Linear(24, 4), operator

    def forward(self, x):
        return self.second(self.operator(self.first(x)))


CALLS = {
    "function": lambda x: softclip(x, 2.0),
    "packet": lambda x: torch.ops.graphprune_tests.softclip(x, 2.0),
    "overload": lambda x: torch.ops.graphprune_tests.softclip.default(x, limit=2.0),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_operator_is_locked_and_then_pruned(call) -> None:
    model = randomise(Around(call)).eval()
    with pytest.raises(errors.NothingToPruneError, match=r"'graphprune_tests::softclip' has no rule.*register_op"):
        graphprune.optimize(model, 0.5, example_inputs=X)
    graphprune.register_op("graphprune_tests::softclip", keeps_zero)
    slim = graphprune.optimize(model, 0.5, example_inputs=X)
    kept = graphprune.plan_of(slim).kept["first.weight"][0]
    assert 0 < kept.size < 24 and slim.first.out_features == kept.size
    # the oracle: the other channels of the original set to zero, by hand
    masked = model(X) - nn.functional.linear(
        softclip(model.first(X), 2.0)[:, [c for c in range(24) if c not in kept]],
        model.second.weight[:, [c for c in range(24) if c not in kept]],
    )
    torch.testing.assert_close(slim(X), masked)
    assert not torch.allclose(slim(X), model(X))


def test_a_name_that_torch_has_too_says_nothing_about_an_operator_of_ones_own() -> None:
    model = randomise(Around(lambda x: mirrored(x))).eval()
    analysis = graphprune.analyze(model, X)
    assert "operation 'graphprune_tests::clone' has no rule" in analysis.explain()
    assert any(node.op == "unknown" for node in analysis.graph.nodes)


def test_a_rule_that_is_wrong_is_found() -> None:
    graphprune.register_op("graphprune_tests::clone", keeps_zero)
    with pytest.raises(errors.VerifyError):
        graphprune.optimize(randomise(Around(lambda x: mirrored(x))).eval(), 0.5, example_inputs=X)


def test_a_rule_gets_layouts_in_order_and_arguments() -> None:
    seen = []

    def rule(eq, node, x, y):
        seen.append((node.attrs, [value.shape for value in node.inputs]))
        eq.tie(x[0].labels, y[0].labels)
        return x

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 24), nn.Linear(6, 24), nn.Linear(24, 4)

        def forward(self, x):
            return self.head(mix(self.b(x), mix(self.a(x), self.a(x), 0.5), share=0.25))

    graphprune.register_op("graphprune_tests::mix", rule)
    model = randomise(Twice()).eval()
    slim = graphprune.optimize(model, 0.5, example_inputs=X)
    assert seen[0] == ({"arguments": (0.5,)}, [(4, 24), (4, 24)])
    assert seen[1] == ({"arguments": (), "share": 0.25}, [(4, 24), (4, 24)])
    assert slim.a.out_features == slim.b.out_features < 24
    assert graphprune.verify(model, slim, example_inputs=X, thorough=True).error < 1e-12


def test_a_tensor_by_keyword_locks() -> None:
    graphprune.register_op("graphprune_tests::mix", lambda eq, node, x, y: x)
    model = Around(lambda x: mix(x, y=x, share=0.5))
    with pytest.raises(
        errors.NothingToPruneError, match="is given a tensor by keyword -> pass its tensors by position"
    ):
        graphprune.optimize(model, 0.5, example_inputs=X)


def test_a_rule_that_raises_names_the_node() -> None:
    graphprune.register_op("graphprune_tests::softclip", lambda eq, node: ())
    with pytest.raises(errors.TraceError, match=r"the rule for .*graphprune_tests::softclip.* failed"):
        graphprune.analyze(Around(CALLS["function"]), X)


@pytest.mark.parametrize("name", ["softclip", "::softclip", "mine::", "aten::relu"])
def test_names_that_are_not_ones_own_are_refused(name: str) -> None:
    with pytest.raises(errors.OptionError, match="is no operator of your own"):
        graphprune.register_op(name, keeps_zero)
    with pytest.raises(errors.OptionError, match="not a function"):
        graphprune.register_op("mine::softclip", "keeps_zero")
