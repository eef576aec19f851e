"""How results come back: in the model's own structure, as the kind of tensor that was given."""

from collections.abc import Callable
from typing import Any

import numpy as np


def places(tree: Any) -> list[int]:
    """The numbers in a structure of outputs, in ascending order."""
    if isinstance(tree, int) or tree is None:
        return [] if tree is None else [tree]
    items = tree["items"].values() if tree["kind"] == "dict" else tree["items"]
    return sorted({place for item in items for place in places(item)})


def kind_of(values: list[Any]) -> Callable[[Any], Any]:
    """How results are returned: as the kind of tensor that was given."""
    if all(isinstance(value, np.ndarray) for value in values):
        return np.from_dlpack
    for value in values:
        if type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "detach"):
            import torch

            return torch.utils.dlpack.from_dlpack
    return lambda tensor: tensor


def unflatten(tree: Any, leaves: list[Any], convert: Callable[[Any], Any]) -> Any:
    """The model's own structure of outputs: numbers stand for tensors, null for None."""
    if isinstance(tree, int):
        return convert(leaves[tree])
    if tree is None:
        return None
    kind, content = tree["kind"], tree["items"]
    if kind == "dict":
        return {key: unflatten(item, leaves, convert) for key, item in content.items()}
    items = [unflatten(item, leaves, convert) for item in content]
    return items if kind == "list" else tuple(items)
