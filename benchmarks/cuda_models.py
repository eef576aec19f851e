"""The networks of benchmarks/cuda_check.py, in plain torch: they are built where they are packed and where they run.

Their weights come from one short table over and over, so that a folder of artifacts packs into a few megabytes; the
time of a multiplication does not depend on its numbers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_PERIOD = 4093


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Couple the channels of the shortcut with those of the second convolution."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class Convolutional(nn.Module):
    """A residual network in the shape of ResNet-18."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512), depth: int = 2, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks, inputs = [], widths[0]
        for place, width in enumerate(widths):
            for index in range(depth):
                blocks.append(Residual(inputs, width, 2 if place and not index else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class Layer(nn.Module):
    """Attention and two products, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then features."""
        batch, tokens, _ = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """An encoder of tokens that are embedded already."""

    def __init__(self, width: int = 512, heads: int = 8, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Encode tokens."""
        return self.norm(self.layers(x))


def build(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """A network with weights, and an input: `convolutional`, `transformer`, or a small one: `tiny-...`."""
    generator = torch.Generator().manual_seed(1)
    model: nn.Module
    if name == "convolutional":
        model, shape = Convolutional(), (batch, 3, 224, 224)
    elif name == "transformer":
        model, shape = Transformer(), (batch, 128, 512)
    elif name == "tiny-convolutional":
        model, shape = Convolutional((8, 12), 1, 10), (batch, 3, 17, 15)
    elif name == "tiny-transformer":
        model, shape = Transformer(32, 2, 1), (batch, 12, 32)
    else:
        raise ValueError(f"no network {name!r}: convolutional, transformer, tiny-convolutional or tiny-transformer")
    table = torch.randn(_PERIOD, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan = parameter[0].numel()
                parameter.copy_(table.repeat(parameter.numel() // _PERIOD + 1)[: parameter.numel()].view_as(parameter))
                parameter.mul_((1.6 / fan) ** 0.5)
    return model.eval(), torch.randn(shape, generator=generator)
