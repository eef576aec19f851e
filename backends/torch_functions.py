"""Functions and reductions of torch that TVM's importer lacks, or spells out so that digits are lost."""

from collections.abc import Callable

import numpy as np
from torch import fx
from tvm import relax, te
from tvm.relax.frontend.torch.base_fx_graph_translator import BaseFXGraphImporter

from .legalizing import own
from .rewriting import dtype_of, shape_of

Converter = Callable[[fx.Node, BaseFXGraphImporter], relax.Expr]


def _function(name: str) -> Converter:
    """An operator of our own; integers become float32 first, as in torch."""

    def convert(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
        emit, data = importer.block_builder.emit, importer.env[node.args[0]]
        if dtype_of(data) != "float32":
            data = emit(relax.op.astype(data, "float32"))
        return emit(own(name, data))

    return convert


def _softplus(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """ln(1 + exp(beta x)) / beta."""
    source, beta, threshold = (*node.args, *(1.0, 20.0)[len(node.args) - 1 :])
    beta, threshold = node.kwargs.get("beta", beta), node.kwargs.get("threshold", threshold)
    return importer.block_builder.emit(relax.op.nn.softplus(importer.env[source], float(beta), float(threshold)))


def _prod(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """A product of all numbers or along one axis; of integers and truth values it is an int64."""
    source, axis, keepdims = (*node.args, None, False)[:3] if len(node.args) < 3 else node.args[:3]
    keepdims = node.kwargs.get("keepdim", keepdims)
    emit, data, dtype = (
        importer.block_builder.emit,
        importer.env[source],
        str(node.meta["val"].dtype).rpartition(".")[2],
    )
    if dtype_of(data) != dtype:
        data = emit(relax.op.astype(data, dtype))
    return emit(relax.op.prod(data, axis, bool(keepdims)))


def _group_norm(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """Normalisation of groups of channels, with or without scale and shift."""
    source, scale, shift, _, _, _, groups, epsilon = node.args
    emit, data = importer.block_builder.emit, importer.env[source]
    scale, shift = _affine(importer, data, scale, shift)
    axes = list(range(2, len(shape_of(data))))
    # Only the first of the three results of torch's operator is read at inference time.
    return (emit(relax.op.nn.group_norm(data, scale, shift, int(groups), 1, axes, float(epsilon))),)


def _affine(importer: BaseFXGraphImporter, data: relax.Expr, scale: fx.Node | None, shift: fx.Node | None) -> list:
    """Scale and shift of a norm: ones and zeros where there are none."""
    given = ((scale, 1), (shift, 0))
    channels = shape_of(data)[1]
    return [
        relax.const(np.full(channels, value, "float32")) if parameter is None else importer.env[parameter]
        for parameter, value in given
    ]


def _instance_norm(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """Every channel of every sample by itself, or by the statistics that were tracked."""
    source, scale, shift, mean, variance, by_itself, _, epsilon, _ = node.args
    emit, data = importer.block_builder.emit, importer.env[source]
    scale, shift = _affine(importer, data, scale, shift)
    if by_itself:
        shape = shape_of(data)
        axes = list(range(2, len(shape)))
        return emit(relax.op.nn.group_norm(data, scale, shift, shape[1], 1, axes, float(epsilon)))
    statistics = (importer.env[mean], importer.env[variance])
    normed = emit(relax.op.nn.batch_norm(data, scale, shift, *statistics, axis=1, epsilon=float(epsilon)))
    return emit(relax.TupleGetItem(normed, 0))


def _unfold(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Expr:
    """The windows of an image as columns."""
    source, kernel, dilation, padding, stride = node.args
    emit, data = importer.block_builder.emit, importer.env[source]
    whole = shape_of(data)
    if len(whole) == 3:
        data = emit(relax.op.expand_dims(data, 0))
    if any(padding):
        (above, left) = padding
        data = emit(relax.op.nn.pad(data, [0, 0, 0, 0, above, above, left, left], "constant", 0.0))
    batch, channels, *space = shape_of(data)
    rows, columns = ((space[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2))

    def compute(image: te.Tensor) -> te.Tensor:
        def value(n, c, ky, kx, y, x):
            return image(n, c, y * stride[0] + ky * dilation[0], x * stride[1] + kx * dilation[1])

        return te.compute((batch, channels, *kernel, rows, columns), value, name="unfold")

    windows = importer.block_builder.emit_te(compute, data, primfunc_name_hint="unfold")
    shape = (channels * kernel[0] * kernel[1], rows * columns)
    return emit(relax.op.reshape(windows, shape if len(whole) == 3 else (batch, *shape)))


CONVERTERS: dict[str, Converter] = {
    **{f"{name}.default": _function(name) for name in ("exp2", "expm1", "log1p", "log2", "log10")},
    "softplus.default": _softplus,
    "prod.default": _prod,
    "prod.dim_int": _prod,
    "instance_norm.default": _instance_norm,
    "native_group_norm.default": _group_norm,
    "im2col.default": _unfold,
}
