"""THE operator table: canonical name -> rule. Every frontend translates into these names.

A rule is a pure function `rule(equations, node, *layouts)` of what is known of the inputs; it returns what is
known of the output (one layout, or a list of layouts for several outputs). To add an operator: one function
in `graphprune/rules`, one line here, one name per frontend, one test.
"""

from collections.abc import Callable

from .errors import OptionError
from .labels import Layout
from .rules import contract, indexing, norm, patches, pointwise, recurrent, reduce, view

Rule = Callable[..., "Layout | list[Layout]"]

_KEEP_ZERO = """relu relu6 leaky_relu elu selu celu gelu silu mish hardswish tanh hardtanh tanhshrink softsign
    softshrink hardshrink erf sin tan asin atan sinh asinh atanh expm1 log1p abs neg sign sqrt square round floor
    ceil trunc frac nan_to_num real power positive rrelu"""
_LOSE_ZERO = """sigmoid hardsigmoid logsigmoid softplus exp exp2 log log2 log10 rsqrt reciprocal cos cosh acos acosh
    erfc logical_not bitwise_not isnan isinf isfinite threshold scalar_compare digamma lgamma scalar_rdiv bernoulli"""

OPS: dict[str, Rule] = {
    **dict.fromkeys(_KEEP_ZERO.split(), pointwise.keeps_zero),
    **dict.fromkeys(_LOSE_ZERO.split(), pointwise.loses_zero),
    "clamp": pointwise.clamp,
    "add": pointwise.sums,
    "sub": pointwise.sums,
    "maximum": pointwise.sums,
    "minimum": pointwise.sums,
    "mul": pointwise.products,
    "logical_and": pointwise.products,
    "div": pointwise.quotient,
    "where": pointwise.mixture,
    "compare": pointwise.mixture,
    "prelu": pointwise.prelu,
    "glu": pointwise.glu,
    "linear": contract.linear,
    "bilinear": contract.bilinear,
    "matmul": contract.matmul,
    "addmm": contract.addmm,
    "grouped_matmul": contract.grouped_matmul,
    "einsum": contract.einsum,
    "conv": contract.convolution,
    "attention": contract.attention,
    "embedding": contract.embedding,
    "recurrent": recurrent.recurrent,
    "packing": recurrent.packing,
    "batch_norm": norm.batch_norm,
    "instance_norm": norm.instance_norm,
    "group_norm": norm.group_norm,
    "layer_norm": norm.layer_norm,
    "rms_norm": norm.layer_norm,
    "identity": view.identity,
    "reshape": view.reshape,
    "as_complex": view.as_complex,
    "permute": view.permute,
    "cat": view.cat,
    "stack": view.stack,
    "split": view.split,
    "unbind": view.unbind,
    "getitem": view.getitem,
    "index": view.index,
    "pick": indexing.pick,
    "put": indexing.put,
    "flip": view.flip,
    "roll": view.roll,
    "expand": view.expand,
    "repeat": view.repeat,
    "repeat_interleave": view.repeat_interleave,
    "pad": view.pad,
    "pixel_shuffle": view.pixel_shuffle,
    "pixel_unshuffle": view.pixel_unshuffle,
    "channel_shuffle": view.channel_shuffle,
    "unfold": patches.unfold,
    "fold": patches.fold,
    "windows": patches.windows,
    "sample": patches.sample,
    "sum": reduce.total,
    "mean": reduce.average,
    "var": reduce.average,
    "std": reduce.average,
    "norm": reduce.total,
    "prod": reduce.average,
    "logsumexp": reduce.average,
    "max": reduce.extremum,
    "min": reduce.extremum,
    "transform": reduce.transform,
    "softmax": reduce.along,
    "cumsum": reduce.along,
    "rotary": reduce.along,
    "sort": reduce.along,
    "topk": reduce.along,
    "argmax": reduce.along,
    "pool": reduce.pool,
    "interpolate": reduce.pool,
    "regions": reduce.regions,
    "constant": reduce.constant,
    "fill": reduce.fill,
    "fill_like": reduce.fill_like,
    "unknown": reduce.unknown,
}

ROLES: dict[str, tuple[str, ...]] = {
    "batch_norm": ("", "scale", "bias", "mean", "variance"),
    "instance_norm": ("", "scale", "bias", "mean", "variance"),
    "group_norm": ("", "scale", "bias"),
    "layer_norm": ("", "scale", "bias"),
    "rms_norm": ("", "scale"),
    "conv": ("", "weight", "bias"),
    "linear": ("", "weight", "bias"),
    "embedding": ("", "weight"),
}
"""What a stored tensor is to the operation that reads it, by input position; criteria may ask for it."""


def register_op(name: str, rule: Rule) -> None:
    """Teach GraphPrune an operator of your own, such as one made by `torch.library.custom_op`.

    **Arguments:** `name`: with its namespace, `"my_library::softclip"`; `rule`: what it does to channels, a pure
    function `rule(equations, node, *layouts)` with one layout per tensor that the operator is given, in order. It
    returns the layout of its result, or a list of them. Those of `graphprune.rules` serve for many:
    `pointwise.keeps_zero` for a function of single numbers with f(0) = 0. `node.attrs["arguments"]` are its arguments
    that are no tensors; those given by keyword stand beside them, by name. A rule holds in this process, and replaces
    one of the same name.

    What is not registered locks the channels that it touches. A rule that is wrong is found by `verify`.

    **Raises:** `OptionError` for a name without a namespace, or in one whose operators are known.

    ```python
    import torch, graphprune
    from graphprune.rules.pointwise import keeps_zero

    @torch.library.custom_op("my_library::softclip", mutates_args=())
    def softclip(x: torch.Tensor, limit: float) -> torch.Tensor:
        return limit * torch.tanh(x / limit)

    softclip.register_fake(lambda x, limit: torch.empty_like(x))
    graphprune.register_op("my_library::softclip", keeps_zero)
    ```
    """
    space, colons, word = name.partition("::")
    if not (space and colons and word) or space == "aten":
        raise OptionError(f"{name!r} is no operator of your own: name it with its namespace, 'my_library::softclip'")
    if not callable(rule):
        raise OptionError(f"the rule for {name!r} is {rule!r}, not a function of equations, node and layouts")
    OPS[name] = rule


def is_registered(name: str) -> bool:
    """Whether a name is that of an operator of the user's, and has a rule."""
    return "::" in name and name in OPS
