"""Batch norms whose statistics are those of the model as it is now."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...errors import DataError
from .batches import Batch
from .tracing import STANDARD
from .walk import Walk
from .writing import numbers_of, write


def reestimate(model: ir.Model, batches: Sequence[Batch]) -> None:
    """Replace the statistics of all batch norms by those of the batches, one norm after the other, in place.

    Raises `DataError` where there is none.
    """
    norms = [node for node in model.graph if node.op_type == "BatchNormalization" and node.domain in STANDARD]
    norms = [node for node in norms if all(numbers_of(node, place) is not None for place in (3, 4))]
    if not norms:
        raise DataError(
            "recover='batch_norm': this model has no batch norm; exporters fold it into the layer before: "
            "choose 'least_squares' or 'bias'"
        )
    walk = Walk(model, batches)
    for node in norms:
        data = node.inputs[0]
        name = "" if data is None else data.name or ""
        seen = [values[name] for values in walk.at([name])]
        rows = np.concatenate([np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]) for array in seen])
        write(model, node, 3, rows.mean(axis=0, dtype=np.float64))
        write(model, node, 4, rows.var(axis=0, dtype=np.float64))
