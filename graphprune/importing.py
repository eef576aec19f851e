"""Parts of the package that are there only where all of it is installed."""

from importlib import import_module
from types import ModuleType

from .errors import GraphPruneError


def part(name: str) -> ModuleType:
    """The module `graphprune.NAME`.

    ```python
    part("backends.profile").measure
    ```

    Raises `GraphPruneError` where it does not belong to this installation: a folder that `graphprune runtime` made
    only loads and runs artifacts.
    """
    package = __package__
    try:
        return import_module(f".{name}", package)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(f"{package}."):
            raise
        raise GraphPruneError(f"graphprune.{name} is not in this runtime folder: install graphprune") from error
