"""Torch's names in the canonical vocabulary: one table for functions, methods and ATen operators.

A translation takes a `Call` (tensors already replaced by values) and returns (operation, inputs, attributes).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ...graph import Shape, Value

Translated = tuple[str, tuple[Value | None, ...], dict[str, Any]]


class Unsupported(Exception):
    """This call of a known function has no counterpart; the message becomes the reason of the lock."""


@dataclass(frozen=True)
class Call:
    """One torch call; tensors are values, `shapes` are those of the results."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[Shape, ...]

    def get(self, position: int, *names: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def tensor(self, position: int, *names: str) -> Value:
        """An argument that must be a tensor."""
        value = self.get(position, *names)
        if not isinstance(value, Value):
            raise Unsupported(f"'{self.name}' without a tensor as argument {position + 1}")
        return value

    @property
    def x(self) -> Value:
        """The first tensor."""
        return self.tensor(0, "input", "self", "x", "tensor")

    def varargs(self, position: int, *names: str) -> tuple[int, ...]:
        """`f(x, 1, 2)` or `f(x, (1, 2))`."""
        value = self.get(position, *names, default=())
        return tuple(value) if isinstance(value, (tuple, list)) else tuple(self.args[position:]) or (value,)


def base_name(func: Any) -> str:
    """ "add" for torch.add, Tensor.add_, aten.add.Tensor; properties give their own name."""
    packet = getattr(func, "overloadpacket", None)
    name: str = packet.__name__ if packet is not None else getattr(func, "__name__", str(func))
    if name == "__get__":
        return "." + str(getattr(func.__self__, "__name__", "?"))
    if name == "__set__":
        return "set " + str(getattr(func.__self__, "__name__", "?"))
    return name if name.startswith("__") else name.rstrip("_")


def is_inplace(func: Any, kwargs: dict[str, Any]) -> bool:
    """True where the call writes into an argument."""
    packet = getattr(func, "overloadpacket", None)
    name = packet.__name__ if packet is not None else getattr(func, "__name__", "")
    augmented = name.startswith("__i") and name not in ("__invert__", "__int__", "__index__")
    trailing = name.endswith("_") and not name.startswith("__")
    return augmented or trailing or bool(kwargs.get("inplace")) or kwargs.get("out") is not None


def axis_of(value: Value, axis: int) -> int:
    """A non-negative axis."""
    return axis % max(len(value.shape), 1)


def _axes(call: Call, axes: Any, value: Value) -> list[int] | None:
    if axes is None or (isinstance(axes, (list, tuple)) and not axes):
        return None
    return [axis_of(value, axis) for axis in (axes if isinstance(axes, (list, tuple)) else [axes])]


# ---- element-wise ----------------------------------------------------------------------------------------


def _unary(name: str) -> Callable[[Call], Translated]:
    return lambda call: (name, (call.x,), {})


def _binary(name: str) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        first, second = call.get(0, "input", "self"), call.get(1, "other", "exponent", "value")
        values = tuple(item for item in (first, second) if isinstance(item, Value))
        alpha = call.kwargs.get("alpha", 1)
        if len(values) == 2:
            return name, values, {}
        if not values or not isinstance(alpha, (int, float)):
            raise Unsupported(f"'{call.name}' of something that is not a tensor")
        scalar = second if isinstance(first, Value) else first
        if name in ("mul", "div") and isinstance(first, Value):
            return "identity", values, {}
        if name == "div":
            return "scalar_rdiv", values, {}
        if name == "mul":
            return "identity", values, {}
        if name in ("add", "sub") and scalar == 0:
            return "identity", values, {}
        return name, values, {"scalar": True}

    return translate


def _reversed(name: str) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        return _binary(name)(Call(call.name, (call.get(1, "other"), call.get(0)), {}, call.shapes))

    return translate


def _power(call: Call) -> Translated:
    base, exponent = call.get(0, "input", "self"), call.get(1, "exponent")
    if isinstance(base, Value) and not isinstance(exponent, Value):
        return ("power" if exponent > 0 else "reciprocal"), (base,), {}
    return _compare(call)


def _compare(call: Call) -> Translated:
    values = tuple(
        item for item in (call.get(0, "input", "self"), call.get(1, "other", "exponent")) if isinstance(item, Value)
    )
    return "compare", values, {}


def _clamp(call: Call) -> Translated:
    low, high = call.get(1, "min", "min_val"), call.get(2, "max", "max_val")
    if call.name == "clamp_min":
        low, high = call.get(1, "min"), None
    if call.name == "clamp_max":
        low, high = None, call.get(1, "max")
    bounds = tuple(bound for bound in (low, high) if isinstance(bound, Value))
    if bounds:
        return "clamp", (call.x, *bounds), {}
    return "clamp", (call.x,), {"low": low, "high": high}


def _where(call: Call) -> Translated:
    values = tuple(item for item in (*call.args, *call.kwargs.values()) if isinstance(item, Value))
    return "where", values, {}


def _addcmul(call: Call) -> Translated:
    return "where", (call.x, call.tensor(1, "tensor1"), call.tensor(2, "tensor2")), {}


def _same(call: Call) -> Translated:
    return "identity", (call.x,), {}


def _constant(call: Call) -> Translated:
    return "constant", (), {}


# ---- contractions ----------------------------------------------------------------------------------------


def _linear(call: Call) -> Translated:
    return "linear", (call.x, call.tensor(1, "weight"), call.get(2, "bias")), {}


def _matmul(call: Call) -> Translated:
    return "matmul", (call.tensor(0, "input", "self"), call.tensor(1, "other", "mat2", "vec", "tensor2")), {}


def _addmm(call: Call) -> Translated:
    scaled = any(call.kwargs.get(key, 1) != 1 for key in ("beta", "alpha"))
    if scaled and call.kwargs.get("beta", 1) == 0:
        raise Unsupported("addmm with beta = 0")
    return "addmm", (call.x, call.tensor(1, "mat1"), call.tensor(2, "mat2")), {}


def _einsum(call: Call) -> Translated:
    operands = call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(call.args[0], str):
        raise Unsupported("einsum in sublist format")
    return "einsum", tuple(operands), {"equation": call.args[0]}


def _conv(call: Call) -> Translated:
    transposed = "transpose" in call.name
    groups = call.get(6, "groups", default=1)
    if transposed:
        groups = call.get(6, "groups", default=1)
    bias = call.get(2, "bias")
    return "conv", (call.x, call.tensor(1, "weight"), bias), {"groups": groups, "transposed": transposed}


def _convolution(call: Call) -> Translated:
    """aten.convolution: input, weight, bias, stride, padding, dilation, transposed, output_padding, groups."""
    attrs = {"groups": call.get(8, "groups"), "transposed": call.get(6, "transposed")}
    return "conv", (call.x, call.tensor(1, "weight"), call.get(2, "bias")), attrs


def _attention(call: Call) -> Translated:
    q, k, v = (call.tensor(i, name) for i, name in enumerate(("query", "key", "value")))
    mask = call.get(3, "attn_mask")
    if isinstance(mask, Value) and any(size > 1 for size in mask.shape[:-2]):
        raise Unsupported("attention with a mask per head")
    return "attention", (q, k, v), {"grouped": bool(call.kwargs.get("enable_gqa"))}


def _multi_head(call: Call) -> Translated:
    raise Unsupported("nn.MultiheadAttention derives its head width from the embedding width, so neither can change")


def _embedding(call: Call) -> Translated:
    first, second = call.tensor(0, "input", "weight"), call.tensor(1, "weight", "indices")
    index, weight = (first, second) if "int" in first.dtype else (second, first)
    return "embedding", (index, weight), {}


# ---- norms -----------------------------------------------------------------------------------------------


def _running_norm(name: str) -> Callable[[Call], Translated]:
    """torch and ATen (9 arguments) put scale and shift first; torch.nn.functional puts the statistics first."""

    def translate(call: Call) -> Translated:
        if len(call.args) >= 9:
            return name, (call.x, *call.args[1:5]), {}
        statistics = call.get(1, "running_mean"), call.get(2, "running_var")
        return name, (call.x, call.get(3, "weight"), call.get(4, "bias"), *statistics), {}

    return translate


def _group_norm(call: Call) -> Translated:
    attrs = {"groups": call.get(1, "num_groups")}
    return "group_norm", (call.x, call.get(2, "weight"), call.get(3, "bias")), attrs


def _layer_norm(call: Call) -> Translated:
    attrs = {"dims": len(call.get(1, "normalized_shape"))}
    return "layer_norm", (call.x, call.get(2, "weight"), call.get(3, "bias")), attrs


def _rms_norm(call: Call) -> Translated:
    return "rms_norm", (call.x, call.get(2, "weight")), {"dims": len(call.get(1, "normalized_shape"))}


def _prelu(call: Call) -> Translated:
    return "prelu", (call.x, call.tensor(1, "weight")), {}


# ---- views -----------------------------------------------------------------------------------------------


def _reshape(call: Call) -> Translated:
    if prod(call.x.shape) != prod(call.shapes[0]):
        raise Unsupported(f"'{call.name}' that reinterprets memory")
    if call.name == "view" and len(call.args) > 1 and isinstance(call.args[1], torch.dtype):
        raise Unsupported("a view as another dtype")
    return "reshape", (call.x,), {"shape": call.shapes[0]}


def _permute(call: Call) -> Translated:
    order = call.varargs(1, "dims")
    return "permute", (call.x,), {"order": [axis_of(call.x, axis) for axis in order]}


def _transpose(call: Call) -> Translated:
    rank = len(call.x.shape)
    order = list(range(rank))
    if call.name in ("t", ".T", ".H"):
        first, second = 0, 1
        if call.name == ".T" or rank < 2:
            return "permute", (call.x,), {"order": order[::-1]}
    elif call.name in (".mT", ".mH"):
        first, second = -2, -1
    else:
        first, second = call.get(1, "dim0", "axis0"), call.get(2, "dim1", "axis1")
    order[first], order[second] = order[second], order[first]
    return "permute", (call.x,), {"order": order}


def _movedim(call: Call) -> Translated:
    source, target = call.get(1, "source"), call.get(2, "destination")
    pairs = zip(*(item if isinstance(item, (list, tuple)) else [item] for item in (source, target)), strict=True)
    where = {axis_of(call.x, new): axis_of(call.x, old) for old, new in pairs}
    rest = iter(axis for axis in range(len(call.x.shape)) if axis not in where.values())
    order = [where[axis] if axis in where else next(rest) for axis in range(len(call.x.shape))]
    return "permute", (call.x,), {"order": order}


def _cat(call: Call) -> Translated:
    parts = tuple(call.get(0, "tensors"))
    axis = call.get(1, "dim", "axis", default=0)
    return "cat", parts, {"axis": axis % len(call.shapes[0])}


def _stack(call: Call) -> Translated:
    return "stack", tuple(call.get(0, "tensors")), {"axis": call.get(1, "dim", default=0) % len(call.shapes[0])}


def _split(call: Call) -> Translated:
    axis = axis_of(call.x, call.get(2, "dim", default=0))
    attrs = {"axis": axis, "sizes": [shape[axis] for shape in call.shapes], "even": "chunk" in call.name}
    return "split", (call.x,), attrs


def _unbind(call: Call) -> Translated:
    return "unbind", (call.x,), {"axis": axis_of(call.x, call.get(1, "dim", default=0))}


def _bounds(value: Value, axis: int, start: Any, stop: Any, step: Any) -> tuple[int, int, int, int]:
    if any(isinstance(item, Value) for item in (start, stop, step)):
        raise Unsupported("is sliced between bounds that are tensors")
    first, last, stride = slice(start, stop, step).indices(value.shape[axis])
    return axis, first, max(first, last), stride


def _getitem_of(call: Call, cuts: list[tuple[int, int, int, int]], picks: list[tuple[int, int]]) -> Translated:
    return "getitem", (call.x,), {"cuts": cuts, "picks": picks}


def _select(call: Call) -> Translated:
    axis, index = axis_of(call.x, call.get(1, "dim")), call.get(2, "index")
    if not isinstance(index, int):
        raise Unsupported("is picked by a tensor")
    return _getitem_of(call, [], [(axis, index % call.x.shape[axis])])


def _slice(call: Call) -> Translated:
    axis = axis_of(call.x, call.get(1, "dim", default=0))
    parts = call.get(2, "start"), call.get(3, "end"), call.get(4, "step", default=1)
    return _getitem_of(call, [_bounds(call.x, axis, *parts)], [])


def _narrow(call: Call) -> Translated:
    axis, start, length = axis_of(call.x, call.get(1, "dim")), call.get(2, "start"), call.get(3, "length")
    if not isinstance(start, int):
        raise Unsupported("is narrowed from a start that is a tensor")
    start %= call.x.shape[axis] + 1
    return _getitem_of(call, [(axis, start, start + length, 1)], [])


def _getitem(call: Call) -> Translated:
    """x[...] with numbers, slices, None and one ellipsis."""
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if any(not isinstance(item, (int, slice, type(None), type(...))) or isinstance(item, bool) for item in index):
        raise Unsupported("is indexed by a list or tensor")
    hole = len(call.x.shape) - sum(isinstance(item, (int, slice)) for item in index)
    axis, cuts, picks = 0, [], []
    for item in index:
        if item is ...:
            axis += hole
        elif isinstance(item, int):
            picks.append((axis, item % call.x.shape[axis]))
            axis += 1
        elif item is not None:
            cut = _bounds(call.x, axis, item.start, item.stop, item.step)
            if cut[1:] != (0, call.x.shape[axis], 1):
                cuts.append(cut)
            axis += 1
    return _getitem_of(call, cuts, picks)


def _index_select(call: Call) -> Translated:
    raise Unsupported("is indexed by a list or tensor")


def _flip(call: Call) -> Translated:
    axes = call.varargs(1, "dims") if call.name == "flip" else {"fliplr": (1,), "flipud": (0,)}[call.name]
    return "flip", (call.x,), {"axes": [axis_of(call.x, axis) for axis in axes]}


def _roll(call: Call) -> Translated:
    axes = _axes(call, call.get(2, "dims"), call.x)
    return "roll", (call.x,), {"axes": list(range(len(call.x.shape))) if axes is None else axes}


def _expand(call: Call) -> Translated:
    return "expand", (call.x,), {"shape": call.shapes[0]}


def _repeat(call: Call) -> Translated:
    times = call.varargs(1, "repeats", "dims")
    times = (1,) * (len(call.shapes[0]) - len(times)) + tuple(times)
    return "repeat", (call.x,), {"times": times}


def _repeat_interleave(call: Call) -> Translated:
    times, axis = call.get(1, "repeats"), call.get(2, "dim")
    if not isinstance(times, int) or axis is None:
        raise Unsupported("repeat_interleave with a tensor of repeats or without an axis")
    return "repeat_interleave", (call.x,), {"axis": axis_of(call.x, axis), "times": times}


def _pad(call: Call) -> Translated:
    amounts, rank = list(call.get(1, "pad")), len(call.x.shape)
    pads = {rank - 1 - i // 2: (amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)}
    pads = {axis: pair for axis, pair in pads.items() if any(pair)}
    constant = call.get(2, "mode", default="constant") in ("constant",) or not isinstance(call.get(2), str)
    value = call.get(3, "value", default=0) or 0
    return "pad", (call.x,), {"pads": pads, "zero": constant, "value": value}


def _shuffle(name: str) -> Callable[[Call], Translated]:
    key = "groups" if name == "channel_shuffle" else "factor"
    return lambda call: (name, (call.x,), {key: call.get(1, "upscale_factor", "downscale_factor", "groups")})


# ---- reductions and operations along axes ----------------------------------------------------------------


def _reduce(name: str) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        second = call.get(1, "dim", "axis")
        if name in ("max", "min") and isinstance(call.get(1, "other"), Value):
            return "maximum" if name == "max" else "minimum", (call.x, call.get(1, "other")), {}
        keep = len(call.shapes[0]) == len(call.x.shape)
        return (
            name,
            (call.x,),
            {"axes": None if isinstance(second, bool) else _axes(call, second, call.x), "keepdims": keep},
        )

    return translate


def _norm(call: Call) -> Translated:
    axes = call.get(2, "dim", default=None)
    keep = len(call.shapes[0]) == len(call.x.shape)
    return "norm", (call.x,), {"axes": _axes(call, axes, call.x), "keepdims": keep}


def _along(name: str, position: int = 1, default: int | None = -1) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        axis = call.get(position, "dim", "axis", default=default)
        return name, (call.x,), {"axis": None if axis is None else axis_of(call.x, axis)}

    return translate


def _pool(call: Call) -> Translated:
    digits = [int(letter) for letter in call.name if letter.isdigit()]
    return "pool", (call.x,), {"dims": digits[-1] if digits else 1}


def _interpolate(call: Call) -> Translated:
    return "interpolate", (call.x,), {"dims": len(call.x.shape) - 2}


def _table() -> dict[str, Callable[[Call], Translated]]:
    table: dict[str, Callable[[Call], Translated]] = {}
    for name in """relu relu6 leaky_relu elu selu celu gelu silu mish hardswish tanh hardtanh tanhshrink softsign
        softshrink hardshrink erf sin tan asin atan sinh asinh atanh expm1 log1p abs neg sign sqrt square round floor
        ceil trunc frac nan_to_num sigmoid hardsigmoid logsigmoid softplus exp exp2 log log2 log10 rsqrt reciprocal
        cos cosh acos acosh erfc logical_not bitwise_not isnan isinf isfinite threshold digamma lgamma rrelu
        positive""".split():
        table[name] = _unary(name)
    table |= {"absolute": table["abs"], "__neg__": table["neg"], "__abs__": table["abs"], "special_erf": table["erf"]}
    table |= {"__invert__": table["logical_not"], "negative": table["neg"], "special_expit": table["sigmoid"]}
    table |= {"hardtanh": _clamp_default(-1.0, 1.0), "relu6": table["relu6"]}
    for operation, names in {
        "add": "add __add__ __iadd__ __radd__",
        "sub": "sub subtract __sub__ __isub__",
        "mul": "mul multiply __mul__ __imul__ __rmul__",
        "div": "div divide true_divide __truediv__ __itruediv__ __div__",
        "maximum": "maximum fmax",
        "minimum": "minimum fmin",
        "logical_and": "logical_and bitwise_and __and__",
    }.items():
        table |= dict.fromkeys(names.split(), _binary(operation))
    table |= {"rsub": _reversed("sub"), "__rsub__": _reversed("sub")}
    table |= {"__rtruediv__": _reversed("div"), "__rdiv__": _reversed("div")}
    table |= dict.fromkeys("pow __pow__ __ipow__ float_power".split(), _power)
    table |= dict.fromkeys(
        """eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ logical_or logical_xor bitwise_or __or__
        floor_divide remainder fmod __floordiv__ __mod__ atan2""".split(),
        _compare,
    )
    table |= dict.fromkeys("clamp clip clamp_min clamp_max".split(), _clamp)
    table |= dict.fromkeys("where masked_fill".split(), _where)
    table |= dict.fromkeys("addcmul addcdiv lerp".split(), _addcmul)
    table |= dict.fromkeys(
        """contiguous clone detach to type type_as float double half bfloat16 dropout dropout1d dropout2d dropout3d
        alpha_dropout feature_dropout feature_alpha_dropout _to_copy lift_fresh alias identity requires_grad cpu
        .data native_dropout copy_to_device lift_fresh_copy""".split(),
        _same,
    )
    table |= dict.fromkeys(
        """zeros ones empty full arange linspace eye zeros_like ones_like empty_like full_like rand randn rand_like
        randn_like tensor as_tensor scalar_tensor new_zeros new_ones new_empty new_full new_tensor tril_indices
        triu_indices meshgrid""".split(),
        _constant,
    )
    table |= {"linear": _linear, "addmm": _addmm, "einsum": _einsum, "prelu": _prelu, "embedding": _embedding}
    table |= dict.fromkeys("matmul mm bmm mv dot __matmul__ __rmatmul__".split(), _matmul)
    table["__rmatmul__"] = lambda call: _matmul(Call("matmul", call.args[::-1], {}, call.shapes))
    table |= {f"conv{n}d": _conv for n in (1, 2, 3)} | {f"conv_transpose{n}d": _conv for n in (1, 2, 3)}
    table |= {"convolution": _convolution, "_convolution": _convolution}
    table |= {"scaled_dot_product_attention": _attention, "multi_head_attention_forward": _multi_head}
    table |= {
        "batch_norm": _running_norm("batch_norm"),
        "_native_batch_norm_legit_no_training": _aten_norm,
        "native_batch_norm": _aten_norm,
    }
    table |= {"instance_norm": _running_norm("instance_norm"), "group_norm": _group_norm}
    table |= {"layer_norm": _layer_norm, "native_layer_norm": _layer_norm, "rms_norm": _rms_norm}
    names = "view reshape flatten unflatten squeeze unsqueeze ravel view_as reshape_as _unsafe_view _reshape_alias"
    table |= dict.fromkeys(names.split(), _reshape)
    table |= {"permute": _permute} | dict.fromkeys("transpose swapaxes swapdims t .T .mT .H .mH".split(), _transpose)
    table |= dict.fromkeys("movedim moveaxis".split(), _movedim)
    table |= dict.fromkeys("cat concat concatenate".split(), _cat) | {"stack": _stack}
    table |= dict.fromkeys("split split_with_sizes chunk tensor_split unsafe_chunk unsafe_split".split(), _split)
    table |= {"unbind": _unbind, "select": _select, "slice": _slice, "narrow": _narrow, "__getitem__": _getitem}
    table |= dict.fromkeys("index_select gather index take_along_dim __setitem__".split(), _index_select)
    table |= dict.fromkeys("flip fliplr flipud".split(), _flip) | {"roll": _roll}
    table |= dict.fromkeys("expand expand_as broadcast_to".split(), _expand)
    table |= {"repeat": _repeat, "tile": _repeat, "repeat_interleave": _repeat_interleave}
    table |= {"pad": _pad, "constant_pad_nd": _constant_pad}
    table |= {name: _shuffle(name) for name in ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")}
    for operation, names in {
        "sum": "sum", "mean": "mean", "var": "var", "std": "std", "prod": "prod",
        "max": "max amax", "min": "min amin", "logsumexp": "logsumexp",
    }.items():  # fmt: skip
        table |= dict.fromkeys(names.split(), _reduce(operation))
    table |= {"norm": _norm, "linalg_vector_norm": _norm}
    table |= dict.fromkeys("softmax log_softmax _softmax _log_softmax softmin".split(), _along("softmax"))
    table |= {
        "cumsum": _along("cumsum"),
        "cumprod": _along("cumsum"),
        "sort": _along("sort"),
        "argsort": _along("sort"),
    }
    table |= {"topk": _along("topk", 2), "argmax": _along("argmax", 1, None), "argmin": _along("argmax", 1, None)}
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool"):
        table |= {f"{kind}{n}d": _pool for n in (1, 2, 3)}
    table |= {f"max_pool{n}d_with_indices": _pool for n in (1, 2, 3)} | {
        f"_adaptive_avg_pool{n}d": _pool for n in (2, 3)
    }
    table |= dict.fromkeys(
        """interpolate upsample upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d
        upsample_linear1d upsample_nearest3d upsample_trilinear3d""".split(),
        _interpolate,
    )
    return table


def _clamp_default(low: float, high: float) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        bounds = {"low": call.get(1, "min_val", default=low), "high": call.get(2, "max_val", default=high)}
        return "clamp", (call.x,), bounds

    return translate


def _aten_norm(call: Call) -> Translated:
    return "batch_norm", (call.x, *(call.get(position) for position in range(1, 5))), {}


def _constant_pad(call: Call) -> Translated:
    return _pad(Call("pad", (call.args[0], call.args[1], "constant", call.get(2, "value", default=0)), {}, call.shapes))


TRANSLATIONS = _table()

QUIET = frozenset(
    """.shape .device .dtype .requires_grad .is_cuda .is_meta .layout .grad .grad_fn .ndim .is_leaf .is_mkldnn
    .is_nested .is_quantized .is_sparse .names .output_nr .is_cpu .is_xpu .itemsize .nbytes ._version .retains_grad
    size dim stride numel nelement ndimension is_contiguous storage_offset element_size data_ptr is_floating_point
    is_complex is_signed get_device __len__ __bool__ __int__ __float__ __index__ item tolist __hash__ __repr__
    __format__ is_same_size _assert _assert_scalar _assert_async sym_size sym_stride sym_numel __contains__
    is_inference untyped_storage has_names __deepcopy__ __reduce_ex__ register_hook is_tensor equal allclose
    set .requires_grad _is_view is_pinned is_shared dense_dim sparse_dim""".split()
)
"""Calls that only ask for facts; they are run and not recorded."""
