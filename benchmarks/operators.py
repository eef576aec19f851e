"""torchvision's compiled operators in plain torch, for builds of torch beside which its compiled part does not load.

Detection models call `nms` and `roi_align` by these names; `import_torchvision()` gives the package with both.
"""

import sys
from types import ModuleType

import torch

from common import ROOT

sys.path.insert(0, str(ROOT / "tests"))
_keep_alive: list[torch.library.Library] = []
_ROI_ALIGN = (
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor"
)


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


def import_torchvision() -> ModuleType:
    """torchvision and its models, with working operators."""
    from helpers import define_missing_operators

    define_missing_operators()
    import torchvision
    import torchvision.models

    if not torchvision.extension._has_ops() and not _keep_alive:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define(_ROI_ALIGN)
        plain = sys.modules["torchvision.ops.roi_align"]
        library.impl("nms", nms, "CPU")
        library.impl("roi_align", plain._roi_align, "CPU")
        for module in (torchvision.extension, plain):
            module._has_ops = lambda: True
        _keep_alive.append(library)
    return torchvision
