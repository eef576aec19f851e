"""What is known of every kernel before it runs: what it computes, how much, who gave it its schedule.

The scheduling pass leaves these facts on each kernel; `facts_of(module)` collects them for the artifact's manifest.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, tirx

from .prediction import Facts
from .tiling import is_finished

Writer = Callable[[dict[str, int], list[int]], str]

_ATTRIBUTE = "graphprune.facts"
_SPATIAL = 0
BEHIND = "_behind_"
"""In the name of a kernel, what stands between what it computes and what it does to its input before."""

_LIBRARY = frozenset(
    f"tirx.{name}" for name in ("exp", "exp2", "log", "log2", "pow", "tanh", "erf", "sin", "cos", "tan")
)
# Templates that are not named after one operator of Relax.
_TEMPLATES = ("convolution", "depthwise", "linear", "winograd", "attention", "max_pool", "average_pool")


def note(function: tirx.PrimFunc, original: tirx.PrimFunc, name: str, schedule: str) -> tirx.PrimFunc:
    """`function` with the facts of `original`, the same before it had a schedule, written on it."""
    return function.with_attr(_ATTRIBUTE, json.dumps(vars(examine(original, name, schedule))))


def facts_of(module: tvm.IRModule) -> dict[str, Facts]:
    """The facts of all kernels of a module, by the names under which the runtime calls them."""
    kernels = {name.name_hint: function for name, function in module.functions_items()}
    notes = {name: f.attrs.get(_ATTRIBUTE) for name, f in kernels.items() if isinstance(f, tirx.PrimFunc)}
    return {name: Facts(**json.loads(str(text))) for name, text in sorted(notes.items()) if text is not None}


def examine(function: tirx.PrimFunc, name: str, schedule: str) -> Facts:
    """The facts of a function that has no schedule yet."""
    blocks = [(_adds_products(block), _iterations(block), block) for block in _blocks(function)]
    most = max(blocks, key=lambda entry: entry[:2], default=(False, 0, None))[2]
    return Facts(
        description=_describe(function, name, most, _SIZES.get(schedule)),
        macs=sum(steps for products, steps, _ in blocks if products),
        steps=max((steps for _, steps, _ in blocks), default=0),
        library_calls=sum(steps * _library_calls(getattr(block.body, "value", None)) for _, steps, block in blocks),
        bytes=sum(prod(shape) * width for shape, width in _tensors(function)),
        schedule=schedule,
    )


def _blocks(function: tirx.PrimFunc) -> list[Any]:
    """The blocks of a function that is a plain list of blocks; none of any other function."""
    if is_finished(function):
        return []
    schedule = s_tir.Schedule(function)
    return [schedule.get(block) for block in schedule.get_child_blocks(schedule.get_sblock("root"))]


def _iterations(block: Any) -> int:
    extents = [variable.dom.extent for variable in block.iter_vars]
    return prod(int(extent) for extent in extents if isinstance(extent, tirx.IntImm))


def _adds_products(block: Any) -> bool:
    """Whether a block is a sum of products."""
    value = getattr(block.body, "value", None)
    reduces = any(int(variable.iter_type) != _SPATIAL for variable in block.iter_vars)
    return reduces and isinstance(value, tirx.Add) and isinstance(value.b, tirx.Mul)


def _library_calls(expression: Any) -> int:
    """How many functions of the C library an expression calls."""
    own = isinstance(expression, tvm.ir.Call) and str(getattr(expression.op, "name", "")) in _LIBRARY
    return int(own) + sum(map(_library_calls, _operands(expression)))


def _operands(expression: Any) -> list[Any]:
    if isinstance(expression, tvm.ir.Call):
        return list(expression.args)
    if isinstance(expression, tirx.Select):
        return [expression.true_value, expression.false_value]
    return [getattr(expression, name) for name in ("a", "b", "value") if hasattr(expression, name)]


def _tensors(function: tirx.PrimFunc) -> list[tuple[list[int], int]]:
    """The shape of every tensor that a function takes or returns, and the bytes of its elements."""
    buffers = [buffer for buffer in function.params if hasattr(buffer, "shape")]
    shapes = [[int(extent) for extent in buffer.shape if isinstance(extent, tirx.IntImm)] for buffer in buffers]
    return [(shape, np.dtype(str(buffer.dtype)).itemsize) for shape, buffer in zip(shapes, buffers, strict=True)]


def _describe(function: tirx.PrimFunc, name: str, block: Any, write: "Writer | None") -> str:
    """`convolution 3x3 64->64 56x56 + add + relu`."""
    own, _, before = name.partition(BEHIND)
    first, *others = operations(own)
    shapes = [shape for shape, _ in _tensors(function) if shape]
    extents = {v.var.name.removeprefix("v_"): v.dom.extent for v in block.iter_vars} if block is not None else {}
    axes = {name: int(extent) for name, extent in extents.items() if isinstance(extent, tirx.IntImm)}
    try:
        size = None if write is None else write(axes, shapes[-1])
    except (KeyError, IndexError):  # something else than the template alone: its shapes must do
        size = None
    if size is None:
        size = " -> ".join("x".join(map(str, shape)) for shape in (shapes[:1] + shapes[1:][-1:]))
    text = " + ".join([f"{first} {size}".strip(), *others])
    return f"{text}, behind {' + '.join(operations(before))}" if before else text


def _convolution(axes: dict[str, int], result: list[int]) -> str:
    inner, outer = axes["block"] * axes["lane_in"] * axes.get("byte", 1), prod(result[1:2] + result[4:])
    return f"{axes['ky']}x{axes['kx']} {inner}->{outer} {result[2]}x{result[3]}"


def _winograd(axes: dict[str, int], result: list[int]) -> str:
    return _convolution({**axes, "ky": 3, "kx": 3}, result)


def _attention(axes: dict[str, int], result: list[int]) -> str:
    # The larger of two products: queries by keys, with a sum over features "d", or by values, with a sum over keys "k".
    columns = axes["o"] * axes["v"]
    heads, queries = axes["b"] * axes["h"], axes["t"] * axes["r"]
    return f"{heads} heads {queries}x{axes.get('k', columns)}x{axes.get('d', columns)}"


def _window(axes: dict[str, int], result: list[int]) -> str:
    return f"{axes['ky']}x{axes['kx']} {axes['c'] * axes['lane']} {result[2]}x{result[3]}"


def _matmul(axes: dict[str, int], result: list[int]) -> str:
    batch = f"{axes['b']} of " if axes["b"] > 1 else ""
    inner = axes.get("share", 1) * axes["k"] * axes.get("byte", 1)
    return f"{batch}{prod(result) // result[-1] // axes['b']}x{inner}x{result[-1]}"


# How sizes are written, by the schedule: from the axes of the block that does most of the work, and the result's shape.
_SIZES: dict[str, Writer] = {
    "attention": _attention,
    "convolution": _convolution,
    "winograd": _winograd,
    "window": _window,
    "matmul": _matmul,
}


def operations(name: str) -> list[str]:
    """The operators in the name of a kernel: `fused_layer_norm2_add1` -> `["layer_norm", "add"]`.

    Copies of a name are told apart by numbers at their ends, and names of operators may have several words.
    """
    words = [re.sub(r"(?<=[a-z])\d+$", "", word) for word in name.removeprefix("fused_").split("_")]
    words = [word for word in words if word not in ("", "tir", "te")]
    found, start = [], 0
    while start < len(words):
        ends = range(len(words), start, -1)
        end = next((end for end in ends if "_".join(words[start:end]) in _operators()), start + 1)
        found.append("_".join(words[start:end]))
        start = end
    return found or [name]


@cache
def _operators() -> frozenset[str]:
    """Names of operators, without the part before the last dot and without a number at the end."""
    names = [str(name).rpartition(".")[2] for name in tvm.ir.Op.list_op_names()]
    return frozenset([*(re.sub(r"(?<=[a-z])\d+$", "", name) for name in names), *_TEMPLATES])
