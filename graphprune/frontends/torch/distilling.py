"""Knowledge distillation: a pruned model learns from what the dense one says."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ...errors import OptionError, TrainingError
from .copying import copy_with


class Teacher(torch.nn.Module):
    """A frozen copy of a model: always in evaluation mode, without gradients. Made by `graphprune.teacher`."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = copy_with(model, {}).requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, also where the teacher is part of a model that is trained."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives."""
        return self.model(*args, **kwargs)


def teacher(model: torch.nn.Module) -> Teacher:
    """A frozen copy of a module, to be asked while the module itself is pruned and trained.

    **Returns:** a module that takes and gives what `model` does, in evaluation mode and without gradients.

    **Raises:** `TraceError` where the module cannot be copied.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    teacher = graphprune.teacher(net)
    x, labels = torch.randn(8, 4), torch.randint(2, (8,))
    loss = graphprune.distillation(net(x), teacher(x), labels)
    ```
    """
    return Teacher(model)


def distillation(
    student: Any, teacher: Any, labels: torch.Tensor | None = None, temperature: float = 4.0, alpha: float = 0.9
) -> torch.Tensor:
    """The loss of a student that learns from the outputs of a teacher, and from labels where they are given.

    `alpha * T**2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * cross_entropy(student, labels)`,
    each the mean over samples (and positions): Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
    Without labels it is the first term alone, whole. Computed in float32 at least.

    **Arguments:**

    - `student`, `teacher`: logits of shape (..., classes), float; or what holds them: an output of transformers or a
      dict with `logits`, or a tuple or list with logits first. The teacher gets no gradient.
    - `labels`: the classes, whole numbers of the shape of the logits without the last axis. Positions with label -100
      count in neither term.
    - `temperature`: larger ones show more of what the teacher thinks of other classes.
    - `alpha`: the share of the teacher, between 0 and 1.

    **Returns:** a tensor of no axes, to call `backward()` on.

    **Raises:** `TrainingError` for outputs without logits, or shapes that do not belong together; `OptionError`.

    ```python
    import torch, graphprune

    student, teacher, labels = torch.randn(8, 10, requires_grad=True), torch.randn(8, 10), torch.randint(10, (8,))
    graphprune.distillation(student, teacher, labels).backward()
    ```
    """
    if not temperature > 0 or not 0 <= alpha <= 1:
        raise OptionError(f"temperature={temperature!r} must be above 0, alpha={alpha!r} between 0 and 1")
    own, others = _logits(student, "student"), _logits(teacher, "teacher").detach()
    if own.shape != others.shape:
        raise TrainingError(f"the student gives logits of shape {tuple(own.shape)}, the teacher {tuple(others.shape)}")
    if labels is not None and labels.shape != own.shape[:-1]:
        raise TrainingError(
            f"labels have shape {tuple(labels.shape)}; logits of shape {tuple(own.shape)} need {tuple(own.shape[:-1])}"
        )
    own, others = own.flatten(0, -2), others.flatten(0, -2)
    counted = None if labels is None else labels.flatten() != _IGNORED
    if counted is not None and not bool(counted.all()):
        own, others = own[counted], others[counted]
    soft = F.kl_div(
        (own / temperature).log_softmax(-1),
        (others / temperature).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    if labels is None or counted is None:
        return soft * temperature**2
    hard = F.cross_entropy(own, labels.flatten()[counted])
    return alpha * temperature**2 * soft + (1 - alpha) * hard


_IGNORED = -100
"""The label of positions that do not count: torch's `cross_entropy` and transformers have the same."""


def _logits(output: Any, whose: str) -> torch.Tensor:
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif not isinstance(output, torch.Tensor):
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, (tuple, list)) and output:
            found = output[0]
    if not isinstance(found, torch.Tensor) or not found.is_floating_point() or found.dim() < 2:
        raise TrainingError(
            f"the output of the {whose}, a {type(output).__name__}, holds no logits of shape (..., classes): pass them"
        )
    return found.to(torch.promote_types(found.dtype, torch.float32))
