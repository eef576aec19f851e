"""Models of other libraries by name: `timm:resnet18`, and `hf:` with the name of a repository or a local folder."""

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import UnsupportedModelError

OFFLINE = (
    "without a network, name a local folder (hf:./folder), give --weights, or take --random-weights for numbers that "
    "mean nothing"
)


def is_hub(source: str) -> bool:
    """Whether a command line names a model of another library."""
    return source.partition(":")[0] in _HUBS and ":" in source


def load(source: str, pretrained: bool) -> nn.Module:
    """The model, in `eval()`: with its trained weights, or with random ones.

    Raises `UnsupportedModelError` where the library is not installed, does not know the name, or has no weights for it.
    """
    hub, _, name = source.partition(":")
    package, load_by_name = _HUBS[hub]
    library = _imported(package, source)
    try:
        model: nn.Module = load_by_name(library, name, pretrained)
        return model.eval()
    except UnsupportedModelError:
        raise
    except Exception as error:  # no network, no such repository, no weights, a damaged file: each has its own error
        what = "the weights of " * pretrained
        raise UnsupportedModelError(f"{what}{source} could not be had: {_told(error)}; {OFFLINE}") from error


def _imported(package: str, source: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        raise UnsupportedModelError(f"{source} needs {missing}: pip install {missing}") from error
    except Exception as error:  # such as operators of a torchvision that was built for another torch
        raise UnsupportedModelError(
            f"{source} needs {package}, which is installed but cannot be imported: {_told(error)}. It, or what it "
            "imports, was built for other versions of what is here: install versions that belong together"
        ) from error


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _timm(timm: Any, name: str, pretrained: bool) -> Any:
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise UnsupportedModelError(f"timm has no model {name!r}: {hint}")
    return timm.create_model(name, pretrained=pretrained)


def _hugging_face(transformers: Any, name: str, pretrained: bool) -> Any:
    if name.startswith((".", "/", "~")):
        name = str(Path(name).expanduser())
        if not (Path(name) / "config.json").is_file():
            raise UnsupportedModelError(f"{name} is no folder of a model: it holds no config.json")
    config = transformers.AutoConfig.from_pretrained(name)
    names = config.architectures or []
    kind = getattr(transformers, names[0], None) if names else transformers.AutoModel
    if kind is None:
        raise UnsupportedModelError(
            f"{name} is a {names[0]}, which is not part of transformers: write a function that returns the model, and "
            "name it package.module:function"
        )
    if pretrained:
        return kind.from_pretrained(name)
    return kind(config) if names else kind.from_config(config)


_HUBS: dict[str, tuple[str, Callable[[Any, str, bool], Any]]] = {
    "timm": ("timm", _timm),
    "hf": ("transformers", _hugging_face),
}
"""Prefix -> the package, and what loads a model of a name from it."""
