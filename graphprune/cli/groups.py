"""Options that several commands share are declared once, as the fields of a dataclass."""

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_type_hints


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """The same command with one option for each field of every parameter that is a dataclass.

    In help they stand together, under the dataclass's `PANEL` if it has one.

    ```python
    from dataclasses import dataclass
    from graphprune.cli.groups import spread

    @dataclass
    class Place:
        folder: str
        name: str = "model"

    def write(place: Place, loud: bool = False) -> None:
        print(place)

    spread(write)(folder="here", name="net")  # Place(folder='here', name='net')
    ```
    """
    own = inspect.signature(function, eval_str=True).parameters.values()
    groups: dict[str, Any] = {option.name: option.annotation for option in own if is_dataclass(option.annotation)}
    parameters = [option for parameter in own for option in _options(parameter)]

    def command(**given: Any) -> None:
        for name, kind in groups.items():
            chosen = {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}
            given[name] = kind(**chosen)
        function(**given)

    command.__doc__, command.__name__ = function.__doc__, function.__name__
    command.__annotations__ = {option.name: option.annotation for option in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The parameter itself, or one for each field where it is a group; by keyword, so that any may lack a default."""
    kind = parameter.annotation
    if not is_dataclass(kind):
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_told(kind, None))]
    types = get_type_hints(kind, include_extras=True)
    panel = getattr(kind, "PANEL", None)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=_told(types[field.name], panel),
        )
        for field in fields(kind)
    ]


def _told(annotation: Any, panel: str | None) -> Any:
    """The same option in a panel of the help; flags without a name for the value that they do not take."""
    if not hasattr(annotation, "__metadata__"):
        return annotation
    (told,) = map(copy, annotation.__metadata__)
    told.rich_help_panel = panel
    if annotation.__origin__ is bool:
        told.metavar = ""
    return Annotated[annotation.__origin__, told]
