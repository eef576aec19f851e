"""What every importer makes of a model: a Relax module with its signature."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .precision import SINGLE
from .specs import TensorSpec


@dataclass(frozen=True)
class Imported:
    """A Relax module and what the caller sees of it.

    The main function of `module` takes the tensors `inputs` and returns the tensors `outputs`; `tree` is the structure
    in which the model returns them: numbers stand for outputs, None for None. `tools` names the versions of what
    made the module. With `batch_sizes`, the module has one main function per size, and `examples` are
    inputs of one sample. `precision` is the one that the model's own weights have; `named` lists its weights by name.
    """

    module: Any
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    tree: Any
    tools: dict[str, str] = field(default_factory=dict)
    batch_sizes: tuple[int, ...] = ()
    examples: tuple[Any, ...] = ()
    precision: str = SINGLE
    named: Callable[[], Iterable[tuple[str, Any]]] = tuple


def brief(error: BaseException) -> str:
    """The last line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
