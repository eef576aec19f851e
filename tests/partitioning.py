"""Watches which questions TVM answers by taking rounds of a loop apart.

Rounds are taken apart rightly where a question depends on the loop and on what runs inside it. Where it depends on
loops around it as well, TVM makes rounds that do not exist, which write where nothing may be written.
"""

from contextlib import contextmanager

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir.instrument import pass_instrument

_HINT = "pragma_loop_partition_hint"
_QUESTIONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)


@pass_instrument
class _Watch:
    def __init__(self):
        self.loops, self.misplaced = 0, []

    def run_before_pass(self, module, info):
        if info.name != "s_tir.LoopPartition":
            return
        for name, function in module.functions_items():
            for loop in _hinted(function.body):
                self.loops += 1
                found = misplaced(loop)
                self.misplaced += [f"{name.name_hint}: {question}" for question in found]


@contextmanager
def watching():
    """Everything compiled meanwhile: how many loops are taken apart, and the questions that depend on outer loops."""
    watch = _Watch()
    with tvm.transform.PassContext(opt_level=tvm.transform.PassContext.current().opt_level, instruments=[watch]):
        yield watch


def _hinted(body):
    """The loops that are to be taken apart."""
    return [node.body for node in _nodes(body) if isinstance(node, tirx.AttrStmt) and node.attr_key == _HINT]


def misplaced(loop):
    """The questions inside a loop that depend both on it and on a loop around it."""
    nodes = list(_nodes(loop))
    inside = [node.loop_var for node in nodes if isinstance(node, tirx.For)]
    meant = [(node.var, node.value) for node in nodes if isinstance(node, (tirx.Let, tirx.Bind))]
    found = []
    for question in (node for node in nodes if isinstance(node, _QUESTIONS)):
        used = list(_variables(question, meant))
        own = any(var.same_as(loop.loop_var) for var in used)
        if own and not all(any(var.same_as(inner) for inner in inside) for var in used):
            found.append(question)
    return found


def _variables(expression, meant):
    """The variables that a question depends on, through those that stand for expressions."""
    for node in _nodes(expression):
        if isinstance(node, tirx.Var):
            value = next((value for var, value in meant if var.same_as(node)), None)
            yield from [node] if value is None else _variables(value, meant)


def _nodes(node):
    """A node of a program and all that it consists of."""
    if isinstance(node, (tvm_ffi.Array, list, tuple)):
        for item in node:
            yield from _nodes(item)
    elif isinstance(node, (tirx.Stmt, ir.Expr)):
        yield node
        info = type(node).__tvm_ffi_type_info__
        while info is not None:
            for field in info.fields:
                if field.name not in ("span", "ty", "dtype", "buffer", "annotations"):
                    yield from _nodes(getattr(node, field.name))
            info = info.parent_type_info
