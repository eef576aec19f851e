"""The links of a chain the other way round: what must go into a call so that a target comes out."""

from collections.abc import Callable

import torch

from ...chains import MOVING
from ...graph import Node

Call = Callable[[torch.Tensor], torch.Tensor]


def inverse(node: Node, call: Call, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """What must go into a link so that `target` comes out; `given` is what goes in now.

    How the operation computes is asked of it: an affine one by what it makes of zeros and ones, a moving one by where
    it takes numbered places. Where an affine one multiplies by nothing, its input stays as it is.
    """
    if node.op in MOVING:
        places = torch.arange(given.numel(), device=given.device).reshape(given.shape)
        order = call(places).reshape(-1)
        back = torch.empty_like(given).reshape(-1)
        back[order] = target.reshape(-1).to(given.dtype)
        return back.reshape(given.shape)
    offset = call(torch.zeros_like(given))
    gain = call(torch.ones_like(given)) - offset
    usable = gain.abs() > 1e-3 * gain.abs().mean()
    return torch.where(usable, (target - offset) / torch.where(usable, gain, 1.0), given)
