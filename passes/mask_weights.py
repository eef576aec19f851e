"""Set single weights to zero until a budget is met."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..analysis import Analysis
from ..errors import CriterionError, UnsupportedModelError
from ..frontends import frontend_of
from ..masking import DATA_CRITERIA, MaskOptions, Task, make_masks, record
from ..masks import Masks
from ..matrices import by_source
from ..progress import Progress
from ..sparsegpt import prune
from .pipeline import Program


@dataclass(frozen=True)
class MaskWeights:
    """Analyse, choose, write zeros; SparseGPT also changes the weights that stay.

    Options are those of `graphprune.optimize`; `data` is an iterable of calibration batches, `progress` is told how far
    work on them has come.

    ```python
    from graphprune.masking import MaskOptions
    from graphprune.passes.mask_weights import MaskWeights
    from graphprune.passes.pipeline import Program, run_passes

    program = run_passes(Program(model), [MaskWeights(MaskOptions(sparsity=0.5))])
    ```
    """

    options: MaskOptions = field(default_factory=MaskOptions)
    data: Iterable[Any] | None = None
    progress: Progress | None = None
    name: ClassVar[str] = "mask weights"

    def apply(self, program: Program) -> Program:
        """A program whose model has zeros and remembers its masks."""
        self.options.check()
        program = program.analysed()
        frontend, analysis = frontend_of(program.model), program.analysis
        assert analysis is not None
        task = Task.of(analysis, self.options)
        weights: dict[str, NDArray[Any]] = {}
        if self.options.criterion not in DATA_CRITERIA:
            masks = make_masks(analysis, self.options, task)
        else:
            if not hasattr(frontend, "calibration"):
                raise UnsupportedModelError(
                    f"criterion={self.options.criterion!r} needs the inputs of every layer, which are collected from "
                    "torch modules only: prune the module and export it, or take criterion='magnitude'"
                )
            calibration = frontend.calibration(program.model, program.example_inputs, self.data, self.options.criterion)
            decide = _wanda if self.options.criterion == "wanda" else _sparsegpt
            masks, weights = decide(analysis, self.options, task, calibration, self.progress)
        sparse = frontend.with_masks(program.model, masks, weights)
        return replace(program, model=sparse, plan=None, masks=masks).with_report(**masks.report)


Decision = tuple[Masks, dict[str, NDArray[Any]]]


def _wanda(
    analysis: Analysis, options: MaskOptions, task: Task, calibration: Any, progress: Progress | None
) -> Decision:
    """Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023: weights times inputs."""
    norms = calibration.norms(list(task.weights.values()), progress)
    return make_masks(analysis, options, task, norms.__getitem__), {}


def _sparsegpt(
    analysis: Analysis, options: MaskOptions, task: Task, calibration: Any, progress: Progress | None
) -> Decision:
    """Layer after layer, each with the inputs that it gets once those before it are pruned."""
    weights: dict[str, NDArray[Any]] = {}
    chosen: dict[str, NDArray[np.bool_]] = {}
    ends = dict(zip(task.weights, np.cumsum(task.limits()), strict=True))
    left = 0
    for stage in by_source(task.weights):
        grams = calibration.grams(stage)
        for weight in stage:
            if progress is not None:
                progress("prune weights", len(chosen), len(task.weights))
            matrix, gram = weight.matrix(analysis.weights(weight.name)), grams.pop(weight.name)
            kept = np.zeros(matrix.shape, dtype=bool)
            new = np.zeros(matrix.shape)
            shares = np.diff(np.linspace(0, int(ends[weight.name]) - left, len(matrix) + 1).astype(np.int64))
            for group, own in enumerate(matrix):
                try:
                    new[group], kept[group] = prune(own, gram[group], options.structure, int(shares[group]))
                except CriterionError as error:
                    raise CriterionError(f"{weight.name}: {error}") from error
            left += int(kept.sum())
            chosen[weight.name], weights[weight.name] = kept, weight.stored(new)
            calibration.set(weight.name, weights[weight.name])
    return record(analysis, options, task, chosen, weights.__getitem__), weights
