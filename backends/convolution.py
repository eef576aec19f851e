"""Convolution in the blocked layout: the computation, its packed weights, and its schedule.

One template covers any kernel, stride, dilation, padding and number of groups. Columns of the output are
computed in tiles that stay in registers; the tile may be larger than what is left of a row, in which case the
padded input supplies zeros and the surplus columns are dropped.
"""

from math import prod

from tvm import s_tir, te, tirx

from .convolution_shape import PIECE, Convolution
from .dots import QUAD, accumulate_dots, takes_bytes
from .filters import first_block
from .halving import widened
from .prefetch import FEW_TILES, NARROW, ask, rows_per_line
from .targets import Target
from .tiling import (
    PARTS,
    accumulate,
    annotation_of,
    blocks_of,
    extent,
    find,
    flatten_image,
    inline_epilogue,
    inline_prologue,
    merge_axes,
    named,
    partition,
    schedule_pad,
    split_for_threads,
    unroll,
    vectorize,
)

Block = s_tir.schedule.SBlockRV

_TILE = "graphprune.convolution"
_BY_ROWS = "graphprune.border_by_rows"
_UNROLLED_TAPS = 64
# Which loop of the sums inside a tile runs over output blocks, columns, the rows of the kernel.
_MEMBER, _COLUMN, _KY = 2, 5, 8
# So many times as large as its weights is what a convolution reads and writes, or larger, if threads share the image.
_IMAGE_PER_WEIGHT = 4
# Bytes of prepared input, which the first-level cache holds, and the fewest pixels for which it is prepared: there must
# be pieces for several threads.
_PREPARED, _FEW_PIXELS = 32 * 1024, 32


def _pad(data: te.Tensor, size: tuple[int, int], shape: Convolution) -> te.Tensor:
    """The input with its border of zeros, `(batch, blocks, height, width, lanes)`."""
    top, left, _, _ = shape.padding
    plain = len(data.shape) == 4

    def value(n, c, y, x, lane):
        inside = tirx.all(y >= top, y < shape.height + top, x >= left, x < shape.width + left)
        read = data(n, c, y - top, x - left) if plain else data(n, c, y - top, x - left, lane)
        return tirx.if_then_else(inside, read, tirx.const(shape.zero, data.dtype))

    lanes = shape.lanes_in * shape.parts
    attrs = {_BY_ROWS: int(shape.border_by_rows)}
    return te.compute((shape.batch, shape.blocks_in, *size, lanes), value, name="pad", attrs=attrs)


def compute(shape: Convolution, data: te.Tensor, weight: te.Tensor, first: te.Tensor | None) -> te.Tensor:
    """The convolution as an expression, `(batch, blocks_out, out_height, out_width, lanes)`."""
    (rows, columns), (kh, kw), (sy, sx), (dy, dx) = shape.out_size, shape.kernel, shape.stride, shape.dilation
    wide, deep = shape.tile
    row_count, column_count = (1, rows * columns) if shape.flat else (rows, columns)
    tiles = -(-column_count // wide)
    if shape.flat:
        source = data
    else:
        needed = ((rows - 1) * sy + (kh - 1) * dy + 1, (tiles * wide - 1) * sx + (kw - 1) * dx + 1)
        fits = not any(shape.padding) and needed[1] <= shape.width and len(data.shape) == 5
        source = data if fits else _pad(data, needed, shape)
    block = te.reduce_axis((0, shape.reach), "block")
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    quads = shape.lanes_in // QUAD if shape.integers else shape.lanes_in
    lane_in, byte = te.reduce_axis((0, quads), "lane_in"), te.reduce_axis((0, QUAD), "byte")

    def term(n, group, member, y, t, r, lane):
        o = group * deep + member
        channel = block // shape.parts + (_first_block(shape, o, first) if shape.grouped else 0)
        column = t * wide + r
        place = lane_in * QUAD + byte if shape.integers else block % shape.parts * shape.lanes_in + lane_in
        if shape.flat:
            pixel = (n, channel, column // shape.width, column % shape.width)
            read = source(*pixel) if len(data.shape) == 4 else source(*pixel, place)
        else:
            read = source(n, channel, y * sy + ky * dy, column * sx + kx * dx, place)
        if shape.integers:
            product = tirx.Cast("int32", read) * tirx.Cast("int32", weight(o, block, ky, kx, lane_in, lane, byte))
            return te.sum(product, axis=[block, ky, kx, lane_in, byte])
        return te.sum(read * widened(weight, o, block, ky, kx, lane_in, lane), axis=[block, ky, kx, lane_in])

    size = (shape.batch, shape.blocks // deep, deep, row_count, tiles, wide, shape.lanes)
    sums = te.compute(size, term, name="convolution", attrs={_TILE: list(shape.choice)})

    def result(n, o, y, x, lane):
        row, column = (0, y * columns + x) if shape.flat else (y, x)
        return sums[n, o // deep, o % deep, row, column // wide, column % wide, lane]

    return te.compute((shape.batch, shape.blocks_out, rows, columns, shape.lanes), result, name="untile")


def _first_block(shape: Convolution, block, table: te.Tensor | None):
    """The first input block that an output block reads."""
    if table is not None:
        return table(block)
    start = first_block(block, shape.per_group, shape.lanes, shape.lanes_in)
    return tirx.min(start, shape.blocks_in - shape.reach)


def schedule(function: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function that contains the template and whatever elementwise work was fused behind it."""
    sch = s_tir.Schedule(function)
    sums = find(sch, _TILE)
    if sums is None:
        return None
    wide, deep, flat, share = annotation_of(sch, sums, _TILE)
    prologue = inline_prologue(sch, sums)
    result = inline_epilogue(sch, sums)
    if prologue is not None and not flat:
        return None
    if prologue is not None:
        flatten_image(sch, prologue)
    if flat:
        merge_axes(sch, result, 2, 2)
        # Sizes of tiles are derived from how their places are written: rows and columns apart would hide them.
        sch = s_tir.Schedule(s_tir.transform.StmtSimplify()(sch.mod))
        sums, result = find(sch, _TILE), blocks_of(sch)[-1]
    if not share:
        rows = _by_tiles(sch, sums, result, wide, deep, target, prologue is not None)
        if prologue is not None:
            _prepare(sch, blocks_of(sch)[0], rows)
        pad = named(sch, "pad")
        by_rows = pad is not None and bool(sch.get(pad).annotations[_BY_ROWS])
        schedule_pad(sch, rows if by_rows else None)
        return sch
    _by_shares(sch, sums, result, wide, deep, share)
    schedule_pad(sch)
    return _with_prefetch(sch, sums, deep, share)


def takes_prologue(function: tirx.PrimFunc) -> bool:
    """Whether a kernel is a convolution that can prepare its input for some pixels at a time, and gains by it."""
    sch = s_tir.Schedule(function)
    sums = find(sch, _TILE)
    if sums is None or inline_prologue(sch, sums) is not None:
        return False
    *_, flat, share = annotation_of(sch, sums, _TILE)
    if not flat or share or len(function.params) != 3:  # with a table, input blocks would be known only when it runs
        return False
    data, _, result = function.params
    return str(data.dtype) == "float32" and prod(map(int, result.shape[2:4])) >= _FEW_PIXELS


def _prepare(sch: s_tir.Schedule, prologue: Block, piece: s_tir.schedule.LoopRV) -> None:
    """Write the input of a piece into a buffer of its own, in vectors."""
    sch.set_scope(prologue, 0, "local")
    sch.compute_at(prologue, piece, preserve_unit_loops=True)
    *_, block, _, lane = sch.get_loops(prologue)
    vectorize(sch, lane)
    partition(sch, block)


def _near(tiles: int, size: int) -> int:
    """How many tiles a piece has, of `size` bytes of prepared input each."""
    return max(n for n in range(1, tiles + 1) if n == 1 or tiles % n == 0 and n * size <= _PREPARED)


def _by_tiles(
    sch: s_tir.Schedule, sums: Block, result: Block, wide: int, deep: int, target: Target, prepared: bool = False
) -> s_tir.schedule.LoopRV:
    """One tile after the other, each through the whole reduction; returns the loop over rows of them."""
    spatial = not prepared and _is_mostly_image(sch, sums, result)
    n, o, *rows, x, lane = sch.get_loops(result)
    outer, inner = sch.split(o, [None, deep])
    tile, column = sch.split(x, [None, wide])
    sch.reorder(n, outer, *rows, tile, inner, column, lane)
    others, around = extent(sch, n) * extent(sch, outer), 2
    if prepared:
        channels = int(prod(sch.get(sums).reads[0].source.shape[1::2]))  # blocks by lanes
        part, tile = sch.split(tile, [None, _near(extent(sch, tile), 4 * channels * wide)])
        sch.reorder(part, outer, tile)
        piece, around = sch.fuse(n, part), 3
    elif spatial and rows:
        part, row = split_for_threads(sch, *rows, others, PARTS)
        sch.reorder(n, part, outer, row)
        piece, around = sch.fuse(n, part, outer), 3
    elif spatial:
        part, tile = split_for_threads(sch, tile, others, PARTS)
        sch.reorder(n, part, outer, tile)
        piece = sch.fuse(n, part, outer)
    else:
        if not rows:
            part, tile = split_for_threads(sch, tile, others)
            rows = [part]
        piece = sch.fuse(n, outer, *rows)
    sch.parallel(piece)
    vectorize(sch, lane)
    unroll(sch, inner, column)
    sch.set_scope(sums, 0, "local")
    sch.compute_at(sums, tile, preserve_unit_loops=True)
    *_, ky, kx, lane_in = loops = sch.get_loops(sums)[around:][: _KY + 3]
    # A value of the input is used for all output blocks at once: else those of all columns would wait in registers.
    sch.reorder(loops[_COLUMN], loops[_MEMBER])
    # Of a plain input with few channels the taps are unrolled, if the code for them stays small.
    few = extent(sch, lane_in) == 1 and extent(sch, ky) * extent(sch, kx) <= _UNROLLED_TAPS
    if takes_bytes(sch, sums):
        accumulate_dots(sch, sums, outer=around, spatial=7, unrolled=3 if few else 1, instruction=target.dots)
    else:
        accumulate(sch, sums, outer=around, spatial=7, unrolled=3 if few else 1)
    return row if spatial and rows else piece


def _is_mostly_image(sch: s_tir.Schedule, sums: Block, result: Block) -> bool:
    """Whether the weights are small against what a convolution reads and writes.

    Then threads take parts of the image, all of its channels: each finds near what it wrote in the kernel before. No
    kernel wrote a plain input, and all of its taps are unrolled: they leave no register for one more loop.
    """
    if int(sch.get(sums).iter_vars[-1].dom.extent) == 1:
        return False
    shapes = [tuple(map(int, read.source.shape)) for read in sch.get(sums).reads]
    weights = sum(prod(shape) for shape in shapes if len(shape) > 5)
    image = sum(prod(shape) for shape in shapes if len(shape) <= 5)
    image += prod(int(variable.dom.extent) for variable in sch.get(result).iter_vars)
    return _IMAGE_PER_WEIGHT * weights <= image


def _by_shares(
    sch: s_tir.Schedule,
    sums: s_tir.schedule.SBlockRV,
    result: s_tir.schedule.SBlockRV,
    wide: int,
    deep: int,
    share: int,
) -> None:
    """A share of the reduction for all tiles of a piece, then the next share: for weights that fit into no cache.

    So a weight comes from memory once and is used for the whole piece while it is near, and memory delivers at an even
    pace. The sums of a piece wait in the first-level cache.
    """
    n, o, *rows, x, lane = sch.get_loops(result)
    outer, inner = sch.split(o, [None, deep])
    tile, column = sch.split(x, [None, wide])
    lines, line_size = (rows[0], extent(sch, tile) * wide) if rows else (tile, wide)
    count = extent(sch, lines)
    fitting = max(1, PIECE // (line_size * deep * extent(sch, lane) * 4))
    pieces, line = sch.split(lines, [None, max(n for n in range(1, count + 1) if count % n == 0 and n <= fitting)])
    sch.reorder(n, outer, pieces, inner, line, *([tile] if rows else []), column, lane)
    piece = sch.fuse(n, outer, pieces)
    sch.parallel(piece)
    vectorize(sch, lane)
    unroll(sch, column)
    sch.set_scope(sums, 0, "local")
    sch.compute_at(sums, piece, preserve_unit_loops=True)
    n, group, o, y, t, r, lane, block, ky, kx, lane_in = sch.get_loops(sums)[1:]
    part, block = sch.split(block, [None, share])
    sch.reorder(n, group, part, y, t, block, ky, kx, lane_in, o, r, lane)
    vectorize(sch, lane)
    unroll(sch, lane_in, o, r)
    vectorize(sch, sch.get_loops(sch.decompose_reduction(sums, part))[-1])


def _with_prefetch(sch: s_tir.Schedule, sums: Block, deep: int, share: int) -> s_tir.Schedule:
    """While a share of the weights is used for one tile after the other, each tile asks for its portion of the next."""
    function = sch.mod["main"]
    weight = next(p for p in function.params if len(p.ty.shape) == 6)
    outputs, reach, _, _, lanes_in, lanes = (int(size) for size in weight.shape)
    piece, n, _, part, y, t, block, ky, kx, *_ = (sch.get(loop) for loop in sch.get_loops(sums))
    pieces = int(piece.extent) * deep // outputs
    if y.extent * t.extent > FEW_TILES:
        return sch
    tile = y.loop_var * t.extent + t.loop_var
    step = rows_per_line(lanes_in, lanes)
    narrow, high, wide, lines = lanes < NARROW, int(ky.extent), int(kx.extent), lanes_in // step
    each = share * high * wide * lines if narrow else lines
    portion = -(-deep * each // int(y.extent * t.extent))
    ahead = part.loop_var + 1
    over = ahead // part.extent
    first = piece.loop_var // pieces * deep + over * deep
    places = []
    for number in range(portion):
        row = tirx.min(tile * portion + number, deep * each - 1)
        tap = row % each // lines
        inside = (tap // (high * wide), tap // wide % high, tap % wide) if narrow else (block, ky, kx)
        shift, *taps = inside if narrow else (loop.loop_var for loop in inside)
        output = tirx.min(first + row // each, outputs - 1)
        places.append((output, (ahead - over * part.extent) * share + shift, *taps, row % lines * step, 0))
    return s_tir.Schedule(ask(function, (t if narrow else kx).loop_var, weight, places))
