"""GraphPrune: smaller and faster networks, verified.

The public verbs are imported on first use, so that ``import graphprune`` loads neither torch nor tvm.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from .analysis import Analysis as Analysis
    from .api import analyze as analyze
    from .api import compile as compile
    from .api import finalize as finalize
    from .api import hold_masks as hold_masks
    from .api import masks_of as masks_of
    from .api import optimize as optimize
    from .api import plan_of as plan_of
    from .api import to_semi_structured as to_semi_structured
    from .api import verify as verify
    from .backends.artifact import load as load
    from .errors import GraphPruneError as GraphPruneError
    from .frontends.onnx.onnx_pass import OnnxPass as OnnxPass
    from .frontends.relax.relax_pass import RelaxPass as RelaxPass
    from .frontends.torch.distilling import distillation as distillation
    from .frontends.torch.distilling import teacher as teacher
    from .frontends.torch.fx_pass import FxPass as FxPass
    from .frontends.torch.regularizers import regularizer as regularizer
    from .masks import Masks as Masks
    from .ops import register_op as register_op
    from .page.writing import write_report as write_report
    from .plan import Plan as Plan
    from .saving import from_pretrained as from_pretrained
    from .saving import load_weights as load_weights
    from .saving import save as save
    from .saving import save_pretrained as save_pretrained
    from .schedule import Schedule as Schedule
    from .sweep_results import Sweep as Sweep
    from .sweeping import sweep as sweep

__version__ = "0.1.0"

_HOME = {
    "optimize": "api",
    "analyze": "api",
    "verify": "api",
    "compile": "api",
    "load": "backends.artifact",
    "save": "saving",
    "plan_of": "api",
    "load_weights": "saving",
    "save_pretrained": "saving",
    "from_pretrained": "saving",
    "masks_of": "api",
    "hold_masks": "api",
    "finalize": "api",
    "to_semi_structured": "api",
    "Analysis": "analysis",
    "Plan": "plan",
    "Masks": "masks",
    "register_op": "ops",
    "Schedule": "schedule",
    "OnnxPass": "frontends.onnx.onnx_pass",
    "RelaxPass": "frontends.relax.relax_pass",
    "sweep": "sweeping",
    "Sweep": "sweep_results",
    "regularizer": "frontends.torch.regularizers",
    "distillation": "frontends.torch.distilling",
    "teacher": "frontends.torch.distilling",
    "FxPass": "frontends.torch.fx_pass",
    "write_report": "page.writing",
    "GraphPruneError": "errors",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'graphprune' has no attribute {name!r}")
    from .importing import part

    value = getattr(part(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
