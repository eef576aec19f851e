"""Every error that GraphPrune raises on purpose. Each says what is wrong, where, and how to go on."""

import numpy as np
from numpy.typing import NDArray


class GraphPruneError(Exception):
    """Base class: catch this to catch everything that GraphPrune raises on purpose."""


class UnsupportedModelError(GraphPruneError, TypeError):
    """The object given as a model is of a kind that no frontend reads."""


class TraceError(GraphPruneError, RuntimeError):
    """The model could not be run or traced with the example inputs."""


class ExampleInputsError(GraphPruneError, ValueError):
    """Example inputs are missing, could not be inferred, or do not fit the model."""


class BudgetError(GraphPruneError, ValueError):
    """The budget is not a valid number or cannot be reached; `reachable` is the most sparsity that can, where known."""

    def __init__(self, message: str, reachable: float | None = None) -> None:
        super().__init__(message)
        self.reachable = reachable


class NothingToPruneError(BudgetError):
    """No group of the model may be dropped; the message lists the locks."""


class CriterionError(GraphPruneError, ValueError):
    """A criterion is unknown, lacks what it needs, or gave scores that are not finite."""


class DataError(GraphPruneError, ValueError):
    """Calibration data is missing, empty, of the wrong form, or does not fit the model."""


class WeightsError(GraphPruneError, ValueError):
    """Weights are NaN, infinite, or on the meta device where numbers are needed."""


class PlanError(GraphPruneError, ValueError):
    """A plan is damaged, inconsistent, or was made for another model."""


class ApplyError(GraphPruneError, RuntimeError):
    """A plan could not be written into the model without changing what the model computes.

    `blame` holds the classes (`analysis.solution.classes`) that were to shrink where it failed: a plan that keeps
    them gets past this place. Empty where the place is not known.
    """

    def __init__(self, message: str, blame: NDArray[np.int64] | None = None) -> None:
        super().__init__(message)
        self.blame: NDArray[np.int64] = np.zeros(0, dtype=np.int64) if blame is None else blame


class VerifyError(GraphPruneError, AssertionError):
    """The pruned program does not equal the masked original; names the first node that differs."""


class TargetError(GraphPruneError, ValueError):
    """The compile target is unknown, or this machine cannot build for it or run it."""


class CompileError(GraphPruneError, RuntimeError):
    """The model could not be lowered to the target."""


class FileFormatError(GraphPruneError, ValueError):
    """A file (artifact, weights, plan) is damaged, incomplete, or of another format."""


class InputError(GraphPruneError, ValueError):
    """An artifact was called with inputs of the wrong number, shape or dtype."""


class OptionError(GraphPruneError, ValueError):
    """An option has a value that is not among those it can take."""


class TrainingError(GraphPruneError, RuntimeError):
    """The model, its optimizer or what belongs to them cannot be pruned between two steps of a training."""


class SweepError(GraphPruneError, RuntimeError):
    """A sweep cannot begin or go on: its score fails on the original model, or its file belongs to another sweep."""


class LatencyWarning(UserWarning):
    """A pruned model does not take the time that was asked for, or is not faster than the one before."""


class SlowKernelWarning(UserWarning):
    """A compiled model will spend a notable part of its time in kernels that no schedule was written for."""


class FallbackWarning(UserWarning):
    """A graph that `torch.compile` captured is not pruned, or not compiled, as was asked for."""
