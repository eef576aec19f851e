"""Asks for the weights of the next piece of work while this one is computed.

Weights are read once per call of a model, so they come from far away, and the processor's own prefetching starts
only when they are needed: without this, a product waits for memory at the start of every panel of columns.
"""

from collections.abc import Callable

from tvm import s_tir, tirx

_SERIAL, _PARALLEL = 0, 1
_LINE = 64
# Keep in the second-level cache: a panel is too large for the first.
_LOCALITY = 2


def prefetch_panels(function: tirx.PrimFunc, weights: tirx.Buffer, depth: int, size: int, parts: int) -> tirx.PrimFunc:
    """Let the loop over `k` of each tile ask for its share of the next panel of `weights`.

    The loops are a parallel one over panels of `depth` blocks and `size` bytes, in `parts` each, a serial one over
    tiles, and a serial one over `k`. One line is asked for per step; where that is not enough, nothing changes.
    """

    def rewrite(loops: list[tirx.For]) -> tirx.Stmt | None:
        panel, *_, tile, step = loops
        share = -(-size // _LINE // int(tile.extent))
        if share > int(step.extent):
            return None
        # Past the end of a panel follows the next one: neither the index nor the address needs a test.
        element = (tile.loop_var * share + step.loop_var) * (_LINE // 4)
        place = weights[(panel.loop_var // parts + 1) * depth, 0, element]
        address = tirx.call_intrin("handle", "tirx.address_of", place)
        ask = tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, 0, _LOCALITY, 1))
        return tirx.SeqStmt([ask, step.body])

    return function.with_body(_walk(function.body, [], rewrite))


def _walk(statement: tirx.Stmt, loops: list[tirx.For], rewrite: Callable) -> tirx.Stmt:
    """The statement with the body of its third nested loop rewritten."""
    if isinstance(statement, tirx.For):
        loops = [*loops, statement]
        serial = statement.kind in (_SERIAL, _PARALLEL)
        if serial and len(loops) == 3:
            body = rewrite(loops) or statement.body
        else:
            body = _walk(statement.body, loops, rewrite) if serial else statement.body
        return tirx.For(
            statement.loop_var, statement.min, statement.extent, statement.kind, body,
            statement.thread_binding, statement.annotations, statement.step,
        )  # fmt: skip
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_walk(part, loops, rewrite) for part in statement.seq])
    if isinstance(statement, s_tir.SBlockRealize) and not loops:
        block = statement.block
        inside = s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, _walk(block.body, loops, rewrite),
            block.init, block.alloc_buffers, block.match_buffers, block.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(statement.iter_values, statement.predicate, inside)
    return statement
