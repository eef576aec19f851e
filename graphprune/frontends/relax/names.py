"""Relax's operators in the canonical vocabulary: one table by name, without `relax.`."""

from . import translate as to
from . import translate_views as views
from .translate import Translation


def _table() -> dict[str, Translation]:
    table: dict[str, Translation] = {}
    for name in """abs acos acosh asin asinh atan atanh ceil cos cosh erf exp floor isfinite isinf isnan log logical_not
        bitwise_not round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc""".split():
        table[name] = to.unary(name)
    for name, ours in {
        "negative": "neg", "nn.relu": "relu", "nn.relu6": "relu6", "nn.gelu": "gelu", "nn.gelu_tanh": "gelu",
        "nn.silu": "silu", "nn.selu": "selu", "nn.softplus": "softplus", "nn.leakyrelu": "leaky_relu",
    }.items():  # fmt: skip
        table[name] = to.unary(ours)
    for name, ours in {
        "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "maximum": "maximum", "minimum": "minimum",
        "logical_and": "logical_and", "bitwise_and": "logical_and",
    }.items():  # fmt: skip
        table[name] = to.binary(ours)
    table |= dict.fromkeys(
        """equal not_equal less less_equal greater greater_equal logical_or logical_xor bitwise_or bitwise_xor mod
        floor_mod floor_divide left_shift right_shift atan2 log_add_exp""".split(),
        to.compare,
    )
    table |= {"power": to.power, "where": to.where, "ewise_fma": to.multiply_add, "clip": to.clip, "nn.prelu": to.prelu}
    table |= dict.fromkeys(
        "astype nn.dropout to_vdevice hint_on_device wrap_param builtin.stop_lift_params".split(), to.same
    )
    table |= {f"nn.conv{dims}d": to.conv(transposed=False) for dims in (1, 2, 3)}
    table |= {f"nn.conv{dims}d_transpose": to.conv(transposed=True) for dims in (1, 2, 3)}
    table |= {"matmul": to.matmul, "einsum": to.einsum, "nn.attention": to.attention, "nn.attention_bias": to.attention}
    table |= {"nn.batch_norm": to.batch_norm, "nn.group_norm": to.group_norm, "nn.instance_norm": to.instance_norm}
    table |= {"nn.layer_norm": to.layer_norm("layer_norm"), "nn.rms_norm": to.layer_norm("rms_norm")}
    table |= {name: to.reduce(name) for name in ("sum", "mean", "prod", "max", "min", "std")}
    table |= {"variance": to.reduce("var"), "nn.softmax": to.along("softmax"), "nn.log_softmax": to.along("softmax")}
    table |= {name: to.along("argmax", None) for name in ("argmax", "argmin")}
    table |= {name: to.along("cumsum", None) for name in ("cumsum", "cumprod")}
    table |= {"sort": to.along("sort"), "argsort": to.along("sort"), "topk": to.along("topk")}
    table |= {f"nn.{kind}_pool{dims}d": to.pool for kind in ("max", "avg", "adaptive_avg") for dims in (1, 2, 3)}
    table |= dict.fromkeys(["image.resize2d", "image.resize3d"], to.resize)
    table |= {"image.grid_sample": to.sample, "vision.roi_align": to.regions, "vision.roi_pool": to.regions}
    table |= dict.fromkeys(["quantize", "dequantize"], to.quantised)
    table |= {"full": to.filled(None, like=False), "full_like": to.filled(None, like=True)}
    table |= {"zeros": to.filled(0, like=False), "zeros_like": to.filled(0, like=True)}
    table |= {"ones": to.filled(1, like=False), "ones_like": to.filled(1, like=True)}
    table |= dict.fromkeys(["arange", "eye", "hamming_window"], to.made)
    table |= dict.fromkeys("reshape flatten nn.batch_flatten expand_dims squeeze".split(), views.reshape)
    table |= {"permute_dims": views.permute, "concat": views.concat, "stack": views.stack, "split": views.split}
    table |= {"strided_slice": views.slice_, "take": views.take, "broadcast_to": views.expand, "tile": views.tile}
    table |= {"repeat": views.repeat, "flip": views.flip, "nn.pad": views.pad, "nn.pixel_shuffle": views.pixel_shuffle}
    return table


TRANSLATIONS = _table()
