"""Translations: what a torch call is in the canonical vocabulary, family by family."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from ...graph import Value
from .calls import Call, Translated, Unsupported, axes_of, axis_of

# ---- element-wise ----------------------------------------------------------------------------------------


def unary_call(name: str) -> Callable[[Call], Translated]:
    return lambda call: (name, (call.x,), {})


def binary_call(name: str) -> Callable[[Call], Translated]:
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


def reversed_call(name: str) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        return binary_call(name)(Call(call.name, (call.get(1, "other"), call.get(0)), {}, call.shapes))

    return translate


def power_call(call: Call) -> Translated:
    base, exponent = call.get(0, "input", "self"), call.get(1, "exponent")
    if isinstance(base, Value) and not isinstance(exponent, Value):
        return ("power" if exponent > 0 else "reciprocal"), (base,), {}
    return compare_call(call)


def compare_call(call: Call) -> Translated:
    values = tuple(
        item for item in (call.get(0, "input", "self"), call.get(1, "other", "exponent")) if isinstance(item, Value)
    )
    return "compare", values, {}


def clamp_call(call: Call) -> Translated:
    low, high = call.get(1, "min", "min_val"), call.get(2, "max", "max_val")
    if call.name == "clamp_min":
        low, high = call.get(1, "min"), None
    if call.name == "clamp_max":
        low, high = None, call.get(1, "max")
    bounds = tuple(bound for bound in (low, high) if isinstance(bound, Value))
    if bounds:
        return "clamp", (call.x, *bounds), {}
    return "clamp", (call.x,), {"low": low, "high": high}


def where_call(call: Call) -> Translated:
    values = tuple(item for item in (*call.args, *call.kwargs.values()) if isinstance(item, Value))
    return "where", values, {}


def addcmul_call(call: Call) -> Translated:
    return "where", (call.x, call.tensor(1, "tensor1"), call.tensor(2, "tensor2")), {}


def same_call(call: Call) -> Translated:
    return "identity", (call.x,), {}


def constant_call(call: Call) -> Translated:
    return "constant", (), {}


# ---- contractions ----------------------------------------------------------------------------------------


def linear_call(call: Call) -> Translated:
    return "linear", (call.x, call.tensor(1, "weight"), call.get(2, "bias")), {}


def matmul_call(call: Call) -> Translated:
    return "matmul", (call.tensor(0, "input", "self"), call.tensor(1, "other", "mat2", "vec", "tensor2")), {}


def addmm_call(call: Call) -> Translated:
    scaled = any(call.kwargs.get(key, 1) != 1 for key in ("beta", "alpha"))
    if scaled and call.kwargs.get("beta", 1) == 0:
        raise Unsupported("addmm with beta = 0")
    return "addmm", (call.x, call.tensor(1, "mat1"), call.tensor(2, "mat2")), {}


def einsum_call(call: Call) -> Translated:
    operands = call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(call.args[0], str):
        raise Unsupported("einsum in sublist format")
    return "einsum", tuple(operands), {"equation": call.args[0]}


def conv_call(call: Call) -> Translated:
    transposed = "transpose" in call.name
    groups = call.get(6, "groups", default=1)
    if transposed:
        groups = call.get(6, "groups", default=1)
    bias = call.get(2, "bias")
    return "conv", (call.x, call.tensor(1, "weight"), bias), {"groups": groups, "transposed": transposed}


def convolution_call(call: Call) -> Translated:
    """aten.convolution: input, weight, bias, stride, padding, dilation, transposed, output_padding, groups."""
    attrs = {"groups": call.get(8, "groups"), "transposed": call.get(6, "transposed")}
    return "conv", (call.x, call.tensor(1, "weight"), call.get(2, "bias")), attrs


def attention_call(call: Call) -> Translated:
    q, k, v = (call.tensor(i, name) for i, name in enumerate(("query", "key", "value")))
    mask = call.get(3, "attn_mask")
    if isinstance(mask, Value) and any(size > 1 for size in mask.shape[:-2]):
        raise Unsupported("attention with a mask per head")
    return "attention", (q, k, v), {"grouped": bool(call.kwargs.get("enable_gqa"))}


def multi_head_call(call: Call) -> Translated:
    raise Unsupported("nn.MultiheadAttention derives its head width from the embedding width, so neither can change")


def embedding_call(call: Call) -> Translated:
    first, second = call.tensor(0, "input", "weight"), call.tensor(1, "weight", "indices")
    index, weight = (first, second) if "int" in first.dtype else (second, first)
    return "embedding", (index, weight), {}


# ---- norms -----------------------------------------------------------------------------------------------


def running_norm_call(name: str) -> Callable[[Call], Translated]:
    """torch and ATen (9 arguments) put scale and shift first; torch.nn.functional puts the statistics first."""

    def translate(call: Call) -> Translated:
        attrs = {"training": bool(call.get(5, "training", "use_input_stats"))}
        if len(call.args) >= 9:
            return name, (call.x, *call.args[1:5]), attrs
        statistics = call.get(1, "running_mean"), call.get(2, "running_var")
        return name, (call.x, call.get(3, "weight"), call.get(4, "bias"), *statistics), attrs

    return translate


def group_norm_call(call: Call) -> Translated:
    attrs = {"groups": call.get(1, "num_groups")}
    return "group_norm", (call.x, call.get(2, "weight"), call.get(3, "bias")), attrs


def layer_norm_call(call: Call) -> Translated:
    attrs = {"dims": len(call.get(1, "normalized_shape"))}
    return "layer_norm", (call.x, call.get(2, "weight"), call.get(3, "bias")), attrs


def rms_norm_call(call: Call) -> Translated:
    return "rms_norm", (call.x, call.get(2, "weight")), {"dims": len(call.get(1, "normalized_shape"))}


def prelu_call(call: Call) -> Translated:
    return "prelu", (call.x, call.tensor(1, "weight")), {}


# ---- views -----------------------------------------------------------------------------------------------


def reshape_call(call: Call) -> Translated:
    if prod(call.x.shape) != prod(call.shapes[0]):
        raise Unsupported(f"'{call.name}' that reinterprets memory")
    if call.name == "view" and len(call.args) > 1 and isinstance(call.args[1], torch.dtype):
        raise Unsupported("a view as another dtype")
    return "reshape", (call.x,), {"shape": call.shapes[0]}


def permute_call(call: Call) -> Translated:
    order = call.varargs(1, "dims")
    return "permute", (call.x,), {"order": [axis_of(call.x, axis) for axis in order]}


def transpose_call(call: Call) -> Translated:
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


def movedim_call(call: Call) -> Translated:
    source, target = call.get(1, "source"), call.get(2, "destination")
    pairs = zip(*(item if isinstance(item, (list, tuple)) else [item] for item in (source, target)), strict=True)
    where = {axis_of(call.x, new): axis_of(call.x, old) for old, new in pairs}
    rest = iter(axis for axis in range(len(call.x.shape)) if axis not in where.values())
    order = [where[axis] if axis in where else next(rest) for axis in range(len(call.x.shape))]
    return "permute", (call.x,), {"order": order}


def cat_call(call: Call) -> Translated:
    parts = tuple(call.get(0, "tensors"))
    axis = call.get(1, "dim", "axis", default=0)
    return "cat", parts, {"axis": axis % len(call.shapes[0])}


def stack_call(call: Call) -> Translated:
    return "stack", tuple(call.get(0, "tensors")), {"axis": call.get(1, "dim", default=0) % len(call.shapes[0])}


def split_call(call: Call) -> Translated:
    axis = axis_of(call.x, call.get(2, "dim", default=0))
    attrs = {"axis": axis, "sizes": [shape[axis] for shape in call.shapes], "even": "chunk" in call.name}
    return "split", (call.x,), attrs


def unbind_call(call: Call) -> Translated:
    return "unbind", (call.x,), {"axis": axis_of(call.x, call.get(1, "dim", default=0))}


def _bounds(value: Value, axis: int, start: Any, stop: Any, step: Any) -> tuple[int, int, int, int]:
    if any(isinstance(item, Value) for item in (start, stop, step)):
        raise Unsupported("is sliced between bounds that are tensors")
    first, last, stride = slice(start, stop, step).indices(value.shape[axis])
    return axis, first, max(first, last), stride


def _getitem_of(call: Call, cuts: list[tuple[int, int, int, int]], picks: list[tuple[int, int]]) -> Translated:
    return "getitem", (call.x,), {"cuts": cuts, "picks": picks}


def select_call(call: Call) -> Translated:
    axis, index = axis_of(call.x, call.get(1, "dim")), call.get(2, "index")
    if not isinstance(index, int):
        raise Unsupported("is picked by a tensor")
    return _getitem_of(call, [], [(axis, index % call.x.shape[axis])])


def slice_call(call: Call) -> Translated:
    axis = axis_of(call.x, call.get(1, "dim", default=0))
    parts = call.get(2, "start"), call.get(3, "end"), call.get(4, "step", default=1)
    return _getitem_of(call, [_bounds(call.x, axis, *parts)], [])


def narrow_call(call: Call) -> Translated:
    axis, start, length = axis_of(call.x, call.get(1, "dim")), call.get(2, "start"), call.get(3, "length")
    if not isinstance(start, int):
        raise Unsupported("is narrowed from a start that is a tensor")
    start %= call.x.shape[axis] + 1
    return _getitem_of(call, [(axis, start, start + length, 1)], [])


def getitem_call(call: Call) -> Translated:
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


def index_select_call(call: Call) -> Translated:
    raise Unsupported("is indexed by a list or tensor")


def flip_call(call: Call) -> Translated:
    axes = call.varargs(1, "dims") if call.name == "flip" else {"fliplr": (1,), "flipud": (0,)}[call.name]
    return "flip", (call.x,), {"axes": [axis_of(call.x, axis) for axis in axes]}


def roll_call(call: Call) -> Translated:
    axes = axes_of(call.get(2, "dims"), call.x)
    return "roll", (call.x,), {"axes": list(range(len(call.x.shape))) if axes is None else axes}


def expand_call(call: Call) -> Translated:
    return "expand", (call.x,), {"shape": call.shapes[0]}


def repeat_call(call: Call) -> Translated:
    times = call.varargs(1, "repeats", "dims")
    times = (1,) * (len(call.shapes[0]) - len(times)) + tuple(times)
    return "repeat", (call.x,), {"times": times}


def repeat_interleave_call(call: Call) -> Translated:
    times, axis = call.get(1, "repeats"), call.get(2, "dim")
    if not isinstance(times, int) or axis is None:
        raise Unsupported("repeat_interleave with a tensor of repeats or without an axis")
    return "repeat_interleave", (call.x,), {"axis": axis_of(call.x, axis), "times": times}


def pad_call(call: Call) -> Translated:
    amounts, rank = list(call.get(1, "pad")), len(call.x.shape)
    pads = {rank - 1 - i // 2: (amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)}
    pads = {axis: pair for axis, pair in pads.items() if any(pair)}
    constant = call.get(2, "mode", default="constant") in ("constant",) or not isinstance(call.get(2), str)
    value = call.get(3, "value", default=0) or 0
    return "pad", (call.x,), {"pads": pads, "zero": constant, "value": value}


def shuffle_call(name: str) -> Callable[[Call], Translated]:
    key = "groups" if name == "channel_shuffle" else "factor"
    return lambda call: (name, (call.x,), {key: call.get(1, "upscale_factor", "downscale_factor", "groups")})


# ---- reductions and operations along axes ----------------------------------------------------------------


def reduce_call(name: str) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        second = call.get(1, "dim", "axis")
        if name in ("max", "min") and isinstance(call.get(1, "other"), Value):
            return "maximum" if name == "max" else "minimum", (call.x, call.get(1, "other")), {}
        keep = len(call.shapes[0]) == len(call.x.shape)
        return (
            name,
            (call.x,),
            {"axes": None if isinstance(second, bool) else axes_of(second, call.x), "keepdims": keep},
        )

    return translate


def norm_call(call: Call) -> Translated:
    axes = call.get(2, "dim", default=None)
    keep = len(call.shapes[0]) == len(call.x.shape)
    return "norm", (call.x,), {"axes": axes_of(axes, call.x), "keepdims": keep}


def along_call(name: str, position: int = 1, default: int | None = -1) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        axis = call.get(position, "dim", "axis", default=default)
        return name, (call.x,), {"axis": None if axis is None else axis_of(call.x, axis)}

    return translate


def pool_call(call: Call) -> Translated:
    digits = [int(letter) for letter in call.name if letter.isdigit()]
    return "pool", (call.x,), {"dims": digits[-1] if digits else 1}


def interpolate_call(call: Call) -> Translated:
    return "interpolate", (call.x,), {"dims": len(call.x.shape) - 2}


def clamp_default_call(low: float, high: float) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        bounds = {"low": call.get(1, "min_val", default=low), "high": call.get(2, "max_val", default=high)}
        return "clamp", (call.x,), bounds

    return translate


def aten_norm_call(call: Call) -> Translated:
    return "batch_norm", (call.x, *(call.get(position) for position in range(1, 5))), {}


def constant_pad_call(call: Call) -> Translated:
    return pad_call(
        Call("pad", (call.args[0], call.args[1], "constant", call.get(2, "value", default=0)), {}, call.shapes)
    )
