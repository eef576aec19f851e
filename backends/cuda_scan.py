"""Running sums on a GPU: every result adds up what comes before it, for itself.

TVM's own kernel counts on the threads of a warp to move in step, which GPUs do not promise since 2017.
"""

import tvm
from tvm import relax, te, tirx

from .rewriting import Rewriter, op_name, rewrite, shape_of


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
