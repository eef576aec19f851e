"""A pruned ONNX model whose weights make up for what is gone, without training."""

from typing import Any

import numpy as np
import onnx_ir as ir

from ...analysis import Analysis
from ...effort import samples_at_once
from ...errors import DataError, OptionError
from ...plan import Plan
from ...progress import Progress
from ...reconstruction import METHODS, Recovery
from .batches import Batch, batches_of, fixed_size, some_of
from .norm_statistics import reestimate
from .recovering import refit
from .trial import apart, outputs_of


def recovered(
    original: ir.Model,
    slim: ir.Model,
    plan: Plan,
    analysis: Analysis,
    data: Any,
    method: str,
    progress: Progress | None = None,
) -> tuple[bool, Recovery]:
    """Give `slim` other weights, in place; False where that made its outputs no better on the data.

    `analysis` and `plan` are those of `original`. Raises `DataError` for missing or unfit data, `OptionError` for
    unknown methods.
    """
    if method not in METHODS:
        raise OptionError(f"recover={method!r}: choose one of {', '.join(METHODS)}")
    if data is None:
        raise DataError("recover= of an ONNX model looks at data: pass data=, an iterable of a few batches of inputs")
    batches = _within_memory(original, data, analysis)
    expected = outputs_of(original, batches)
    before = apart(expected, outputs_of(slim, batches))
    if not np.isfinite(before):
        raise DataError("recover=: the outputs of the model, or of the pruned one, are not finite on data=")
    layers = []
    if method == "batch_norm":
        reestimate(slim, batches)
    else:
        layers = refit(original, slim, plan, analysis, batches, method == "least_squares", progress)
    after = apart(expected, outputs_of(slim, batches))
    return after < before, Recovery(method, sum(batch.samples for batch in batches), before, after, layers)


def _within_memory(model: ir.Model, data: Any, analysis: Analysis) -> list[Batch]:
    """As many of the batches as fit. All of them stand in memory at the same time."""
    shape = analysis.graph.inputs[0].shape if analysis.graph.inputs else ()
    most = samples_at_once(analysis, shape[0] if shape else 1)
    return some_of(batches_of(model, data), most, fixed_size(model) is not None)
