"""Calibration data from files of numpy: `.npy` with the one input, `.npz` with an array for every input by its name."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FileFormatError

SIZE = 32
"""Samples in a batch."""

TARGETS = "targets"
"""The array that holds what the outputs should be, where that is known."""


def load_batches(path: Path, size: int = SIZE) -> list[Any]:
    """Batches of `size` samples, cut along the first axis of all arrays; the last one may have fewer.

    **Returns:** arrays where the file holds one without a name, else dicts by name; arrays that `np.savez` numbered
    (`arr_0`) are positional inputs. Pairs of these and of targets, where there is an array `targets`.

    **Raises:** `FileFormatError` for a file that is none, or whose arrays do not belong together.

    ```python
    import numpy as np
    from pathlib import Path
    from graphprune.data_files import load_batches

    np.savez("calibration.npz", x=np.zeros((40, 3), np.float32), targets=np.zeros(40, np.int64))
    print([len(targets) for inputs, targets in load_batches(Path("calibration.npz"))])  # [32, 8]
    ```
    """
    arrays = _read(path)
    shapes = {name: array.shape for name, array in arrays.items()}
    if not arrays.keys() - {TARGETS} or not all(shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
        raise FileFormatError(f"{path} holds {found}: it must hold inputs, with as many samples along every first axis")
    samples = len(next(iter(arrays.values())))
    if not samples:
        raise FileFormatError(f"{path} holds no samples: the first axis of its arrays is empty")
    return [
        _batch({name: array[start : start + size] for name, array in arrays.items()})
        for start in range(0, samples, size)
    ]


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileFormatError(f"there is no file {path}")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"arr_0": found}
        with found:
            return {name: found[name] for name in found.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path} is no file of numbers that numpy.save or numpy.savez wrote: {error}") from error


def _batch(arrays: dict[str, NDArray[Any]]) -> Any:
    targets = arrays.pop(TARGETS, None)
    numbered = [arrays[name] for name in (f"arr_{place}" for place in range(len(arrays))) if name in arrays]
    inputs: Any = arrays if len(numbered) < len(arrays) else tuple(numbered)
    if isinstance(inputs, tuple) and len(inputs) == 1:
        inputs = inputs[0]
    return inputs if targets is None else (inputs, targets)
