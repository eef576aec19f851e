"""Helpers for tests: `from helpers import import_torchvision, randomise`."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

# torchvision defines these in its compiled part, which does not load beside a torch of another build.
# Its models need only the names.
_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_keep_alive: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision (all its models are pure Python), or skip the test where it is not installed.

    A torchvision wheel that was built for CUDA cannot load its operators beside a CPU-only torch, and then the
    import fails on their names: define the missing names first.
    """
    try:
        return _import()
    except ImportError:
        pytest.skip("torchvision is not installed")


def _import() -> ModuleType:
    define_missing_operators()
    import torchvision
    import torchvision.models

    return torchvision


def define_missing_operators() -> None:
    """Define the operator names that importing torchvision looks up, unless its compiled part loads and does it."""
    if _keep_alive or _compiled_part_loads():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)
    _keep_alive.append(library)


def _compiled_part_loads() -> bool:
    """Whether torchvision's own operators fit this build of torch; defining them twice would abort the process."""
    found = importlib.util.find_spec("torchvision")
    folders = (found.submodule_search_locations or []) if found else []
    for path in (path for folder in folders for path in Path(folder).glob("_C*.so")):
        try:
            torch.ops.load_library(str(path))
        except (ImportError, OSError):
            return False
        return True
    return False


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a telling value, in place, and return the model.

    A freshly built network often hides mistakes: heads are zero, layer scales are 1e-6, batch-norm statistics are
    (0, 1) and affine parameters (1, 0), so that pruning the wrong channel changes nothing. Weights that are already
    random are left alone.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator).mul_(high - low).add_(low).to(like)

    def normal(like: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator).mul_(scale).to(like)

    for parameter in model.parameters():
        if parameter.numel() == 0 or bool((parameter != parameter.flatten()[0]).any()):
            continue  # already random
        was_zero = bool(parameter.flatten()[0] == 0)
        is_vector = parameter.numel() == max(parameter.shape, default=1)  # a bias, an affine scale, a layer scale
        if is_vector:
            parameter.copy_(normal(parameter, 0.1) if was_zero else uniform(parameter, 0.5, 1.5))
        else:
            parameter.copy_(normal(parameter, (parameter.shape[0] / parameter.numel()) ** 0.5))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(normal(buffer, 0.1))
        elif name.endswith("running_var"):
            buffer.copy_(uniform(buffer, 0.5, 2.0))
    return model
