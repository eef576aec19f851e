"""Masks: which single weights stay. Framework-neutral, small on disk (one bit per weight)."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from . import __version__
from .errors import FileFormatError, PlanError, VerifyError
from .files import atomic_path
from .plan import fingerprint
from .policy import DEFAULT, Policy

FORMAT = "graphprune-masks-1"
_KEY = "graphprune_masks"


@dataclass(eq=False)
class Masks:
    """The decision which weights are zero.

    `kept[parameter]` is a boolean array of the parameter's shape, True where a weight may be other than zero.
    `fingerprint` identifies the model by names and shapes of all its stored tensors; `options` are what was asked for,
    `report` holds `[before, after]` counts of parameters and of maskable weights that are not zero. `updated` tells
    that weights that stay were changed as well (SparseGPT).

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    sparse = graphprune.optimize(net, 0.5, structure="unstructured", example_inputs=torch.randn(1, 8))
    masks = graphprune.masks_of(sparse)
    print(masks.explain())
    masks.save("masks.safetensors")
    again = graphprune.Masks.load("masks.safetensors").apply(net)
    ```
    """

    kept: dict[str, NDArray[np.bool_]]
    fingerprint: str
    options: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    updated: bool = False
    inputs: Any = None

    exact = True
    lookups: Mapping[str, Any] = field(default_factory=dict, init=False, repr=False)
    repairs: Mapping[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def policy(self) -> Policy:
        """As that of a plan: with `mask` it lets verification read masks as it reads plans."""
        return DEFAULT

    def mask(self, name: str) -> NDArray[np.bool_]:
        """True where an element of a tensor stays."""
        return self.kept[name]

    def sparsity(self) -> dict[str, float]:
        """The share of zeros by parameter."""
        return {name: 1 - float(mask.mean()) for name, mask in self.kept.items()}

    def explain(self) -> str:
        """A table of the parameters with their shares of zeros."""
        rows = [f"{share:8.2%}  {name} {list(self.kept[name].shape)}" for name, share in self.sparsity().items()]
        left, total = sum(int(mask.sum()) for mask in self.kept.values()), sum(m.size for m in self.kept.values())
        return "\n".join([f"{left:,} of {total:,} weights stay ({self.options.get('structure')})", *rows])

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether the masks were made for a model with exactly these stored tensors, by names and shapes."""
        return fingerprint(shapes) == self.fingerprint

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise `PlanError` where a parameter is missing or has another shape."""
        for name, mask in self.kept.items():
            if name not in shapes:
                raise PlanError(f"these masks are for another model: it has no {name}. Make masks for this model.")
            if tuple(shapes[name]) != mask.shape:
                raise PlanError(
                    f"these masks are for another model: {name} has shape {tuple(shapes[name])} here and {mask.shape} "
                    "there. Make masks for this model."
                )

    def check_zeros(self, weights: Callable[[str], NDArray[Any]]) -> None:
        """Raise `VerifyError` where a weight is other than zero that should not be; `weights` gives them by name."""
        for name, mask in self.kept.items():
            wrong = np.argwhere((weights(name) != 0) & ~mask)
            if len(wrong):
                raise VerifyError(f"{len(wrong)} weights of {name} should be zero, the first at {wrong[0].tolist()}")

    def apply(self, model: Any) -> Any:
        """A copy of a model (module, GraphModule, ExportedProgram, ONNX) with these weights set to zero.

        The model given is not touched. Raises `PlanError` for masks made for another model.
        """
        from .frontends import frontend_of

        return frontend_of(model).with_masks(model, self, {})

    def facts(self) -> str:
        """All but the bits, as JSON."""
        body = {key: getattr(self, key) for key in ("fingerprint", "options", "report", "updated", "inputs")}
        shapes = {name: list(mask.shape) for name, mask in self.kept.items()}
        return json.dumps({"format": FORMAT, "graphprune": __version__, "shapes": shapes, **body}, default=str)

    @classmethod
    def of_facts(cls, text: str, kept: Mapping[str, NDArray[np.bool_]]) -> "Masks":
        """Read `facts`. Raises `FileFormatError` where the text is damaged or does not belong to the bits."""
        try:
            body = json.loads(text)
            if body.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            body.pop("graphprune", None)
            shapes = {name: tuple(shape) for name, shape in body.pop("shapes").items()}
            if shapes != {name: mask.shape for name, mask in kept.items()}:
                raise ValueError("the bits are those of other tensors")
            return cls(dict(kept), **body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"these are no masks, or they are damaged: {error}. Make them again.") from error

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the masks to a .safetensors file, eight weights to the byte; it appears whole or not at all."""
        bits = {name: np.packbits(mask.ravel()) for name, mask in self.kept.items()}
        with atomic_path(path) as temporary:
            save_file(bits, temporary, {_KEY: self.facts()})

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Masks":
        """Read saved masks. Raises `FileFormatError` for a missing or damaged file."""
        try:
            with safe_open(os.fspath(path), framework="numpy") as file:
                text = (file.metadata() or {}).get(_KEY, "{}")
                shapes = json.loads(text).get("shapes", {})
                kept = {name: _unpacked(file.get_tensor(name), tuple(shape)) for name, shape in shapes.items()}
            return cls.of_facts(text, kept)
        except (SafetensorError, OSError, ValueError, AttributeError, TypeError) as error:
            raise FileFormatError(f"{os.fspath(path)} cannot be read as masks: {error}") from error


def masked_names(facts: str) -> list[str]:
    """The parameters that `Masks.facts` tells of. Raises `FileFormatError` where it is damaged."""
    try:
        return list(json.loads(facts)["shapes"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"these are no masks, or they are damaged: {error}. Make them again.") from error


def _unpacked(bits: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    size = int(np.prod(shape))
    if bits.size != -(-size // 8):
        raise ValueError(f"{bits.size} bytes of bits do not fill the shape {shape}")
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)
