"""What a user may say in `torch.compile(model, backend="graphprune", options={...})`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..api import optimize
from ..errors import OptionError
from ..options import check_known, keywords_of
from ..structures import CHANNEL, resolve_structure

COMPILING = ("target", "threads", "tune", "precision", "sparse")
"""Options of `graphprune.compile`."""

WATCHES = ("tracked", "all")
"""How weights are watched: what torch keeps track of, and a sample of their numbers; or all numbers."""

# What cannot be said of a captured graph: its inputs are not those of the model.
_OF_MODELS = {"data": "calibration data", "loss": "a loss", "recover": "recovery", "progress": "progress"}


PRUNING = ("sparsity", *(name for name in keywords_of(optimize) if name not in (*_OF_MODELS, "example_inputs")))
"""Options of `graphprune.optimize`."""


@dataclass(frozen=True)
class Settings:
    """How captured graphs are pruned, or None for not at all; how they are compiled; how weights are watched."""

    pruning: dict[str, Any] | None
    compiling: dict[str, Any]
    all_numbers: bool

    @classmethod
    def of(cls, options: Mapping[str, Any], mode: str | None = None) -> "Settings":
        """Read the options. Raises `OptionError` for those that are not known, and for `mode`."""
        if mode is not None:
            raise OptionError(f"mode={mode!r} is for the backend inductor: use options={{'tune': 60}} to tune kernels")
        for name in options:
            if name in _OF_MODELS:
                raise OptionError(
                    f"options: {name!r} ({_OF_MODELS[name]}) needs the whole model, and a captured graph is a part of "
                    "it: prune with graphprune.optimize(model, ...) first, then torch.compile the result"
                )
        check_known(options, (*PRUNING, *COMPILING, "watch"))
        watch = options.get("watch", WATCHES[0])
        if watch not in WATCHES:
            raise OptionError(f"options: watch={watch!r}: choose one of {', '.join(map(repr, WATCHES))}")
        compiling = {name: options[name] for name in COMPILING if name in options}
        return cls(_pruning(options), compiling, watch == "all")


def _pruning(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `optimize` is called with; None where nothing says that anything is to go."""
    pruning = {name: options[name] for name in PRUNING if name in options}
    structure = resolve_structure(pruning.get("structure", CHANNEL), pruning.get("block"))
    if structure is not None:  # single weights are chosen alike for all targets
        pruning = {name: value for name, value in pruning.items() if name not in COMPILING}
    said = "sparsity" in pruning or "latency" in pruning or isinstance(pruning.get("budget"), Mapping)
    if said or (structure is not None and structure.m):
        return pruning
    vain = [name for name in pruning if name not in COMPILING]
    if vain:
        raise OptionError(f"options: {vain[0]!r} says how to prune, and nothing says how much: add 'sparsity': 0.5")
    return None
