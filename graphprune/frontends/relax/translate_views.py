"""Translations of views: reshaping, slicing, taking, joining, repeating, padding."""

from math import prod

from ...translation import taken
from .calls import Call, Translated, Unsupported, axis_of


def reshape(call: Call) -> Translated:
    if prod(call.x.shape) != prod(call.shape):
        raise Unsupported(f"{call.name} from {call.x.shape} to {call.shape}")
    return "reshape", (call.x,), {}


def permute(call: Call) -> Translated:
    rank = len(call.x.shape)
    order = call.attr("axes", list(range(rank))[::-1])
    return "permute", (call.x,), {"order": [axis_of(call.x.shape, axis) for axis in order]}


def concat(call: Call) -> Translated:
    return "cat", call.tensors(0), {"axis": axis_of(call.shape, call.attr("axis", 0))}


def stack(call: Call) -> Translated:
    return "stack", call.tensors(0), {"axis": axis_of(call.shape, call.attr("axis", 0))}


def split(call: Call) -> Translated:
    axis = call.axis("axis", 0)
    assert axis is not None
    return "split", (call.x,), {"axis": axis, "sizes": [result.shape[axis] for result in call.results]}


def slice_(call: Call) -> Translated:
    """Bounds and steps by axis; a step of -1 over a whole axis is a flip."""
    axes, starts, ends = call.whole(1), call.whole(2), call.whole(3)
    steps = call.whole(4) if len(call.args) > 4 else [1] * len(axes)
    shape, cuts, flips = call.x.shape, [], []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis_of(shape, axis)
        first, last, stride = slice(start, end, step).indices(shape[axis])
        if stride < 0:
            if call.shape[axis] != shape[axis]:
                raise Unsupported("is sliced backwards in part")
            flips.append(axis)
            continue
        last = max(first, last)
        if len(range(first, last, stride)) != call.shape[axis]:
            raise Unsupported(f"is sliced from {start} to {end} by {step}, which gives {call.shape[axis]} positions")
        if (first, last, stride) != (0, shape[axis], 1):
            cuts.append((axis, first, last, stride))
    if flips and cuts:
        raise Unsupported("is sliced forwards and backwards at once")
    return ("flip", (call.x,), {"axes": flips}) if flips else ("getitem", (call.x,), {"cuts": cuts, "picks": []})


def take(call: Call) -> Translated:
    """Positions of one axis, that of a flat tensor where none is named."""
    x, index, axis = call.x, call.tensor(1), call.axis("axis")
    if axis is None:
        if len(x.shape) != 1:
            raise Unsupported("is taken from as if it were flat", "reshape it before")
        axis = 0
    return taken(x, index, axis, call.numbers.get(index))


def expand(call: Call) -> Translated:
    return "expand", (call.x,), {}


def tile(call: Call) -> Translated:
    rank, times = len(call.shape), call.attr("repeats")
    return "repeat", (call.x,), {"times": [1] * (rank - len(times)) + times}


def repeat(call: Call) -> Translated:
    axis = call.axis("axis")
    if axis is None:
        raise Unsupported("is repeated as if it were flat", "name the axis")
    return "repeat_interleave", (call.x,), {"axis": axis, "times": int(call.attr("repeats"))}


def flip(call: Call) -> Translated:
    return "flip", (call.x,), {"axes": [call.axis()]}


def pad(call: Call) -> Translated:
    widths = call.attr("pad_width")
    pads = {axis: (widths[2 * axis], widths[2 * axis + 1]) for axis in range(len(call.x.shape))}
    pads = {axis: pair for axis, pair in pads.items() if any(pair)}
    value = float(call.attr("pad_value", 0))
    return "pad", (call.x,), {"pads": pads, "zero": call.attr("pad_mode") == "constant", "value": value}


def pixel_shuffle(call: Call) -> Translated:
    return "pixel_shuffle", (call.x,), {"factor": int(call.attr("upscale_factor"))}
