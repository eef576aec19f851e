"""Results on meta tensors for the commonest calls, without asking torch.

The shape functions of these operations are written in Python inside torch and would take most of the time of a
trace. A call that does not look right is left to torch, which then raises its own error.
"""

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor

_SAME = frozenset(
    """instance_norm group_norm relu relu6 leaky_relu elu gelu silu hardswish hardsigmoid sigmoid tanh hardtanh clamp
    softmax""".split()
)
_PAIR = frozenset("add __add__ __iadd__ mul __mul__ __imul__ sub __sub__".split())


def shortcut(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], inplace: bool) -> Any:
    """What the call gives, or None where torch has to be asked."""
    if not args or "dtype" in kwargs or "out" in kwargs:
        return None
    if name == "cat":
        return _cat(args, kwargs)
    first = args[0]
    if not isinstance(first, Tensor) or not first.dtype.is_floating_point:
        return None
    if name in _SAME or (name in _PAIR and _fits(args)):
        return first if inplace else torch.empty_like(first)
    rule = _RULES.get(name)
    return rule(args, kwargs) if rule else None


def _fits(args: tuple[Any, ...]) -> bool:
    first, second = args[0], args[1] if len(args) > 1 else None
    if isinstance(second, Tensor):
        return bool(second.shape == first.shape and second.dtype == first.dtype)
    return isinstance(second, (int, float)) and not isinstance(second, bool)


def _cat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    parts, axis = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    first: Tensor = parts[0]
    if not all(part.dim() == first.dim() and part.dtype == first.dtype for part in parts):
        return None
    axis %= first.dim()
    shapes = [list(part.shape) for part in parts]
    total = sum(shape[axis] for shape in shapes)
    rests = [shape[:axis] + shape[axis + 1 :] for shape in shapes]
    if any(rest != rests[0] for rest in rests):
        return None
    return first.new_empty([*shapes[0][:axis], total, *shapes[0][axis + 1 :]])


def _batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    first, statistics = args[0], [item for item in args[1:5] if isinstance(item, Tensor)]
    fits = first.dim() > 1 and all(item.shape == first.shape[1:2] for item in statistics)
    return torch.empty_like(first) if fits else None


def _layer_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    first, shape = args[0], tuple(args[1])
    return torch.empty_like(first) if tuple(first.shape[first.dim() - len(shape) :]) == shape else None


def _linear(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    first: Tensor = args[0]
    weight = args[1] if len(args) > 1 else None
    if not isinstance(weight, Tensor) or weight.dim() != 2 or first.shape[-1:] != weight.shape[1:]:
        return None
    return first.new_empty([*first.shape[:-1], weight.shape[0]])


def _conv(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Positional arguments, as nn.Conv passes them: input, weight, bias, stride, padding, dilation, groups."""
    if len(args) < 7 or kwargs or not all(isinstance(item, tuple) for item in args[3:6]):
        return None
    first: Tensor = args[0]
    weight, groups = args[1], args[6]
    if first.dim() != weight.dim() or first.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    sizes = []
    for axis, stride, padding, dilation in zip(range(2, first.dim()), *args[3:6], strict=True):
        reach = first.shape[axis] + 2 * padding - dilation * (weight.shape[axis] - 1) - 1
        sizes.append(reach // stride + 1)
    return first.new_empty([first.shape[0], weight.shape[0], *sizes]) if min(sizes) > 0 else None


def _adaptive_pool(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    first: Tensor = args[0]
    size = args[1] if len(args) > 1 else kwargs.get("output_size")
    if isinstance(size, int):
        size = (size, size)
    if first.dim() != 4 or not isinstance(size, tuple) or len(size) != 2:
        return None
    return first.new_empty(
        [*first.shape[:2], *(given or own for given, own in zip(size, first.shape[2:], strict=True))]
    )


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    if len(args) < 3 or kwargs.get("enable_gqa"):  # other keywords do not change shapes
        return None
    (*batch, length, width), key, value = args[0].shape, args[1].shape, args[2].shape
    if list(key[:-2]) != batch or list(value[:-2]) != batch or key[-1] != width or key[-2] != value[-2]:
        return None
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    return args[0].new_empty([*batch, length, value[-1]]) if mask is None else None


def _recurrent(gates: int) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """Positional arguments, as nn.RNNBase passes them: torch would run every step of the sequence."""

    def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) != 9 or isinstance(args[3], (list, tuple)):  # a packed sequence
            return None
        first, given, weights, rows = args[0], args[1], args[2], args[4] * (1 + args[7])
        states = list(given) if isinstance(given, (list, tuple)) else [given]
        cell, shown, batch = weights[0].shape[0] // gates, weights[1].shape[1], first.shape[0 if args[8] else 1]
        if first.shape[-1] != weights[0].shape[1] or first.dim() != 3:
            return None
        if [tuple(state.shape) for state in states] != [(rows, batch, size) for size in (shown, cell)][: len(states)]:
            return None
        output = first.new_empty([*first.shape[:-1], shown * (1 + args[7])])
        return (output, *(torch.empty_like(state) for state in states))

    return rule


_RULES: dict[str, Callable[[tuple[Any, ...], dict[str, Any]], Any]] = {
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "adaptive_avg_pool2d": _adaptive_pool,
    **{f"conv{n}d": _conv for n in (1, 2, 3)},
    "scaled_dot_product_attention": _attention,
    "lstm": _recurrent(4),
    "gru": _recurrent(3),
    "rnn_tanh": _recurrent(1),
    "rnn_relu": _recurrent(1),
}
