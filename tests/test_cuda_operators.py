"""Operators on GPUs, many in one artifact, against torch; the kernels run in the emulation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import emulated_cuda
from graphprune.backends.compiler import compile_model


class Images(nn.Module):
    """Convolutions of all kinds, pools and norms, with what pruning leaves: odd channel counts."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(6, 11, 3, padding=1)
        self.depthwise = nn.Conv2d(11, 11, 3, padding=1, groups=11)
        self.grouped = nn.Conv2d(6, 10, 3, stride=2, groups=2)
        self.dilated = nn.Conv2d(11, 7, 3, padding=2, dilation=2, stride=2)
        self.transposed = nn.ConvTranspose2d(7, 5, 3, stride=2, padding=1, output_padding=1)
        self.one = nn.Conv2d(11, 13, 1)
        self.row, self.volume = nn.Conv1d(6, 8, 3, padding=1), nn.Conv3d(3, 4, 3, padding=1)
        self.norm, self.group = nn.BatchNorm2d(11), nn.GroupNorm(2, 6)

    def forward(self, x: Tensor, volume: Tensor) -> tuple[Tensor, ...]:
        y = functional.relu(self.norm(self.plain(x)))
        z = functional.hardswish(self.depthwise(y)) + y
        return (
            self.one(z),
            self.grouped(x),
            self.transposed(functional.leaky_relu(self.dilated(y))),
            self.row(x.flatten(2)),
            self.volume(volume),
            self.group(x),
            functional.avg_pool2d(y, 3, 2, 1),
            functional.adaptive_avg_pool2d(y, 3),
            functional.max_pool2d(y, 2),
            functional.interpolate(x, scale_factor=2, mode="bilinear"),
            y.mean((2, 3)),
        )


class Tokens(nn.Module):
    """Products, attention with masks, norms, softmax, activations."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.long = nn.Linear(24, 40), nn.Linear(40, 24), nn.Linear(24 * 18, 9)
        self.layer, self.rms = nn.LayerNorm(24), nn.RMSNorm(24)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        heads = x.reshape(2, 18, 2, 12).transpose(1, 2)
        return (
            self.layer(x + self.down(functional.gelu(self.up(x)))),
            self.rms(self.down(functional.silu(self.up(x)))),
            functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask),
            functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
            self.long(x.flatten(1)),
            functional.log_softmax(x @ x.transpose(1, 2), -1),
            functional.softmax(x, 0),
            functional.elu(self.up(x[:, 0])),
        )


class Numbers(nn.Module):
    """Elementwise functions, sums and extremes, running sums, sorting."""

    def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        return (
            torch.log1p(x.abs()) + torch.expm1(x) + torch.sin(x) + torch.tanh(x) + torch.erf(x),
            x.abs() ** 1.7 + x**3,
            torch.where(x > 0, x, 0.1 * x),
            torch.cumsum(x, 1),
            torch.cumsum((x > 0).long(), 0),
            torch.sort(x, 1)[0],
            torch.topk(x, 3, 1)[0],
            torch.argmax(x, 1),
            x.sum() / x.norm(),
            x.var(1) + x.amax(1),
            x[places],
            torch.cat([x, 2 * x], 1).reshape(-1, 17),
        )


def cases() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    images, tokens, numbers = Images().eval(), Tokens().eval(), Numbers().eval()
    images.norm.running_mean.normal_()
    mask = torch.rand(18, 18) > 0.3
    mask[7] = False  # a query that may see nothing
    return {
        "images": (images, (torch.randn(2, 6, 9, 7), torch.randn(1, 3, 4, 5, 6))),
        "tokens": (tokens, (torch.randn(2, 18, 24), mask)),
        "numbers": (numbers, (torch.randn(9, 17), torch.tensor([3, 0, 3]))),
    }


@pytest.mark.parametrize(("name", "precision"), [("images", "fp32"), ("images", "fp16"), ("tokens", "fp32"),
                                                 ("tokens", "bf16"), ("numbers", "fp32")])  # fmt: skip
def test_operators(name: str, precision: str) -> None:
    model, inputs = cases()[name]
    with emulated_cuda.recorded() as sources:
        artifact = compile_model(model, target="cuda-sm80", example_inputs=inputs, precision=precision)
    results = emulated_cuda.run(artifact, sources, *inputs)
    exact = [value.double() if value.is_floating_point() else value for value in inputs]
    with torch.no_grad():
        expected = model.double()(*exact)
    tolerance = {"fp32": 1e-5, "fp16": 4e-3, "bf16": 4e-2}[precision]
    assert len(results) == len(expected)
    for place, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        assert result.shape == wanted.shape
        error = (result.double() - wanted).abs().max() / wanted.abs().max()
        assert float(error) <= tolerance, place
    used = {facts["schedule"] for facts in artifact.manifest["kernels"].values()}
    assert ("cuda_tensor" in used) == (precision != "fp32")
    assert not any(usage["spilled"] for usage in artifact.manifest["cuda"]["kernels"].values())


def test_a_long_sum_is_shared_out() -> None:
    """Few results of a long sum: several blocks add parts of it, a second kernel adds the parts and the bias."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(4096, 24), nn.ReLU()).eval(), torch.randn(9, 4096)
    for precision, tolerance in (("fp32", 1e-5), ("fp16", 2e-3), ("tf32", 1e-3)):
        with emulated_cuda.recorded() as sources:
            artifact = compile_model(model, target="cuda-sm80", example_inputs=data, precision=precision)
        (kernel,) = (name for name, facts in artifact.manifest["kernels"].items() if facts["macs"])
        assert {f"{kernel}_kernel", f"{kernel}_kernel_1"} <= set(artifact.manifest["cuda"]["kernels"])
        with torch.no_grad():
            expected = model(data)
        error = (emulated_cuda.run(artifact, sources, data) - expected).abs().max() / expected.abs().max()
        assert float(error) <= tolerance
