"""Translations of views: reshaping, slicing, gathering, joining, repeating, padding."""

from math import prod

import numpy as np

from ...graph import Value
from ...translation import taken
from .calls import Call, Translated, Unsupported, axis_of


def reshape(call: Call) -> Translated:
    if prod(call.x.shape) != prod(call.shapes[0]):
        raise Unsupported(f"{call.name} from {call.x.shape} to {call.shapes[0]}")
    return "reshape", (call.x,), {}


def transpose(call: Call) -> Translated:
    rank = len(call.x.shape)
    order = call.attr("perm", list(range(rank))[::-1])
    return "permute", (call.x,), {"order": [int(axis) for axis in order]}


def concat(call: Call) -> Translated:
    parts = tuple(value for value in call.inputs if value is not None)
    return "cat", parts, {"axis": axis_of(call.shapes[0], call.attr("axis", 1))}


def split(call: Call) -> Translated:
    axis = axis_of(call.x.shape, call.attr("axis", 0))
    return "split", (call.x,), {"axis": axis, "sizes": [shape[axis] for shape in call.shapes]}


def slice_(call: Call) -> Translated:
    """Axis by axis; a step of -1 over a whole axis is a flip."""
    shape = call.x.shape
    starts, ends = call.known(1, "starts"), call.known(2, "ends")
    if starts is None or ends is None:
        raise Unsupported("Slice without bounds")
    axes = call.known(3, "axes") or list(range(len(starts)))
    steps = call.known(4) or [1] * len(starts)
    open_axes = call.varying(1) | call.varying(2)
    cuts, flips, x = [], [], call.x
    for place, (start, end, axis, step) in enumerate(zip(starts, ends, axes, steps, strict=True)):
        axis = axis_of(shape, axis)
        first, last, stride = slice(start, max(end, -(2**62)), step).indices(shape[axis])
        if place in open_axes:  # other inputs read other positions: all of them stay
            shape = (*shape[:axis], len(range(first, last, stride)), *shape[axis + 1 :])
            x = call.emit("index", (x,), {"axis": axis, "rank": 1, "positions": None}, shape)
            continue
        if stride < 0:
            if (first, last, stride) != (shape[axis] - 1, -1, -1):
                raise Unsupported("is sliced backwards in part")
            flips.append(axis)
        elif (first, last, stride) != (0, shape[axis], 1):
            cuts.append((axis, first, max(first, last), stride))
    if flips and cuts:
        raise Unsupported("is sliced forwards and backwards at once")
    if flips:
        return "flip", (x,), {"axes": flips}
    return "getitem", (x,), {"cuts": cuts, "picks": []}


def gather(call: Call) -> Translated:
    """Positions of one axis."""
    x, index = call.x, call.tensor(1)
    axis = axis_of(x.shape, call.attr("axis", 0))
    found = call.numbers(1) if index.name in call.trace.plain and not call.varying(1) else None
    return taken(x, index, axis, found)


def picked(call: Call) -> Translated:
    raise Unsupported("is indexed, or written, position by position", "index whole axes")


def gather_nd(call: Call) -> Translated:
    """x[..., index rows, ...]: after `batch_dims` axes come those that are indexed, the rest stays whole."""
    place, _ = _places(call, call.tensor(1))
    return "pick", (call.x, call.tensor(1)), {"place": place, "ragged": False}


def scatter_nd(call: Call) -> Translated:
    """A copy of x with rows written, or added, at positions."""
    if call.attr("reduction", "none") not in ("none", "add"):
        raise Unsupported(f"ScatterND that takes the {call.attr('reduction')}")
    place, rank = _places(call, call.tensor(1))
    return "put", (call.x, call.tensor(2), call.tensor(1)), {"place": place, "rank": rank, "zero": False}


def _places(call: Call, index: Value) -> tuple[dict[int, int], int]:
    """Where the axes lie that are taken whole, and the rank of what is taken."""
    batch, named = int(call.attr("batch_dims", 0)), index.shape[-1]
    kept = {axis: axis for axis in range(batch)}
    shift = len(index.shape) - 1 - batch - named
    kept |= {axis: axis + shift for axis in range(batch + named, len(call.x.shape))}
    return kept, len(call.x.shape) + shift


def expand(call: Call) -> Translated:
    return "expand", (call.x,), {}


def tile(call: Call) -> Translated:
    times = call.known(1)
    if times is None or len(times) != len(call.x.shape):
        raise Unsupported("Tile with other numbers of repeats than axes")
    return "repeat", (call.x,), {"times": times}


def pad(call: Call) -> Translated:
    rank = len(call.x.shape)
    amounts = call.known(1, "pads" if call.attr("pads") is not None else "paddings")
    if amounts is None:
        raise Unsupported("Pad without amounts")
    axes = [axis_of(call.x.shape, axis) for axis in (call.known(3) or range(rank))]
    half = len(amounts) // 2
    pads = {axis: (amounts[i], amounts[half + i]) for i, axis in enumerate(axes)}
    mode = call.attr("mode", "constant")
    value = call.attr("value")
    if value is None:
        value = 0 if call.get(2) is None else call.number(2)
    if value is None:
        raise Unsupported("is padded with a number that depends on the data")
    pads = {axis: pair for axis, pair in pads.items() if any(pair)}
    return "pad", (call.x,), {"pads": pads, "zero": mode == "constant", "value": value}


def depth_to_space(call: Call) -> Translated:
    """Channels become places: (r, r, C) of them by the mode DCR, which is (C, r, r) in another order."""
    r, shape = int(call.attr("blocksize")), call.x.shape
    x = call.x
    if call.attr("mode", "DCR") == "DCR":
        order = np.arange(shape[1]).reshape(r * r, -1).T.ravel()
        x = call.emit("index", (x,), {"axis": 1, "rank": 1, "positions": order}, shape)
    return "pixel_shuffle", (x,), {"factor": r}


def space_to_depth(call: Call) -> Translated:
    """Places become channels, (r, r, C) of them."""
    r = int(call.attr("blocksize"))
    x = call.emit("pixel_unshuffle", (call.x,), {"factor": r}, call.shapes[0])
    order = np.arange(call.shapes[0][1]).reshape(-1, r * r).T.ravel()
    return "index", (x,), {"axis": 1, "rank": 1, "positions": order}
