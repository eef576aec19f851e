"""Run a torch model for verification: in float64, with dropped parameters set to zero on the fly.

Every tensor is converted when a call reads it, so neither the model nor a second copy of its weights is touched.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ...errors import ExampleInputsError, GraphPruneError, VerifyError
from ...plan import Plan
from ...shapes import living
from .attention import open_attention
from .calls import base_name, is_inplace
from .inputs import Inputs, normalise, perturb, rebuild
from .names import QUIET
from .read import analyze
from .record import _plain, recorder_for
from .slicing import repaired
from .survivors import Survivors
from .translate import default_eps
from .twins import device_of, twin_of

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class _Masked(TorchFunctionMode):
    """Multiplies stored tensors by their masks and converts floats to float64, call by call."""

    def __init__(self, masks: dict[int, torch.Tensor], rounded: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.masks, self.rounded = masks, rounded

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch call on masked and widened arguments."""
        kwargs = kwargs or {}
        name = base_name(func)
        if name in QUIET:
            result = func(*args, **kwargs)
            return torch.float64 if name == ".dtype" and result in _FLOATS else result
        if name in ("float", "half", "bfloat16"):  # casts written into the model must not lose digits
            func = torch.Tensor.double
        func = _WIDE.get(name, func)
        if name == "rms_norm":
            args = _with_eps(*args, **kwargs)
            kwargs = {}
        args, kwargs = tree_map(self._change, (args, kwargs))
        if name == "full" and isinstance(args[-1], float):  # the least float64 does not fit into torch's default
            kwargs = {"dtype": torch.float64, **kwargs}
        result = func(*args, **kwargs)
        return result if is_inplace(func, kwargs) else tree_map(_wide, result)

    def _change(self, item: Any) -> Any:
        if isinstance(item, torch.dtype) and item in _FLOATS:
            return torch.float64
        if not isinstance(item, torch.Tensor):
            return item
        mask, item = self.masks.get(id(item)), self.rounded.get(id(item), item)
        if item.dtype in _FLOATS:
            item = item.detach().to(torch.float64)
        return item if mask is None else item.detach() * mask.to(item.dtype)


def masked_run(module: torch.nn.Module, inputs: Inputs, plan: Plan | None, *watchers: TorchFunctionMode) -> Any:
    """What one run in evaluation mode gives, in float64; with a plan, what it drops is set to zero.

    Inexact operations see the living positions only. Watchers see every call before it is masked.
    """
    twin, stored = twin_of(module, None)
    if watchers or (plan is not None and not plan.exact):  # the calls are to be those of an analysis
        open_attention(twin)
    device = device_of(twin)
    masks = {
        id(tensor): torch.from_numpy(plan.mask(name)).to(tensor.device)
        for name, tensor, _ in stored
        if plan is not None and name in plan.kept and name not in plan.lookups
    }
    rounded = {
        id(tensor): _rounded(tensor, *plan.repairs[name])
        for name, tensor, _ in stored
        if plan is not None and name in plan.repairs
    }
    arguments = tree_map(lambda item: _widen(item, device), inputs)
    analysis = analyze(module, inputs, plan.policy) if plan is not None and not plan.exact else None
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Masked(masks, rounded))
        if plan is not None and analysis is not None:
            recorder = recorder_for(stored, Survivors, dry=False).follow(analysis, living(analysis, plan))
            stack.callback(recorder.finish)
            arguments = recorder.open(arguments, device)
            stack.enter_context(recorder)
        for watcher in watchers:
            stack.enter_context(watcher)
        return twin(*arguments.args, **arguments.kwargs)


def _with_eps(
    input: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> tuple[Any, ...]:
    """The arguments of a root-mean-square norm, with the eps that belongs to the dtype of its scale."""
    if eps is None and weight is not None:
        eps = default_eps(str(weight.dtype))
    return input, normalized_shape, weight, eps


def _grouped_mm(x: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor, **_: Any) -> torch.Tensor:
    ends = offs.tolist()
    rows = zip([0, *ends], ends, weight, strict=False)
    return torch.cat([x[start:end] @ matrix for start, end, matrix in rows])


_WIDE: dict[str, Callable[..., Any]] = dict.fromkeys(("_grouped_mm", "grouped_mm"), _grouped_mm)
"""Functions that torch lacks in float64."""


def _rounded(scale: torch.Tensor, share: float, offset: float) -> torch.Tensor:
    """A scale in float64 as it is after its repair was rounded to the dtype in which it is stored."""
    stored = repaired(scale, share, offset).to(scale.dtype)
    return repaired(stored, 1 / share, offset)


def outputs(module: torch.nn.Module, inputs: Inputs, plan: Plan | None = None) -> list[NDArray[Any]]:
    """All output tensors of a masked run, as numpy. Raises `VerifyError` where the module does not run in float64."""
    try:
        result = masked_run(module, inputs, plan)
    except GraphPruneError:
        raise
    except Exception as error:
        kind = type(module).__name__
        raise VerifyError(
            f"{kind} does not run in float64, so it cannot be verified: {error}. Look at rules of your own "
            "(graphprune.register_op); for a model that runs in other precisions only, pass verify=False."
        ) from error
    tensors = [leaf for leaf in tree_leaves(_plain(result)) if isinstance(leaf, torch.Tensor)]
    return [np.asarray(tensor.detach().cpu().numpy()) for tensor in tensors]


def inputs_of(module: Any, plan: Plan | None, example_inputs: Any, seed: int) -> Inputs:
    """Random inputs in the form of the example inputs, or of those that the plan describes."""
    if example_inputs is not None:
        return perturb(normalise(example_inputs), seed)
    if plan is None or plan.inputs is None:
        raise ExampleInputsError("verification needs example_inputs= or a plan that describes them")
    return rebuild(plan.inputs, seed)


def _wide(item: Any) -> Any:
    """What a call makes anew, such as torch.zeros, joins in in float64."""
    return item.double() if isinstance(item, torch.Tensor) and item.dtype in _FLOATS else item


def _widen(item: Any, device: torch.device) -> Any:
    """A copy of a tensor on a device, floats in float64; anything else as it is."""
    if not isinstance(item, torch.Tensor):
        return item
    return item.to(device, torch.float64 if item.dtype in _FLOATS else item.dtype, copy=True)
