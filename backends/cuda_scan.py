"""Running sums, maxima and minima on a GPU, where TVM's own are not right.

A result of a running sum adds up what comes before it, for itself: TVM's kernel counts on the threads of a warp to
move in step, which GPUs do not promise since 2017. Maxima start from minus infinity, not from the least finite number.
"""

import math

import tvm
from tvm import relax, te, tirx

from .rewriting import Rewriter, op_name, rewrite, shape_of

# The block that computes one; threads of a block cannot share it, because TVM knows no such start.
EXTREME = "extreme"
_EXTREMES = {
    "relax.max": (lambda x, y: tirx.max(x, y), -math.inf),
    "relax.min": (lambda x, y: tirx.min(x, y), math.inf),
}


class _Scans(Rewriter):
    def visit(self, var: relax.Var, value: relax.Expr) -> object:
        if op_name(value) != "relax.cumsum" or shape_of(var) is None:
            return super().visit(var, value)
        attrs, dtype = value.attrs, str(var.ty.dtype)
        flat, shape = attrs.axis is None, shape_of(value.args[0])
        axis = 0 if flat else int(attrs.axis) % len(shape)
        exclusive = bool(attrs.exclusive)

        def kernel(data: te.Tensor) -> te.Tensor:
            size = data.shape[axis]
            step = te.reduce_axis((0, size), "k")

            def total(*index: tirx.Var) -> tirx.Expr:
                place = index[axis]
                item = data(*index[:axis], step, *index[axis + 1 :]).astype(dtype)
                counts = step < place if exclusive else step <= place
                return te.sum(tirx.Select(counts, item, tirx.const(0, dtype)), axis=step)

            return te.compute(data.shape, total, name="cumsum")

        data = self.expression(value.args[0])
        if flat:
            data = self.builder.emit(relax.op.reshape(data, (-1,)))
        return self.builder.emit_te(kernel, data, primfunc_name_hint="cumsum")


@tvm.transform.module_pass(opt_level=0, name="graphprune.SpreadScans")
def spread_scans(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Write running sums as sums."""
    return rewrite(module, _Scans)


def legalize_extreme(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """A kernel of the maximum or minimum over some axes."""
    name, shape = op_name(call), shape_of(call.args[0])
    if str(call.args[0].ty.dtype) not in ("float32", "float16", "bfloat16") or shape is None:
        return tvm.ir.Op.get(name).get_attr("FLegalize")(builder, call)
    combine, start = _EXTREMES[name]
    reducer = te.comm_reducer(combine, lambda dtype: tirx.const(start, dtype), name=name.rpartition(".")[2])
    rank, keepdims = len(shape), bool(call.attrs.keepdims)
    axes = [*range(rank)] if call.attrs.axis is None else sorted({int(axis) % rank for axis in call.attrs.axis})
    left = [axis for axis in range(rank) if keepdims or axis not in axes]

    def kernel(data: te.Tensor) -> te.Tensor:
        steps = {axis: te.reduce_axis((0, data.shape[axis]), f"k{axis}") for axis in axes}

        def value(*index: tirx.Var) -> tirx.Expr:
            place = dict(zip(left, index, strict=True))
            return reducer(data(*(steps.get(axis, place.get(axis)) for axis in range(rank))), axis=[*steps.values()])

        return te.compute([1 if axis in axes else data.shape[axis] for axis in left], value, name=EXTREME)

    return builder.call_te(kernel, call.args[0], primfunc_name_hint=name.rpartition(".")[2])
