"""Calibration data: any iterable of batches as inputs and targets, checked, so that errors name the batch."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from ...errors import DataError, GraphPruneError
from .inputs import Inputs, normalise

HOW = "Give an iterable of batches: inputs alone, or (inputs, targets); inputs as in example_inputs."


class Batch(NamedTuple):
    """The inputs of one call, and what they should give, where that is known."""

    inputs: Inputs
    targets: Any = None


def batches_of(data: Any, example: Inputs) -> Iterator[Batch]:
    """The batches of an iterable, with tensors for arrays of numpy.

    A pair is (inputs, targets), unless the model takes two positional inputs and these are both tensors. Raises
    `DataError` for what is no batch like the example inputs.
    """
    if isinstance(data, (torch.Tensor, np.ndarray)) or not isinstance(data, Iterable) or isinstance(data, (dict, str)):
        raise DataError(f"data= is {type(data).__name__}, not an iterable of batches. {HOW}")
    for number, item in enumerate(data):
        batch = _batch(item, example, number)
        _check(batch, example, number)
        yield batch


NO_BATCHES = "data= gave no batches; a generator can be read once only: give a list or a DataLoader"


@contextmanager
def running(number: int) -> Iterator[None]:
    """Whatever a model raises on a batch becomes a `DataError` that names the batch."""
    try:
        yield
    except GraphPruneError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise DataError(f"the model does not run on batch {number} of data=: {kind}: {error}. {HOW}") from error


def samples_of(given: Inputs) -> int:
    """How many samples a batch has: the size of the first axis of its first tensor."""
    sizes = [leaf.shape[0] for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    return int(sizes[0]) if sizes else 1


def _batch(item: Any, example: Inputs, number: int) -> Batch:
    if isinstance(item, Batch):
        return item
    item = _tensors(item, example, number)
    wanted = len(example.args)
    paired = isinstance(item, (tuple, list)) and len(item) == 2 and not isinstance(item, Inputs)
    if paired and not (wanted == 2 and all(isinstance(part, torch.Tensor) for part in item)):
        inputs, targets = item
    else:
        inputs, targets = item, None
    try:
        return Batch(normalise(inputs), targets)
    except ValueError as error:
        raise DataError(f"batch {number} of data= is {type(item).__name__}. {HOW}") from error


def _tensors(item: Any, example: Inputs, number: int) -> Any:
    """Arrays of numpy as tensors; its floats, which are float64 unless one asks, as those of the example inputs."""
    leaves = [leaf for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor)]
    floats = next((leaf.dtype for leaf in leaves if leaf.is_floating_point()), None)

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        tensor = torch.tensor(leaf)
        return tensor.to(floats) if floats is not None and tensor.is_floating_point() else tensor

    try:
        return tree_map(one, item)
    except TypeError as error:
        raise DataError(f"batch {number} of data= holds an array that is no tensor of numbers: {error}") from error


def _check(batch: Batch, example: Inputs, number: int) -> None:
    given, wanted = batch.inputs, example
    unknown = [key for key in given.kwargs if wanted.kwargs and key not in wanted.kwargs]
    missing = [key for key in wanted.kwargs if not given.args and key not in given.kwargs]
    if unknown or missing:
        raise DataError(
            f"batch {number} of data= has the keyword inputs {', '.join(given.kwargs) or 'none'} where the model was "
            f"analysed with {', '.join(wanted.kwargs)}. {HOW}"
        )
    if len(given.args) != len(wanted.args) and not given.kwargs and not wanted.kwargs:
        raise DataError(
            f"batch {number} of data= has {len(given.args)} positional inputs where the model was analysed with "
            f"{len(wanted.args)}. {HOW}"
        )
    for found, like in zip(given.args, wanted.args, strict=False):
        _compare(found, like, f"batch {number} of data=")
    for key in given.kwargs.keys() & wanted.kwargs.keys():
        _compare(given.kwargs[key], wanted.kwargs[key], f"{key} in batch {number} of data=")
    for leaf in tree_leaves(given):
        if not isinstance(leaf, torch.Tensor):
            continue
        if leaf.is_meta:
            raise DataError(f"batch {number} of data= is on the meta device and has no numbers")
        if leaf.numel() == 0:
            raise DataError(f"batch {number} of data= is empty: an input of shape {tuple(leaf.shape)}")
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            raise DataError(f"batch {number} of data= holds values that are NaN or infinite")


def _compare(found: Any, like: Any, where: str) -> None:
    if not isinstance(like, torch.Tensor) or not isinstance(found, torch.Tensor):
        return
    if found.dim() != like.dim() or found.shape[1:2] != like.shape[1:2] and like.dim() > 2:
        raise DataError(
            f"{where} has shape {tuple(found.shape)} where the model was analysed with {tuple(like.shape)}. {HOW}"
        )
    if found.is_floating_point() != like.is_floating_point():
        raise DataError(f"{where} holds {found.dtype} where the model was analysed with {like.dtype}")
