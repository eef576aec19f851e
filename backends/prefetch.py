"""Fetching weights before they are needed, at an even pace.

Hardware fetches ahead within a page of memory, and starts anew behind every edge. A convolution that reads megabytes of
weights once stalls there, unless the lines of the next share are asked for while the present one is used.
"""

from collections.abc import Callable, Sequence
from math import gcd

from tvm import ir, s_tir, tirx

# Bytes of weights that are not expected in any cache when they are needed. With many tiles to use a share of them for,
# memory keeps up by itself.
LARGE_WEIGHTS, FEW_TILES = 400 * 1024, 16
# Read, keep in the second-level cache, data: arguments of LLVM's prefetch.
_READ, _SECOND_LEVEL, _DATA = 0, 2, 1
_LINE = 64
# With vectors of fewer lanes a round of the loops inside a tile is so short that asking in each would take its time.
NARROW = 8


def rows_per_line(rows: int, lanes: int) -> int:
    """How many of the rows that lie one after the other, a vector of floats each, come with one line of memory."""
    return gcd(rows, max(1, _LINE // (4 * lanes)))


def line(tensor: ir.Var, place: Sequence[tirx.Expr]) -> tirx.Stmt:
    """Ask for the line of memory that holds an element of a parameter."""
    address = tirx.address_of(tirx.BufferLoad(tensor, list(place)))
    flags = [tirx.const(flag, "int32") for flag in (_READ, _SECOND_LEVEL, _DATA)]
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *flags))


def ask(
    function: tirx.PrimFunc, loop_var: ir.Var, tensor: ir.Var, places: Sequence[Sequence[tirx.Expr]]
) -> tirx.PrimFunc:
    """The function that asks for the lines of some elements of a tensor at the start of every round of one loop.

    The loop should not be the innermost one: the code generator takes a prefetch for a use of all memory, and writes
    down in each of its rounds what lies in registers.
    """
    return before_body(function, loop_var, [line(tensor, place) for place in places])


def before_body(function: tirx.PrimFunc, loop_var: ir.Var, statements: Sequence[tirx.Stmt]) -> tirx.PrimFunc:
    """The function with statements at the start of every round of one loop."""

    def insert(loop: tirx.For) -> tirx.For:
        return _with_body(loop, tirx.SeqStmt([*statements, loop.body]))

    return function.with_body(_change(function.body, loop_var, insert))


def _change(statement: tirx.Stmt, loop_var: ir.Var, change: Callable[[tirx.For], tirx.Stmt]) -> tirx.Stmt:
    """The statement with one loop changed, wherever it is nested."""
    if isinstance(statement, tirx.For):
        if statement.loop_var.same_as(loop_var):
            return change(statement)
        return _with_body(statement, _change(statement.body, loop_var, change))
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_change(part, loop_var, change) for part in statement.seq])
    if isinstance(statement, s_tir.SBlockRealize) and not statement.iter_values:
        block = statement.block
        body = _change(block.body, loop_var, change)
        changed = s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, body,
            block.init, block.alloc_buffers, block.match_buffers, block.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(statement.iter_values, statement.predicate, changed)
    return statement


def _with_body(loop: tirx.For, body: tirx.Stmt) -> tirx.For:
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations)


def with_extent(function: tirx.PrimFunc, loop_var: ir.Var, extent: tirx.Expr) -> tirx.PrimFunc:
    """The function with another number of rounds of one loop, which may be read from a table."""

    def change(loop: tirx.For) -> tirx.For:
        return tirx.For(loop.loop_var, loop.min, extent, loop.kind, loop.body, loop.thread_binding, loop.annotations)

    return function.with_body(_change(function.body, loop_var, change))
