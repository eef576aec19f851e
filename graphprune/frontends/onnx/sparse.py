"""Zeros in the weights of an ONNX model, and the note in its metadata that tells which weights they are in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import FileFormatError
from ...masks import Masks, masked_names
from ...packing import packed, unpacked
from . import files
from .read import stored
from .slicing import LAZY
from .tracing import set_constant

MASKS = "graphprune.masks"
"""The key of a model's metadata for all facts of its masks but the bits, which are those of its zeros."""

LARGEST = 1 << 26
"""Bytes of these facts at most: a few of them may unpack to any number."""


def with_masks(origin: Any, masks: Masks, weights: Mapping[str, NDArray[Any]]) -> Any:
    """A model of the same kind with zeros where the masks say so; for a path an onnx.ModelProto."""
    model = files.read(origin)
    tensors = {value.name or "": (value, tensor) for value, tensor in stored(model).items()}
    masks.check({name: tuple(int(size) for size in tensor.shape) for name, (_, tensor) in tensors.items()})
    for name, mask in masks.kept.items():
        value, tensor = tensors[name]
        set_constant(value, _masked(tensor, mask))
    model.metadata_props[MASKS] = packed(masks.facts())
    return files.give_back(model, origin)


def _masked(tensor: Any, mask: NDArray[np.bool_]) -> Any:
    def compute() -> "ir.Tensor[Any]":
        array = tensor.numpy()
        numbers = np.where(mask, array, np.zeros(1, dtype=array.dtype))
        return ir.Tensor(numbers, dtype=tensor.dtype, name=tensor.name, doc_string=tensor.doc_string)

    if isinstance(tensor, (ir.ExternalTensor, ir.LazyTensor)) and tensor.nbytes > LAZY:
        return ir.LazyTensor(compute, dtype=tensor.dtype, shape=ir.Shape(tensor.shape), name=tensor.name)
    return compute()


def masks_of(origin: Any) -> Masks | None:
    """The masks of a model: which of the weights that its metadata names are zero. None where it names none.

    Raises `FileFormatError` where the metadata is damaged or does not fit the model.
    """
    model = origin if isinstance(origin, ir.Model) else files.read(origin)
    text = model.metadata_props.get(MASKS)
    if text is None:
        return None
    try:
        facts = unpacked(text, LARGEST)
    except ValueError as error:
        raise FileFormatError(f"metadata {MASKS!r} of the model is damaged ({error}): remove that entry") from error
    tensors = {value.name or "": tensor for value, tensor in stored(model).items()}
    names = masked_names(facts)
    missing = sorted(set(names) - tensors.keys())
    if missing:
        raise FileFormatError(f"metadata {MASKS!r} names {missing[0]}, which the model lacks: remove that entry")
    return Masks.of_facts(facts, {name: np.asarray(tensors[name].numpy() != 0) for name in names})
