"""Helpers for tests: `from helpers import import_torchvision, randomise`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

# torchvision defines these in its compiled part, which does not load beside a torch of another build.
_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
}
_keep_alive: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision (all its models are pure Python), or skip the test where it is not installed.

    A torchvision wheel that was built for CUDA cannot load its operators beside a CPU-only torch, and then the
    import fails on their names: define the missing names first, and let plain torch do their work.
    """
    try:
        define_missing_operators()
        import torchvision
        import torchvision.models
    except ImportError:
        pytest.skip("torchvision is not installed")
    if _keep_alive and not torchvision.extension._has_ops():
        plain = sys.modules["torchvision.ops.roi_align"]
        _keep_alive[0].impl("nms", nms, "CPU")
        _keep_alive[0].impl("roi_align", plain._roi_align, "CPU")
        for module in (torchvision.extension, plain):
            module._has_ops = lambda: True
    return torchvision


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """The boxes that overlap no better one by more than the threshold, best first."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for place in range(len(boxes)):
        if alive[place]:
            low = torch.maximum(boxes[place, :2], boxes[place + 1 :, :2])
            high = torch.minimum(boxes[place, 2:], boxes[place + 1 :, 2:])
            both = (high - low).clamp(min=0).prod(1)
            alive[place + 1 :] &= both <= iou_threshold * (area[place] + area[place + 1 :] - both)
    return order[alive]


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


def script_of(name: str) -> ModuleType:
    """A script of benchmarks/ as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
