"""Slice the tensors of a module into a slim copy and bring its integer attributes in line."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...collector import collector_paused
from ...errors import ApplyError, TraceError
from ...plan import Plan
from .attention import fit_attention
from .copying import copy_with, without_caches
from .twins import stored_tensors

nn = torch.nn


def slice_tensor(tensor: torch.Tensor, axes: Mapping[int, Any]) -> torch.Tensor:
    """A new tensor with the kept indices of every axis; 2-D indices are taken row by row from blocks of axis 0."""
    with torch.no_grad():
        result = tensor.detach()
        for axis, kept in sorted(axes.items(), key=lambda item: (item[1].ndim < 2, item[1].size)):
            index = torch.as_tensor(kept, device=result.device)
            if index.ndim == 1:
                result = result.index_select(axis, index)
                continue
            rows = index.shape[0]
            blocks = result.reshape(rows, -1, *result.shape[1:])
            view = index.reshape(rows, *[1] * axis, -1, *[1] * (result.ndim - axis - 1))
            chosen = torch.take_along_dim(blocks, view, dim=axis + 1)
            result = chosen.reshape(result.shape[0], *chosen.shape[2:])
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        result = result.contiguous(memory_format=torch.channels_last)
    return result


def slim_tensor(tensor: torch.Tensor, plan: Plan, name: str) -> torch.Tensor:
    """What a plan leaves of a stored tensor: a slice, with looked-up positions brought in line; else a copy."""
    fresh = slice_tensor(tensor, plan.kept[name]) if name in plan.kept else tensor.detach().clone()
    if name in plan.lookups:
        fresh = torch.as_tensor(plan.lookups[name], device=fresh.device)[fresh.long()].to(fresh.dtype)
    if name in plan.repairs:
        fresh = repaired(fresh, *plan.repairs[name]).to(fresh.dtype)
    return fresh


def repaired(scale: torch.Tensor, share: float, offset: float) -> torch.Tensor:
    """The scale of a root-mean-square norm that sees `share` times fewer positions, in float64."""
    return (scale.detach().double() + offset).mul(share**0.5).sub(offset)


def canonical_names(module: nn.Module) -> dict[int, str]:
    """The first name of every stored tensor, by identity."""
    names: dict[int, str] = {}
    for name, tensor, _ in stored_tensors(module):
        names.setdefault(id(tensor), name)
    return names


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes by first name; what a plan's fingerprint is made of."""
    first: dict[int, tuple[str, tuple[int, ...]]] = {}
    for name, tensor, _ in stored_tensors(module):
        first.setdefault(id(tensor), (name, tuple(tensor.shape)))
    return dict(first.values())


@collector_paused()
def slim_copy(module: nn.Module, plan: Plan) -> nn.Module:
    """A deep copy of `module` whose tensors are sliced: at no time is there a second copy of the full weights."""
    names: dict[int, str] = {}
    memo: dict[int, Any] = {}
    for name, tensor, _ in stored_tensors(module):
        if id(tensor) in memo:
            continue
        names[id(tensor)] = name
        fresh = slim_tensor(tensor, plan, name)
        if isinstance(tensor, nn.Parameter):
            fresh = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = fresh
    try:
        slim = without_caches(copy_with(module, memo))
    except TraceError as error:
        raise ApplyError(str(error)) from error
    groups = {id(memo[key]): plan.groups[name] for key, name in names.items() if name in plan.groups}
    for part in slim.modules():
        refresh(part, groups)
    fit_attention(slim)
    return slim


def refresh(part: nn.Module, groups: Mapping[int, int]) -> None:
    """Derive the integer attributes of one layer from the shapes of its tensors."""
    for kind, update in _ATTRIBUTES:
        if isinstance(part, kind):
            update(part, groups)
            return


def _conv(part: Any, groups: Mapping[int, int]) -> None:
    weight = part._parameters.get("weight")
    if weight is None:  # parametrized: the shape belongs to the parametrization
        return
    part.groups = groups.get(id(weight), part.groups)
    if part.transposed:
        part.in_channels, part.out_channels = weight.shape[0], weight.shape[1] * part.groups
    else:
        part.out_channels, part.in_channels = weight.shape[0], weight.shape[1] * part.groups


def _linear(part: Any, groups: Mapping[int, int]) -> None:
    weight = part._parameters.get("weight")
    if weight is not None:
        part.out_features, part.in_features = weight.shape


def _sized(attribute: str) -> Callable[[Any, Mapping[int, int]], None]:
    def update(part: Any, groups: Mapping[int, int]) -> None:
        tensor = part._parameters.get("weight")
        tensor = part._buffers.get("running_mean") if tensor is None else tensor
        if tensor is not None:
            setattr(part, attribute, tensor.shape[0])

    return update


def _group_norm(part: Any, groups: Mapping[int, int]) -> None:
    weight = part._parameters.get("weight")
    if weight is not None:
        part.num_channels, part.num_groups = weight.shape[0], groups.get(id(weight), part.num_groups)


def _normalized(part: Any, groups: Mapping[int, int]) -> None:
    if part._parameters.get("weight") is not None:
        part.normalized_shape = tuple(part.weight.shape)


def _embedding(part: Any, groups: Mapping[int, int]) -> None:
    if part._parameters.get("weight") is not None:
        part.num_embeddings, part.embedding_dim = part.weight.shape


def _bilinear(part: Any, groups: Mapping[int, int]) -> None:
    if part._parameters.get("weight") is not None:
        part.out_features, part.in1_features, part.in2_features = part.weight.shape


_GATES = {nn.LSTM: 4, nn.GRU: 3, nn.LSTMCell: 4, nn.GRUCell: 3}


def _recurrent(part: Any, groups: Mapping[int, int]) -> None:
    cell = isinstance(part, nn.RNNCellBase)
    weight = part._parameters.get("weight_ih" if cell else "weight_ih_l0")
    if weight is None:
        return
    gates = next((number for kind, number in _GATES.items() if isinstance(part, kind)), 1)
    part.hidden_size, part.input_size = weight.shape[0] // gates, weight.shape[1]
    if not cell and part.proj_size:
        part.proj_size = part.weight_hr_l0.shape[0]
    if not cell and weight.is_cuda:
        part.flatten_parameters()


_ATTRIBUTES: list[tuple[Any, Callable[[Any, Mapping[int, int]], None]]] = [
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    ((nn.modules.batchnorm._NormBase,), _sized("num_features")),
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _normalized),
    (getattr(nn, "RMSNorm", ()), _normalized),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.Bilinear, _bilinear),
    (nn.PReLU, _sized("num_parameters")),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
]
"""Layer type -> how its integers follow from its tensors. A new layer type is one line."""
