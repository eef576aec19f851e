"""Lowers what reorders, cuts and joins channels: nothing moves until somebody needs the result."""

from itertools import product
from math import prod

import numpy as np
from tvm import relax, tirx

from . import channels as moving
from .channels import Channels
from .layout import Blocked, as_image
from .lower_gather import slices_of
from .lower_transposed import interleave
from .lowering import Later, Lowering, Value
from .rewriting import dtype_of, op_name, shape_of


def concat(lowering: Lowering, call: relax.Call) -> Value | None:
    """Channels of several values one after the other."""
    parts = call.args[0]
    if not isinstance(parts, relax.Tuple):
        return None
    found = [lowering.channels(part) for part in parts.fields]
    rank = len(shape_of(parts.fields[0]) or ())
    if not any(found) or int(call.attrs.axis) % rank != 1:
        return None
    kinds = {dtype_of(part) for part in parts.fields}
    images = all(lowering.is_image(part, kind) or lowering.is_volume(part) for part in parts.fields for kind in kinds)
    if not images or kinds not in ({"float32"}, {"uint8"}):
        return None
    given = zip(parts.fields, found, strict=True)
    return moving.join([have or moving.channels_of(lowering.blocked(lowering.value(part))) for part, have in given])


def cut(lowering: Lowering, call: relax.Call) -> Value | None:
    """Some of the channels."""
    have, cuts = lowering.channels(call.args[0]), slices_of(call)
    if have is None or cuts is None or list(cuts) != [1] or shape_of(call)[1] == 0:
        return None
    return have.select(np.arange(have.shape[1])[cuts[1]])


def split(lowering: Lowering, call: relax.Call) -> tuple | None:
    """The channels in several parts."""
    have = lowering.channels(call.args[0])
    if have is None or int(call.attrs.axis) % len(have.shape) != 1:
        return None
    sections = call.attrs.indices_or_sections
    count = have.shape[1]
    if isinstance(sections, tirx.IntImm):
        size = -(-count // int(sections))
        places = list(range(size, count, size))
    else:
        places = [int(place) for place in sections]
    return tuple(have.select(part) for part in np.split(np.arange(count), places))


def take(lowering: Lowering, call: relax.Call) -> Value | None:
    """Channels at constant places."""
    have, order = lowering.channels(call.args[0]), lowering.constant(call.args[1])
    if have is None or order is None or order.ndim != 1 or call.attrs.axis is None:
        return None
    if int(call.attrs.axis) % len(have.shape) != 1 or order.min() < -have.shape[1] or order.max() >= have.shape[1]:
        return None
    return have.select(order)


def shuffle(lowering: Lowering, call: relax.Call) -> Value | None:
    """`reshape(permute(reshape(x)))` that only reorders channels, or makes pixels of them."""
    permute = lowering.definitions.get(call.args[0])
    inner = lowering.definitions.get(permute.args[0]) if op_name(permute) == "relax.permute_dims" else None
    if op_name(inner) == "relax.reshape" and permute.attrs.axes:
        have, axes = lowering.channels(inner.args[0]), [int(axis) for axis in permute.attrs.axes]
        if have is not None and shape_of(call) == have.shape:
            order = _order(have.shape, shape_of(inner), axes)
            return None if order is None else have.select(order)
        if have is not None:
            return _pixel_shuffle(lowering, have, shape_of(inner), axes, shape_of(call))
    have = lowering.channels(call.args[0])
    if have is not None and have.shape == shape_of(call):
        return have
    # Perhaps the beginning of such a thing: nothing is done before somebody else asks.
    return None if have is None else Later(call)


def _order(shape: tuple[int, ...], parts: tuple[int, ...], axes: list[int]) -> np.ndarray | None:
    """Where each channel comes from if all that moves are channels, else None."""
    batch, count, *space = shape
    pixels = prod(space)
    moved = np.arange(batch * count * pixels).reshape(parts).transpose(axes).reshape(batch, count, pixels)
    order = moved[0, :, 0] // pixels
    expected = np.arange(batch)[:, None, None] * (count * pixels) + order[:, None] * pixels + np.arange(pixels)
    return order if np.array_equal(moved, expected) else None


def _pixel_shuffle(
    lowering: Lowering, have: Channels, parts: tuple[int, ...], axes: list[int], out: tuple[int, ...]
) -> Value | None:
    """Runs of channels become the pixels of small squares."""
    if have.shape[0] == 1 and len(parts) == 5:
        parts, axes = (1, *parts), [0, *(axis + 1 for axis in axes)]
    if len(have.shape) != 4 or len(parts) != 6 or axes != [0, 1, 4, 2, 5, 3] or parts[4:] != have.shape[2:]:
        return None
    batch, count, high, wide, height, width = parts
    if batch != have.shape[0] or out != (batch, count, height * high, width * wide):
        return None
    order = np.arange(have.shape[1]).reshape(count, high, wide)
    phases = {(y, x): settle(lowering, have.select(order[:, y, x])) for y, x in product(range(high), range(wide))}
    return lowering.wrap(interleave(lowering, phases, dict.fromkeys(phases, (0, 0)), out, (high, wide)), out)


def permute(lowering: Lowering, call: relax.Call) -> Value | None:
    """Perhaps the middle of a shuffle."""
    return Later(call) if isinstance(lowering.replaced.get(call.args[0]), Later) else None


def settle(lowering: Lowering, channels: Channels) -> Blocked:
    """Channels as a blocked value: as they lie if they are whole values, else moved by one kernel."""
    whole = moving.whole_parts(channels)
    if whole is not None and len(whole) == 1:
        return whole[0]
    if whole is not None:
        joined = lowering.builder.emit(relax.op.concat([value.expr for value in whole], axis=1))
        return lowering.wrap(joined, channels.shape, tuple(s for value in whole for s in value.segments))
    channels = moving.used(channels)
    _, _, height, width = as_image(channels.shape)
    tensors = [source.expr for source in channels.sources]
    moved = lowering.builder.emit_te(
        lambda *sources: moving.move(channels, height, width, lowering.lanes, sources),
        *tensors,
        primfunc_name_hint="channels",
        primfunc_attrs={"op_pattern": 8},
    )
    return lowering.wrap(moved, channels.shape)


def _either(first, second):
    """The first of two handlers that answers."""

    def lower(lowering: Lowering, call: relax.Call) -> Value | None:
        result = first(lowering, call)
        return second(lowering, call) if result is None else result

    return lower


def with_channels(handlers: dict) -> dict:
    """Handlers that ask whether channels move before anything else."""
    own = {
        "relax.concat": concat,
        "relax.strided_slice": cut,
        "relax.split": split,
        "relax.take": take,
        "relax.reshape": shuffle,
        "relax.permute_dims": permute,
    }
    return {**handlers, **{name: _either(f, handlers[name]) if name in handlers else f for name, f in own.items()}}
