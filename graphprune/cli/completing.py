"""What a shell proposes where an option takes one of some words; each table is asked when it is needed."""

from collections.abc import Iterable
from pathlib import Path

Words = list[tuple[str, str]]
"""Words that complete what was typed, each with what it means."""

_MODELS = (".onnx", ".pt2")


def models(incomplete: str) -> Words:
    """Files of models, folders on the way to them, and the prefixes of names in other libraries."""
    found = [(f"{path}/", "") if path.is_dir() else (str(path), "") for path in _paths(incomplete, _MODELS)]
    return found + _matching({"timm:": "a model of timm", "hf:": "a model of Hugging Face"}.items(), incomplete)


def criteria(incomplete: str) -> Words:
    """Criteria for channels, then those for single weights only."""
    from ..criteria import CRITERIA
    from ..masking import CRITERIA as OF_WEIGHTS

    needs = {name: "needs --data" if criterion.needs else "" for name, criterion in CRITERIA.items()}
    weights = {name: "of single weights" for name in OF_WEIGHTS if name not in CRITERIA}
    return _matching((needs | weights).items(), incomplete)


def budgets(incomplete: str) -> Words:
    """What can be counted."""
    from ..budget import BUDGETS
    from ..masking import BUDGETS as OF_WEIGHTS

    return _matching(((name, "") for name in dict.fromkeys((*BUDGETS, *OF_WEIGHTS))), incomplete)


def targets(incomplete: str) -> Words:
    """Machines to compile for."""
    from ..backends.targets import TARGETS, known_targets

    about = {
        name: TARGETS[name].purpose if name in TARGETS else "the best for this machine" for name in known_targets()
    }
    return _matching(about.items(), incomplete)


def structures(incomplete: str) -> Words:
    """What can go."""
    about = {"channel": "whole channels", "unstructured": "single weights", "2:4": "two of four", "block:16x1": "tiles"}
    return _matching(about.items(), incomplete)


def policies(incomplete: str) -> Words:
    """What goes where channels are split."""
    from ..policy import CHOICES

    return _matching(CHOICES.items(), incomplete)


def precisions(incomplete: str) -> Words:
    """Element types of weights or products."""
    return _matching(((name, "") for name in ("fp32", "fp16", "bf16", "tf32")), incomplete)


def _matching(words: Iterable[tuple[str, str]], incomplete: str) -> Words:
    return [(word, about) for word, about in words if word.startswith(incomplete)]


def _paths(incomplete: str, endings: Iterable[str]) -> list[Path]:
    folder, _, start = incomplete.rpartition("/")
    inside = Path(folder or ("/" if incomplete.startswith("/") else "."))
    if not inside.is_dir():
        return []
    fitting = (path for path in sorted(inside.iterdir()) if path.name.startswith(start))
    return [path for path in fitting if path.suffix in endings or (path.is_dir() and not path.name.startswith("."))]
