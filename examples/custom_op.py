"""Teach GraphPrune an operator of your own: until then it locks what it touches, afterwards it is pruned and proved."""

import torch
from torch import nn

import graphprune
from graphprune.graph import Node
from graphprune.labels import Equations, Layout


# An operator that the compiler has never heard of: every channel is scaled by a gate of its own, and clipped softly.
@torch.library.custom_op("shop::gated_clip", mutates_args=())
def gated_clip(x: torch.Tensor, gate: torch.Tensor, limit: float) -> torch.Tensor:
    """`limit * tanh(gate * x / limit)` for x of shape (n, channels, height, width) and gate of shape (channels,)."""
    return limit * torch.tanh(gate[:, None, None] * x / limit)


@gated_clip.register_fake
def _(x: torch.Tensor, gate: torch.Tensor, limit: float) -> torch.Tensor:
    return torch.empty_like(x)


class Net(nn.Module):
    """Two convolutions with the operator between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.gate, self.head = nn.Parameter(torch.rand(32) + 0.5), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ten scores per image."""
        x = gated_clip(self.first(x), self.gate, 3.0)
        return self.head(self.second(x).relu().mean((2, 3)))


torch.manual_seed(0)
model, images = Net().eval(), torch.randn(2, 3, 16, 16)

# An unknown operator is never guessed at: its channels are locked, with the reason.
print(graphprune.analyze(model, images).explain())


def gated_clip_rule(eq: Equations, node: Node, x: Layout, gate: Layout) -> Layout:
    """Channel i of x (axis 1) and entry i of the gate go together; a channel that is zero stays zero."""
    (channels,) = (array for array in x if array.axes == (1,))
    (gates,) = gate
    eq.tie(channels.labels, gates.labels)
    return x


# One function, one line. Now gate, first convolution and second convolution lose the same channels.
graphprune.register_op("shop::gated_clip", gated_clip_rule)
slim = graphprune.optimize(model, sparsity=0.5, example_inputs=images)
print(f"gate: 32 -> {slim.gate.numel()}, first: 32 -> {slim.first.out_channels}, second: {slim.second}")
print(graphprune.verify(model, slim, example_inputs=images))


# A rule that is wrong is found out: this one forgets the gate.
graphprune.register_op("shop::gated_clip", lambda eq, node, x, gate: x)
try:
    graphprune.optimize(model, sparsity=0.5, example_inputs=images)
except graphprune.GraphPruneError as error:
    print(f"refused: {str(error).splitlines()[0]}")
