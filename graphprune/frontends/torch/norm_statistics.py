"""Batch norms whose running statistics are those of the model as it is now."""

from collections.abc import Sequence

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import DataError
from .inputs import Inputs


@torch.no_grad()
def reestimate(module: torch.nn.Module, batches: Sequence[Inputs]) -> None:
    """Replace the running statistics of all batch norms by the mean of those of the batches, in place.

    Raises `DataError` where there is none to re-estimate, or batches have one sample only.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if not norms:
        raise DataError("recover='batch_norm': this model has no batch norm with running statistics")
    before = [(norm, norm.momentum, {name: buffer.clone() for name, buffer in norm.named_buffers()}) for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    try:
        for given in batches:
            module(*given.args, **given.kwargs)
    except ValueError as error:  # torch wants more than one value per channel
        raise DataError(f"recover='batch_norm' needs batches with several samples: {error}") from error
    finally:
        for norm, momentum, buffers in before:
            norm.momentum = momentum
            kept = buffers if not norm.num_batches_tracked else {"num_batches_tracked": buffers["num_batches_tracked"]}
            for name, buffer in kept.items():  # all of them where no batch has come by
                getattr(norm, name).copy_(buffer)
