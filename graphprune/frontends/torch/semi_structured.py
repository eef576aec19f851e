"""Linear layers with 2:4 weights as torch's semi-structured tensors, which NVIDIA GPUs multiply faster."""

from typing import Any

import torch
from torch import nn
from torch.sparse import semi_structured as torch_sparse

from ...errors import ApplyError, NothingToPruneError, TargetError
from ...plan import UNTOUCHED
from .masked import check_free
from .slicing import slim_copy

HOW = "make it with graphprune.optimize(structure='2:4'), in half precision, with sizes that are multiples of 64"


def to_semi_structured(module: nn.Module) -> nn.Module:
    """A copy whose fitting linear layers hold semi-structured weights; see `graphprune.to_semi_structured`."""
    check_free(module)
    if not torch.cuda.is_available():
        raise TargetError(
            "semi-structured tensors are for NVIDIA GPUs, and torch sees none here: run this beside a GPU"
        )
    fitting = {name: _misfit(part) for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    wanted = [name for name, problem in fitting.items() if problem is None]
    if not wanted:
        found = "; ".join(f"{name}: {problem}" for name, problem in list(fitting.items())[:3]) or "it has none"
        raise NothingToPruneError(f"no linear layer can hold a semi-structured weight ({found}): {HOW}")
    result = slim_copy(module, UNTOUCHED)
    for name in wanted:
        layer: Any = result.get_submodule(name)
        try:
            packed = torch_sparse.to_sparse_semi_structured(layer.weight.detach().contiguous())
        except RuntimeError as error:
            raise ApplyError(f"torch does not take the weight of {name} as semi-structured: {error}") from error
        layer.weight = nn.Parameter(packed, requires_grad=False)
    return result


def _misfit(layer: nn.Linear) -> str | None:
    """Why a layer cannot hold a semi-structured weight; None where it can."""
    weight = layer.weight
    if not _on_gpu(weight):
        return f"its weight lies on {weight.device}: move the model to the GPU"
    limits = torch_sparse.SparseSemiStructuredTensorCUTLASS._DTYPE_SHAPE_CONSTRAINTS
    if weight.dtype not in limits:
        return f"{weight.dtype} is none of {', '.join(str(dtype).removeprefix('torch.') for dtype in limits)}"
    rows, columns = limits[weight.dtype].sparse_min_rows, limits[weight.dtype].sparse_min_cols
    if weight.shape[0] % rows or weight.shape[1] % columns:
        return f"its sizes {tuple(weight.shape)} are no multiples of ({rows}, {columns})"
    groups = weight.detach().reshape(-1, 4)
    full = int((torch.count_nonzero(groups, dim=1) > 2).sum())
    return f"{full} of {len(groups)} groups of four inputs hold more than two weights" if full else None


def _on_gpu(weight: torch.Tensor) -> bool:
    return weight.is_cuda
