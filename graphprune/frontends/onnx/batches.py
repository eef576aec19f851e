"""Calibration data for ONNX models: any iterable of batches, checked, and cut to the batch size that a model takes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import DataError, ExampleInputsError
from .inputs import Feeds, array_of, normalise, real_inputs
from .tracing import dtype_name

HOW = (
    "Give an iterable of batches, each the inputs of one call (one array, a tuple of arrays in the order of the inputs "
    "or a dict by input name), or (inputs, targets)."
)


class Batch(NamedTuple):
    """The inputs of one call by name, how many samples they are, and what errors call them."""

    feeds: Feeds
    samples: int
    name: str


def batches_of(model: ir.Model, data: Any) -> Iterator[Batch]:
    """The batches of an iterable; a model that takes batches of a fixed size gets them in pieces of that size.

    Raises `DataError` for what does not fit the inputs of the model, and where there are no batches at all.
    """
    lone = isinstance(data, (str, Mapping, np.ndarray)) or hasattr(data, "__dlpack__")
    if lone or not isinstance(data, Iterable):
        raise DataError(f"data= is {type(data).__name__}, not an iterable of batches. {HOW}")
    empty = True
    for number, item in enumerate(data):
        name = f"batch {number} of data="
        given = _by_name(model, item, name)
        for piece in _pieces(model, given, name):
            empty = False
            yield Batch(_checked(model, piece, name), _samples(piece), name)
    if empty:
        raise DataError("data= gave no batches; a generator can be read once only: give a list or a DataLoader")


def some_of(batches: Iterable[Batch], samples: int, fixed: bool) -> list[Batch]:
    """The first batches, up to about so many samples; at least one, cut unless the model insists on its size."""
    found: list[Batch] = []
    left = samples
    for batch in batches:
        sizes = {array.shape[:1] for array in batch.feeds.values()}
        if not fixed and batch.samples > left and len(sizes) == 1:
            batch = Batch({name: array[:left] for name, array in batch.feeds.items()}, left, batch.name)
        found.append(batch)
        left -= batch.samples
        if left <= 0:
            break
    return found


def fixed_size(model: ir.Model) -> int | None:
    """The number of samples that all inputs of a model insist on; None where it is open."""
    first = [value.shape[0] if value.shape is not None and len(value.shape) else None for value in real_inputs(model)]
    sizes = {size if isinstance(size, int) else None for size in first}
    return sizes.pop() if len(sizes) == 1 else None


def _by_name(model: ir.Model, item: Any, name: str) -> Feeds:
    """The arrays of one batch; of a pair (inputs, targets) the inputs."""
    names = [value.name or "" for value in real_inputs(model)]
    pair = isinstance(item, (tuple, list)) and len(item) == 2
    if pair and not (len(names) == 2 and all(_is_array(part) for part in item)):
        item = item[0]
    if _is_array(item):
        item = (item,)
    if not isinstance(item, (Mapping, Sequence)) or isinstance(item, str):
        raise DataError(f"{name} is {type(item).__name__}. {HOW}")
    given = dict(item) if isinstance(item, Mapping) else dict(zip(names, item, strict=False))
    if len(item) != len(names) or set(given) != set(names):
        what = f"the inputs {sorted(map(str, given))}" if isinstance(item, Mapping) else f"{len(item)} inputs"
        raise DataError(f"{name} has {what} where the model has {', '.join(names)}. {HOW}")
    try:
        return {key: array_of(part) for key, part in given.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} holds what is no array: {error}. {HOW}") from error


def _is_array(item: Any) -> bool:
    return hasattr(item, "__array__") or hasattr(item, "__dlpack__")


def _pieces(model: ir.Model, given: Feeds, name: str) -> Iterator[Feeds]:
    """Parts of a batch of the size that the model insists on; what does not fill one more is left out."""
    size, counts = fixed_size(model), {array.shape[:1] for array in given.values()}
    if size is None or len(counts) != 1 or counts == {(size,)} or counts == {()}:
        yield given
        return
    (count,) = counts.pop()
    if count < size:
        raise DataError(f"{name} has {count} samples where the model takes {size} at a time: give larger batches")
    for start in range(0, count - size + 1, max(size, 1)):
        yield {key: array[start : start + size] for key, array in given.items()}


def _checked(model: ir.Model, given: Feeds, name: str) -> Feeds:
    """The arrays in the dtypes of the model, whose numbers and sizes were looked at."""
    feeds: Feeds = {}
    for value in real_inputs(model):
        key = value.name or ""
        array = given[key]
        if array.size == 0:
            raise DataError(f"{name} is empty: input {key} of shape {array.shape}")
        dtype = "" if value.dtype is None else dtype_name(value.dtype)
        if "float" in dtype and array.dtype.kind == "f" or _is_whole(dtype) and array.dtype.kind in "iu":
            array = _cast(array, value, name)
        if array.dtype.kind in "fV" and not np.isfinite(array.astype(np.float64)).all():
            raise DataError(f"input {key} of {name} holds values that are NaN or infinite")
        feeds[key] = array
    try:
        return normalise(model, feeds)
    except ExampleInputsError as error:
        raise DataError(f"{name}: {str(error).replace('its example', 'the batch')}") from error


def _is_whole(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def _cast(array: NDArray[Any], value: ir.Value, name: str) -> NDArray[Any]:
    assert value.dtype is not None
    fresh = array.astype(value.dtype.numpy())
    if array.dtype.kind in "iu" and not np.array_equal(fresh, array):
        raise DataError(f"input {value.name} of {name} holds numbers that do not fit {fresh.dtype}")
    return fresh


def _samples(given: Feeds) -> int:
    shape = next(iter(given.values())).shape
    return shape[0] if shape else 1
