"""Translations: what a torch call is in the canonical vocabulary, family by family."""

from collections.abc import Callable

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
            return name, values, {} if alpha == 1 else {"scaled": True}
        if not values or not isinstance(alpha, (int, float)):
            raise Unsupported(f"'{call.name}' of something that is not a tensor")
        scalar = second if isinstance(first, Value) else first
        if name == "div" and not isinstance(first, Value):
            return "scalar_rdiv", values, {"value": scalar}
        if name in ("mul", "div") or (name in ("add", "sub") and scalar == 0):
            return "identity", values, {"value": scalar}
        return name, values, {"scalar": True, "value": scalar}

    return translate


def reversed_call(name: str) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        return binary_call(name)(Call(call.name, (call.get(1, "other"), call.get(0)), {}, call.shapes))

    return translate


def power_call(call: Call) -> Translated:
    base, exponent = call.get(0, "input", "self"), call.get(1, "exponent")
    if isinstance(base, Value) and not isinstance(exponent, Value):
        return ("power" if exponent > 0 else "reciprocal"), (base,), {"value": exponent}
    return compare_call(call)


def compare_call(call: Call) -> Translated:
    operands = call.get(0, "input", "self"), call.get(1, "other", "exponent")
    numbers = [item for item in operands if isinstance(item, (int, float))]
    return "compare", tuple(item for item in operands if isinstance(item, Value)), {"value": numbers}


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
    if len(call.args) + len(call.kwargs) == 1:
        raise Unsupported("asks where something is true")
    return "where", values, {}


def addcmul_call(call: Call) -> Translated:
    names = ("input", "tensor1", "tensor2") if call.name != "lerp" else ("input", "end", "weight")
    given = (call.get(position, name) for position, name in enumerate(names))
    return "where", tuple(item for item in given if isinstance(item, Value)), {}


def same_call(call: Call) -> Translated:
    return "identity", (call.x,), {}


def constant_call(call: Call) -> Translated:
    number = call.get(0, "data")
    single = call.shapes[0] == () and isinstance(number, (int, float))
    return "constant", (), {"value": number} if single else {}


def fill_call(value: float | None, position: int = 1) -> Callable[[Call], Translated]:
    """One number everywhere; `value` None: it is given as `fill_value`."""

    def translate(call: Call) -> Translated:
        number = call.get(position, "fill_value") if value is None else value
        if isinstance(number, Value):
            return "constant", (), {}
        return "fill", (), {"value": number}

    return translate


def fill_like_call(value: float | None) -> Callable[[Call], Translated]:
    """The same in the shape of another tensor."""
    return lambda call: ("fill_like", (call.x,), {"value": call.get(1, "fill_value") if value is None else value})


# ---- contractions ----------------------------------------------------------------------------------------


def linear_call(call: Call) -> Translated:
    return "linear", (call.x, call.tensor(1, "weight"), call.get(2, "bias")), {}


def matmul_call(call: Call) -> Translated:
    return "matmul", (call.tensor(0, "input", "self"), call.tensor(1, "other", "mat2", "vec", "tensor2")), {}


def addmm_call(call: Call) -> Translated:
    scaled = any(call.kwargs.get(key, 1) != 1 for key in ("beta", "alpha"))
    if scaled and call.kwargs.get("beta", 1) == 0:
        raise Unsupported("addmm with beta = 0")
    operands = call.x, call.tensor(1, "mat1", "batch1"), call.tensor(2, "mat2", "batch2")
    return "addmm", operands, {"scaled": True} if scaled else {}


def grouped_matmul_call(call: Call) -> Translated:
    x, weight, offsets = call.x, call.tensor(1, "mat_b", "mat2"), call.get(2, "offs")
    if len(x.shape) != 2 or len(weight.shape) != 3 or call.get(3, "bias") is not None:
        raise Unsupported("a grouped product of other ranks, or with a bias")
    return "grouped_matmul", (x, weight, *([offsets] if isinstance(offsets, Value) else [])), {}


def einsum_call(call: Call) -> Translated:
    operands = call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(call.args[0], str):
        raise Unsupported("einsum in sublist format")
    return "einsum", tuple(operands), {"equation": call.args[0]}


def conv_call(call: Call) -> Translated:
    attrs = {"groups": call.get(6, "groups", default=1), "transposed": "transpose" in call.name}
    return "conv", (call.x, call.tensor(1, "weight"), call.get(2, "bias")), attrs


def convolution_call(call: Call) -> Translated:
    """aten.convolution: input, weight, bias, stride, padding, dilation, transposed, output_padding, groups."""
    attrs = {"groups": call.get(8, "groups"), "transposed": call.get(6, "transposed")}
    return "conv", (call.x, call.tensor(1, "weight"), call.get(2, "bias")), attrs


def attention_call(call: Call) -> Translated:
    q, k, v = (call.tensor(i, name) for i, name in enumerate(("query", "key", "value")))
    mask = call.get(3, "attn_mask")
    scale = call.kwargs.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return "attention", (q, k, v, mask), {"grouped": bool(call.kwargs.get("enable_gqa")), "scale": scale}


def weight_norm_call(call: Call) -> Translated:
    """A row is divided by its length: to drop inputs is to scale the others, to drop rows is to divide by zero."""
    unlock = "take it off first: remove_weight_norm, or torch.nn.utils.parametrize.remove_parametrizations"
    raise Unsupported("is scaled by its own length (weight norm)", unlock)


def multi_head_call(call: Call) -> Translated:
    raise Unsupported(
        "derives its head width from the embedding width, so neither can change", "use nn.MultiheadAttention"
    )


def embedding_call(call: Call) -> Translated:
    first, second = call.tensor(0, "input", "weight"), call.tensor(1, "weight", "indices")
    index, weight = (first, second) if "int" in first.dtype else (second, first)
    if "bag" not in call.name:
        return "embedding", (index, weight), {}
    rest = (*call.args[2:], *call.kwargs.values())
    others = tuple(item for item in rest if isinstance(item, Value) and item not in (index, weight))
    return "embedding", (index, weight, *others), {}


def bilinear_call(call: Call) -> Translated:
    names = ("input1", "input2", "weight")
    return "bilinear", (*(call.tensor(i, name) for i, name in enumerate(names)), call.get(3, "bias")), {}


def tensordot_call(call: Call) -> Translated:
    """As einsum: letters of the first tensor, and for the second those that it shares and new ones."""
    first, second, dims = call.tensor(0, "a"), call.tensor(1, "b"), call.get(2, "dims", default=2)
    left, right = len(first.shape), len(second.shape)
    pairs = (list(range(left - dims, left)), list(range(dims))) if isinstance(dims, int) else dims
    if not all(isinstance(axes, (list, tuple)) for axes in pairs):
        raise Unsupported("tensordot over axes that are tensors")
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    shared = {axis_of(second, theirs): axis_of(first, ours) for ours, theirs in zip(*pairs, strict=True)}
    ours = alphabet[:left]
    theirs = "".join(alphabet[shared[axis]] if axis in shared else alphabet[left + axis] for axis in range(right))
    out = "".join(c for i, c in enumerate(ours) if i not in shared.values()) + "".join(
        c for axis, c in enumerate(theirs) if axis not in shared
    )
    return "einsum", (first, second), {"equation": f"{ours},{theirs}->{out}"}


def windows_call(call: Call) -> Translated:
    """Tensor.unfold(axis, size, step); F.unfold calls im2col."""
    if call.name == "unfold" and len(call.shapes[0]) <= len(call.x.shape):
        return "unfold", (call.x,), {}
    return "windows", (call.x,), {"axis": axis_of(call.x, call.get(1, "dimension"))}


def sample_call(call: Call) -> Translated:
    return "sample", (call.x, call.tensor(1, "grid")), {}


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
    eps = call.get(3, "eps")
    attrs = {"dims": len(call.get(1, "normalized_shape")), "eps": default_eps(call.x.dtype) if eps is None else eps}
    return "rms_norm", (call.x, call.get(2, "weight")), attrs


def default_eps(dtype: str) -> float:
    """What torch takes for `eps=None`: half precision is computed in float32."""
    return float(torch.finfo(torch.float64 if "float64" in dtype else torch.float32).eps)


def prelu_call(call: Call) -> Translated:
    return "prelu", (call.x, call.tensor(1, "weight")), {}


# ---- reductions and operations along axes ----------------------------------------------------------------


def reduce_call(name: str) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        second = call.get(1, "dim", "axis")
        if name in ("max", "min") and isinstance(call.get(1, "other"), Value):
            return "maximum" if name == "max" else "minimum", (call.x, call.get(1, "other")), {}
        axes = None if isinstance(second, bool) else axes_of(second, call.x)
        return name, (call.x,), {"axes": axes, "keepdims": len(call.shapes[0]) == len(call.x.shape)}

    return translate


def norm_call(call: Call) -> Translated:
    order, axes = call.get(1, "p", "ord", default=2), call.get(2, "dim", default=None)
    keep = len(call.shapes[0]) == len(call.x.shape)
    zeros_count = order in ("nuc", 0, float("-inf")) or (isinstance(order, (int, float)) and order < 0)
    return "mean" if zeros_count else "norm", (call.x,), {"axes": axes_of(axes, call.x), "keepdims": keep}


def along_call(name: str, position: int = 1, default: int | None = -1) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        axis = call.get(position, "dim", "axis", default=default)
        return name, (call.x,), {"axis": None if axis is None else axis_of(call.x, axis)}

    return translate


def parts_call(name: str) -> Callable[[Call], Translated]:
    return lambda call: (name, (call.x,), {})


def transform_call(dims: int) -> Callable[[Call], Translated]:
    """x, size, axis or axes: the last ones where they are left out."""

    def translate(call: Call) -> Translated:
        axes = call.get(2, "dim", default=list(range(-dims, 0)))
        return "transform", (call.x,), {"axes": axes_of(axes, call.x), "name": call.name}

    return translate


def pool_call(call: Call) -> Translated:
    digits = [int(letter) for letter in call.name if letter.isdigit()]
    return "pool", (call.x,), {"dims": digits[-1] if digits else 1}


def regions_call(call: Call) -> Translated:
    return "regions", (call.x, call.tensor(1, "boxes", "rois")), {}


def interpolate_call(call: Call) -> Translated:
    return "interpolate", (call.x,), {"dims": len(call.x.shape) - 2}


def clamp_default_call(low: float, high: float) -> Callable[[Call], Translated]:
    def translate(call: Call) -> Translated:
        bounds = {"low": call.get(1, "min_val", default=low), "high": call.get(2, "max_val", default=high)}
        return "clamp", (call.x,), bounds

    return translate


def aten_norm_call(call: Call) -> Translated:
    return "batch_norm", (call.x, *(call.get(position) for position in range(1, 5))), {}
