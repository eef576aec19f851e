"""Inputs from nothing: noise that is moved until every batch norm sees the statistics that it remembers.

Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", 2020; Yin et al., "Dreaming to Distill: Data-free
Knowledge Transfer via DeepInversion", 2020.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import DataError
from .copying import copy_with
from .inputs import Inputs
from .twins import device_of

SAMPLES, BATCHES, STEPS, RATE = 64, 3, 100, 0.1


def synthesise(
    module: torch.nn.Module, example: Inputs, progress: Callable[[str, int, int | None], None] | None = None
) -> list[Any]:
    """A few batches like the example inputs. Raises `DataError` for models without batch-norm statistics.

    Seeded; gradients reach the inputs only, and the module is left alone.
    """
    twin = copy_with(module, {}).requires_grad_(False)
    for part in twin.modules():  # an exported graph refuses eval()
        part.training = False
    norms = [part for part in twin.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    real = len(example.args) == 1 and not example.kwargs and isinstance(example.args[0], torch.Tensor)
    if not norms or not real or not example.args[0].is_floating_point():
        raise DataError(
            "recover= without data= makes inputs from batch-norm statistics, for models with one input of real numbers "
            "and batch norms; this is none: pass data=, an iterable of batches"
        )
    like, device, generator = example.args[0], device_of(twin), torch.Generator().manual_seed(0)
    batches = []
    for number in range(BATCHES):
        if progress is not None:
            progress("make inputs", number, BATCHES)
        noise = torch.randn(SAMPLES, *like.shape[1:], generator=generator).to(device, like.dtype)
        try:
            batches.append(_batch(twin, norms, noise))
        except (RuntimeError, ValueError) as error:
            raise DataError(f"inputs cannot be made from batch-norm statistics: {error}. Pass data=") from error
    return batches


def _batch(twin: torch.nn.Module, norms: list[Any], start: torch.Tensor) -> torch.Tensor:
    gaps: list[torch.Tensor] = []

    def compare(norm: Any, given: Any) -> None:
        x = given[0]
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance = norm.running_var + norm.eps
        mean_gap = (x.mean(axes) - norm.running_mean).square() / variance
        spread_gap = (x.var(axes, unbiased=False).clamp_min(1e-12) / variance).log().square()
        gaps.append(mean_gap.mean() + spread_gap.mean())

    handles = [norm.register_forward_pre_hook(compare) for norm in norms]
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    try:
        with torch.enable_grad():
            for _ in range(STEPS):
                gaps.clear()
                twin(x)
                optimizer.zero_grad()
                torch.stack(gaps).sum().backward()
                optimizer.step()
                schedule.step()
    finally:
        for handle in handles:
            handle.remove()
    return x.detach()
