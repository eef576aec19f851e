"""`graphprune.write_report`: one self-contained HTML page that says what pruning did to a model, or could do."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, api
from ..errors import FileFormatError, OptionError, PlanError
from ..files import atomic_path
from ..policy import DEFAULT
from .contents import Contents, contents_of
from .layers import Pair
from .measured import check_same, times_of
from .status import ANALYSED, UNCHECKED, checked
from .view import shown

if TYPE_CHECKING:
    from ..analysis import Analysis
    from ..bench import Bench
    from ..plan import Plan
    from ..sweep_results import Sweep

HERE = Path(__file__).parent


def write_report(
    model: Any,
    path: "str | os.PathLike[str]",
    *,
    slim: Any = None,
    plan: "Plan | None" = None,
    example_inputs: Any = None,
    verify: bool = True,
    bench: "Bench | dict[str, Any] | str | os.PathLike[str] | None" = None,
    sweep: "Sweep | str | os.PathLike[str] | None" = None,
    title: str | None = None,
    plots: "str | os.PathLike[str] | None" = None,
) -> Path:
    """Write what there is to know of a model, and of what pruning leaves of it, as one HTML page.

    The page holds all that it needs: it loads nothing from elsewhere, and no name in a model can make it run anything.

    **Arguments:**

    - `model`, `example_inputs`: the model before pruning, as in `graphprune.optimize`. It is not modified.
    - `path`: the page, an .html file; it appears whole or not at all.
    - `slim`: what `optimize` made of the model, or `plan`: what is to be made of it. Without either the page shows what
      hangs together and what could go.
    - `verify`: prove that the pruned model equals the masked original; the page says what was seen, also where they
      differ.
    - `bench`: latencies, of `graphprune.bench.bench` or the file that `graphprune bench --json` printed.
    - `sweep`: accuracy and cost of many pruned models, of `graphprune.sweep` or its file.
    - `title`: the head line; the class of the model or the name of its file where it is left out.
    - `plots`: a folder for the same drawings as .png and .svg files.

    **Returns:** the path of the page.

    **Raises:** what `analyze` raises; `OptionError` for options that do not go together and for times or sweeps of
    another model, `PlanError` for a plan of another model or a model that was not made by graphprune, `FileFormatError`
    for damaged files.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    slim = graphprune.optimize(net, sparsity=0.5)
    graphprune.write_report(net, "report.html", slim=slim)
    ```
    """
    check_ending(path)
    return write(gather(model, slim, plan, example_inputs, verify, bench, sweep, title), path, plots)


def check_ending(path: "str | os.PathLike[str]") -> None:
    """Raise `OptionError` for a path that is not one of a page: before the work, not after it."""
    if Path(path).suffix not in (".html", ".htm"):
        raise OptionError(f"{os.fspath(path)} must end in .html: a report is a page for a browser")


def write(contents: Contents, path: "str | os.PathLike[str]", plots: "str | os.PathLike[str] | None" = None) -> Path:
    """Write the page, and the drawings before it."""
    final, text = Path(path), render(contents)
    if plots is not None:
        from .plots import draw_all

        draw_all(contents, Path(plots))
    with atomic_path(final) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return final


def gather(
    model: Any,
    slim: Any = None,
    plan: "Plan | None" = None,
    example_inputs: Any = None,
    verify: bool = True,
    bench: Any = None,
    sweep: Any = None,
    title: str | None = None,
) -> Contents:
    """The contents of a report; arguments and errors are those of `write_report`."""
    if slim is not None and plan is not None:
        raise OptionError("slim= remembers its plan: give slim= or plan=, not both")
    if plan is not None:
        slim = plan.apply(model, example_inputs)
    masks, plan = (None, None) if slim is None else (api.masks_of(slim), api.plan_of(slim))
    if slim is not None and masks is None and plan is None:
        raise PlanError("slim was not made by graphprune, so what was pruned is not known: give plan=")
    analysis = api.analyze(model, example_inputs, DEFAULT if plan is None else plan.policy)
    contents = contents_of(analysis, plan, masks, title or _title(model), ANALYSED)
    times = None if bench is None else times_of(bench)
    if times is not None:
        found = {"params": times.params, "macs": times.macs}
        check_same("bench=", found, contents.costs, slim=contents.pruned and masks is None)
    results = _sweep_of(sweep, contents.costs)
    if slim is not None:  # last, for it takes the longest
        contents = replace(contents, status=checked(model, slim, plan, masks, example_inputs) if verify else UNCHECKED)
    return replace(contents, times=times, sweep=results, details=_circumstances(analysis) | dict(contents.details))


def render(contents: Contents) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(HERE)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    style, script = (Markup((HERE / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js"))
    # A browser runs the script with this hash and no other, whatever gets into the page.
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    given = {
        "it": contents,
        "style": style,
        "script": script,
        "script_hash": f"sha256-{digest}",
        "version": __version__,
    }
    return environment.get_template("template.html").render(given | shown(contents))


def _sweep_of(sweep: Any, costs: Mapping[str, Pair]) -> "Sweep | None":
    if sweep is None:
        return None
    from ..sweep_results import Sweep

    results = sweep if isinstance(sweep, Sweep) else Sweep.load(sweep)
    if not all(isfinite(score) for score in (results.dense, *(point.score or 0.0 for point in results.finished))):
        raise FileFormatError("sweep= holds scores that are no finite numbers: sweep again")
    for point in results.finished:
        known = {name: Pair(*point.costs[name]) for name in ("params", "macs") if name in point.costs}
        check_same("sweep=", known, costs, slim=False)
    return results


def _title(model: Any) -> str:
    return Path(model).name if isinstance(model, (str, os.PathLike)) else type(model).__name__


def _circumstances(analysis: "Analysis") -> dict[str, str]:
    inputs = ", ".join(f"{value.dtype} {list(value.shape)}" for value in analysis.graph.inputs)
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return {"written": made, "inputs": inputs, "operations": f"{len(analysis.graph.nodes):,}"}
