"""What an artifact takes and returns: names, shapes, element types."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of one input or output.

    The first axis of a `batched` tensor may have any length; `shape` shows the smallest that was compiled.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    batched: bool = False

    def __str__(self) -> str:
        extents = ["batch", *self.shape[1:]] if self.batched else self.shape
        return f"{self.dtype}[{', '.join(map(str, extents))}]"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be given."""
        if self.batched:
            return len(shape) == len(self.shape) and shape[0] > 0 and shape[1:] == self.shape[1:]
        return shape == self.shape


def describe(spec: TensorSpec) -> dict[str, Any]:
    """A tensor's entry in the manifest."""
    entry = {**asdict(spec), "shape": list(spec.shape)}
    return entry if spec.batched else {key: value for key, value in entry.items() if key != "batched"}


def spec_of(entry: Mapping[str, Any]) -> TensorSpec:
    """The tensor of an entry in the manifest."""
    return TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"], entry.get("batched", False))
