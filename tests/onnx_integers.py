"""An independent reference for quantised ONNX models: products of integers in int64, everything else in numpy.

`run(model, inputs)` follows the definition of the operators: a product of dequantised tensors is a sum of integers
times a scale; where it is quantised again, the scale of the sum over that of the result is one float32 factor.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import numpy_helper


@dataclass
class Dequantised:
    """Integers around zero and their scale, per tensor or along an axis."""

    numbers: np.ndarray
    scale: np.ndarray
    axis: int

    def floats(self):
        return self.numbers.astype(np.float32) * self.along(self.scale)

    def along(self, array):
        if array.size == 1:
            return array.reshape(())
        shape = [1] * self.numbers.ndim
        shape[self.axis] = -1
        return array.reshape(shape)


@dataclass
class Sums:
    """Sums of products of integers, and the scale of each channel, ready to broadcast."""

    numbers: np.ndarray
    scale: np.ndarray

    def floats(self):
        return self.numbers.astype(np.float32) * self.scale


def floats(value):
    return value if isinstance(value, np.ndarray) else value.floats()


def attributes_of(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def dequantize(node, q, scale, zero=None, axis=1):
    axis = axis if q.ndim > 1 else 0
    numbers = Dequantised(q.astype(np.int64), np.asarray(scale, np.float32), axis)
    if zero is not None:
        numbers.numbers = numbers.numbers - numbers.along(np.asarray(zero).astype(np.int64))
    return numbers


def quantize(node, x, scale, zero, axis=1):
    assert scale.size == 1
    if isinstance(x, Sums):
        scaled = x.numbers.astype(np.float32) * (x.scale / scale.reshape(())).astype(np.float32)
    elif isinstance(x, Dequantised):
        scaled = x.floats() / scale.reshape(())
    else:
        scaled = x.astype(np.float32) / scale.reshape(())
    bounds = np.iinfo(zero.dtype)
    return np.clip(np.rint(scaled) + zero.reshape(()).astype(np.float32), bounds.min, bounds.max).astype(zero.dtype)


def windows(x, kernel, pads, strides, dilations, fill):
    top, left, bottom, right = pads
    x = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)], constant_values=fill)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(x, spans, (2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def conv(
    node, x, w, bias=None, pads=(0,) * 4, strides=(1, 1), dilations=(1, 1), group=1, kernel_shape=None, auto_pad=b""
):
    integers = isinstance(x, Dequantised) and isinstance(w, Dequantised)
    pads = (1, 1, 1, 1) if auto_pad == b"SAME_UPPER" else pads  # of kernels of three, in steps of one
    left, right = (x.numbers, w.numbers) if integers else (floats(x), floats(w))
    view = windows(left, right.shape[2:], pads, strides, dilations, 0)
    n, _, rows, columns = view.shape[:4]
    view = view.reshape(n, group, -1, rows, columns, *view.shape[4:])
    filters = right.reshape(group, right.shape[0] // group, *right.shape[1:])
    sums = np.einsum("ngcyxij,gocij->ngoyx", view, filters, optimize=False).reshape(n, -1, rows, columns)
    if not integers:
        return sums + (0 if bias is None else floats(bias).reshape(-1, 1, 1))
    scale = (np.broadcast_to(w.scale.reshape(-1), (right.shape[0],)) * x.scale.reshape(())).reshape(-1, 1, 1)
    return biased(Sums(sums, scale), bias, (-1, 1, 1))


def biased(sums, bias, shape):
    if bias is None:
        return sums
    if isinstance(bias, Dequantised):
        return Sums(sums.numbers + bias.numbers.reshape(shape), sums.scale)
    return sums.floats() + bias.reshape(shape)


def matmul(node, x, w):
    if isinstance(x, Dequantised) and isinstance(w, Dequantised) and w.numbers.ndim == 2:
        return Sums(x.numbers @ w.numbers, w.scale.reshape(-1) * x.scale.reshape(()))
    return np.matmul(floats(x), floats(w))


def gemm(node, x, w, bias=None, transB=0, transA=0, alpha=1.0, beta=1.0):
    if transB:
        w = Dequantised(w.numbers.T, w.scale, 1 - w.axis)
    return biased(matmul(node, x, w), bias, (-1,))


def relu(node, x):
    return Sums(np.maximum(x.numbers, 0), x.scale) if isinstance(x, Sums) else np.maximum(floats(x), 0)


def max_pool(node, x, kernel_shape, pads=(0,) * 4, strides=(1, 1), dilations=(1, 1), ceil_mode=0, **rest):
    return windows(floats(x), kernel_shape, pads, strides, dilations, -np.inf).max((4, 5))


def reshape(node, x, shape):
    return floats(x).reshape(*shape.tolist())


SIMPLE = {
    "Add": lambda node, a, b: floats(a) + floats(b),
    "Mul": lambda node, a, b: floats(a) * floats(b),
    "Concat": lambda node, *parts, axis: np.concatenate([floats(p) for p in parts], axis),
    "Flatten": lambda node, x, axis=1: (
        floats(x).reshape(*x.shape[:axis], -1)
        if isinstance(x, np.ndarray)
        else floats(x).reshape(floats(x).shape[0], -1)
    ),
    "GlobalAveragePool": lambda node, x: floats(x).mean((2, 3), keepdims=True, dtype=np.float64).astype(np.float32),
    "Transpose": lambda node, x, perm: floats(x).transpose(perm),
    "Identity": lambda node, x: x,
}
OPERATORS = {
    **SIMPLE, "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "Conv": conv, "MatMul": matmul, "Gemm": gemm,
    "Relu": relu, "MaxPool": max_pool, "Reshape": reshape,
}  # fmt: skip


def run(model, inputs):
    """The outputs of a model as a list of arrays."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values.update(inputs)
    for node in model.graph.node:
        if node.op_type == "Constant":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        arguments = [values[name] if name else None for name in node.input]
        values[node.output[0]] = OPERATORS[node.op_type](node, *arguments, **attributes_of(node))
    return [floats(values[value.name]) for value in model.graph.output]
