"""From the options of `graphprune.optimize` to the passes that do it."""

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ..budget import Options
from ..criteria import resolve
from ..errors import OptionError
from ..masking import DATA_CRITERIA, MaskOptions
from ..policy import COMPILED, resolve_policy
from ..progress import Progress
from ..structures import CHANNEL, Structure, resolve_structure
from .mask_weights import MaskWeights
from .pipeline import Pass
from .prune_to_latency import pruning
from .recover import Recover, method_of
from .verify_equivalence import VerifyEquivalence

OPEN = ("sparsity", "scope", "widths")
"""Options that may be None, which stands for their defaults."""

OF_MEASURING = ("target", "latency", "threads", "insist")

OF_CHANNELS = ("multiple_of", "allocate", "widths", "min_width", "reduction", "normalizer", "loss", "recover")
"""Options that say something of channels, of the cost of a model with fewer of them, or of gradients."""


def passes_for(asked: Mapping[str, Any], progress: Progress | None = None, thorough: bool = False) -> list[Pass]:
    """The passes that do what is asked for, by the names of the options of `graphprune.optimize`.

    Raises what `optimize` raises for options that cannot be meant, or not together.
    """
    structure = resolve_structure(asked.get("structure", CHANNEL), asked.get("block"))
    method, data, keep = method_of(asked.get("recover", False)), asked.get("data"), asked.get("keep", ())
    given = {name: value for name, value in asked.items() if value is not None or name not in OPEN}
    given["keep"] = (keep,) if isinstance(keep, str) else tuple(keep)
    first: Pass
    if structure is None:
        words = asked.get("policy")
        words = () if words is None else words
        options = Options(**_fields(Options, given | {"policy": resolve_policy(words)}))
        options.check()
        if any(asked.get(name) is not None for name in ("target", "latency")) or "latency" in options.budgets:
            options = replace(options, policy=resolve_policy(words, COMPILED))
        looks = bool(method or resolve(options.criterion).needs)
        measured = {name: asked[name] for name in OF_MEASURING if name in asked}
        first = pruning(options, **measured, data=data, loss=asked.get("loss"), progress=progress)
    else:
        _refuse_channel_options(structure, asked)
        masks = MaskOptions(**_fields(MaskOptions, given | {"structure": structure}))
        masks.check()
        looks = masks.criterion in DATA_CRITERIA
        first = MaskWeights(masks, data, progress)
    if data is not None and not looks:
        warnings.warn(
            f"data= is not read: criterion={asked.get('criterion', 'l2')!r} does not look at data, and recover= is off",
            stacklevel=3,
        )
    passes = [first, *([VerifyEquivalence(thorough)] if asked.get("verify", True) else [])]
    return [*passes, *([Recover(method, data, progress)] if method else [])]


def _fields(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in fields(kind) if field.name in given}


def _refuse_channel_options(structure: Structure, asked: Mapping[str, Any]) -> None:
    names = [f"{name}=" for name in (*OF_CHANNELS, *OF_MEASURING) if asked.get(name) not in (None, False)]
    if names:
        raise OptionError(
            f"{' and '.join(names)} {'go' if names[1:] else 'goes'} with structure='channel'; "
            f"structure='{structure}' keeps all shapes: leave {'them' if names[1:] else 'it'} out"
        )
