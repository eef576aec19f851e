"""ONNX convolutions and pools: padding that ONNX describes in words becomes numbers."""

import numpy as np
from tvm import relax

from ..errors import CompileError
from .onnx_node import Converter, Node
from .rewriting import dtype_of, shape_of


def _numbers(node: Node, name: str, axes: int) -> list[int]:
    return [int(number) for number in node.attributes.get(name, [1] * axes)]


def _pads(node: Node, kernel: list[int]) -> list[int]:
    """Rows before every axis, then rows after every axis."""
    space = shape_of(node.data)[2:]
    mode = node.text("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return (
            [int(pad) for pad in node.attributes.get("pads", [0] * 2 * len(space))]
            if mode == "NOTSET"
            else [0] * 2 * len(space)
        )
    strides, dilations = _numbers(node, "strides", len(space)), _numbers(node, "dilations", len(space))
    steps = zip(space, kernel, strides, dilations, strict=True)
    totals = [max((-(-size // step) - 1) * step + (taps - 1) * gap + 1 - size, 0) for size, taps, step, gap in steps]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return less + more if mode == "SAME_UPPER" else more + less


def _conv(node: Node) -> relax.Expr:
    kernel = list(shape_of(node.input(1))[2:])
    if len(kernel) not in (1, 2, 3):
        raise CompileError(f"a convolution over {len(kernel)} axes is not compiled")
    return node.tvm(pads=_pads(node, kernel), auto_pad=None, kernel_shape=kernel)


def _conv_transpose(node: Node) -> relax.Expr:
    """The transposed convolution; a wanted output shape decides how much of the border is cut off."""
    kernel, space = list(shape_of(node.input(1))[2:]), shape_of(node.data)[2:]
    axes = len(kernel)
    if "output_shape" not in node.attributes:
        return node.tvm(kernel_shape=kernel)
    strides, dilations = _numbers(node, "strides", axes), _numbers(node, "dilations", axes)
    extra = [int(n) for n in node.attributes.get("output_padding", [0] * axes)]
    wanted = [int(n) for n in node.attributes["output_shape"]][-axes:]
    parts = zip(space, kernel, strides, dilations, extra, wanted, strict=True)
    totals = [step * (size - 1) + more + (taps - 1) * gap + 1 - out for size, taps, step, gap, more, out in parts]
    # What is missing is added behind.
    extra = [more + max(-total, 0) for more, total in zip(extra, totals, strict=True)]
    totals = [max(total, 0) for total in totals]
    if any(more >= step for more, step in zip(extra, strides, strict=True)):
        raise CompileError(f"its output_shape {wanted} needs more padding than a stride")
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = less + more if node.text("auto_pad", "NOTSET") == "SAME_UPPER" else more + less
    return node.tvm(pads=pads, output_padding=extra, output_shape=None, auto_pad=None, kernel_shape=kernel)


def _pool(node: Node) -> relax.Expr:
    if len(node.names) > 1:
        raise CompileError("the places of the maxima are not compiled as a result")
    kernel = [int(number) for number in node.attributes["kernel_shape"]]
    return node.tvm(pads=_pads(node, kernel), auto_pad=None)


def _lp_pool(node: Node) -> relax.Expr:
    """The root of a sum of powers; the sum is a convolution with ones over each channel."""
    kernel = [int(number) for number in node.attributes["kernel_shape"]]
    if len(kernel) not in (1, 2, 3) or node.attributes.get("ceil_mode", 0):
        raise CompileError("it is only compiled for up to three axes without ceil_mode")
    power, channels = float(node.attributes.get("p", 2)), shape_of(node.data)[1]
    raised = node.emit(relax.op.power(node.emit(relax.op.abs(node.data)), node.scalar(power)))
    ones = relax.const(np.ones((channels, 1, *kernel), dtype_of(node.data)))
    convolution = getattr(relax.op.nn, f"conv{len(kernel)}d")
    total = convolution(
        raised, ones, _numbers(node, "strides", len(kernel)), _pads(node, kernel),
        _numbers(node, "dilations", len(kernel)), groups=channels,
    )  # fmt: skip
    return relax.op.power(node.emit(total), node.scalar(1 / power))


CONVERTERS: dict[str, Converter] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "LpPool": _lp_pool,
    "MaxPool": _pool,
}
