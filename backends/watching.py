"""Whether tensors still hold what they held: cheap enough to ask before every call."""

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

_LOOKS = 32
"""How many numbers of a tensor are looked at, unless all are."""


class Watch:
    """Remembers tensors and tells when one of them is another one, or holds other numbers.

    What torch counts (assignments, optimizers, `load_state_dict`, everything in place) is seen for certain. Writes that
    it does not count, those through `tensor.data` or a numpy array that shares the memory, are seen where they change
    one of 32 numbers spread over a tensor; with `all_numbers` wherever they are.

    ```python
    watch = Watch([weight])
    weight.mul_(2)
    assert not watch.unchanged([weight])
    ```
    """

    def __init__(self, tensors: Sequence[torch.Tensor], all_numbers: bool = False) -> None:
        self._owners = [weakref.ref(tensor) for tensor in tensors]
        self._marks = [_mark(tensor) for tensor in tensors]
        self._views = [_view(tensor, all_numbers or tensor.is_inference()) for tensor in tensors]
        self._seen = [view.tobytes() for view in self._views]

    @property
    def alive(self) -> bool:
        """False when one of the tensors is gone."""
        return all(owner() is not None for owner in self._owners)

    def unchanged(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the same tensors with the same numbers."""
        return (
            len(tensors) == len(self._owners)
            and all(owner() is tensor for owner, tensor in zip(self._owners, tensors, strict=True))
            and all(mark == _mark(tensor) for mark, tensor in zip(self._marks, tensors, strict=True))
            and all(seen == view.tobytes() for seen, view in zip(self._seen, self._views, strict=True))
        )


def _mark(tensor: torch.Tensor) -> tuple[int, int]:
    """Where the numbers lie and how often torch has written to them; inference tensors have no such count."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


def _view(tensor: torch.Tensor, all_numbers: bool) -> NDArray[np.uint8]:
    """Some or all bytes of a tensor, as an array that goes on showing what lies at that address.

    It does not own the memory, which may go or grow as its owner likes: look at it only while the mark is the same.
    """
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.numel() == 0:
        return np.zeros(0, dtype=np.uint8)
    width = tensor.element_size()
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = (ctypes.c_uint8 * (reach * width)).from_address(tensor.data_ptr())
    numbers: NDArray[np.uint8] = np.ctypeslib.as_array(memory).reshape(reach, width)
    return numbers if all_numbers else numbers[:: max(1, (reach - 1) // (_LOOKS - 1))]
