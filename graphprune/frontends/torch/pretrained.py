"""Folders of Hugging Face transformers: ordinary ones where the config can say the sizes, else with the plan inside."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.utils._pytree import tree_leaves

from ...errors import ExampleInputsError, FileFormatError, UnsupportedModelError, VerifyError
from ...files import atomic_files
from ...masks import Masks, masked_names
from ...plan import Plan
from . import modules
from .configs import says_sizes, skeleton
from .inputs import Inputs, own_form, rebuild
from .masked import check_free, remember
from .twins import stored_tensors
from .weights import KEY, load_weights, save_weights

CONFIG, WEIGHTS, PLAN, MASKS = "config.json", "model.safetensors", "graphprune-plan.json", "graphprune-masks.json"

MARK = "graphprune"
"""Under which name a config that says the old sizes says so."""

_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Files that hold weights: those of another model must not be left beside new ones."""


def save(slim: Any, folder: "str | os.PathLike[str]", verify: bool) -> bool:
    """See `graphprune.save_pretrained`."""
    if not callable(getattr(slim, "save_pretrained", None)) or not hasattr(slim, "config"):
        note = modules.note_of(slim)
        raise UnsupportedModelError(
            f"a {type(slim).__name__} is no model of transformers: use graphprune.save" + (f" ({note})" if note else "")
        )
    check_free(slim)
    plan, masks, plain = modules.plan_of(slim), modules.masks_of(slim), says_sizes(slim)
    with atomic_files(folder, *_WEIGHTS, "generation_config.json", PLAN, MASKS, last=CONFIG) as place:
        slim.save_pretrained(place)
        if not plain:
            for path in (path for pattern in _WEIGHTS for path in place.glob(pattern)):
                path.unlink()
            save_weights(slim, place / WEIGHTS)
            _mark(place / CONFIG)
        elif plan is not None:
            plan.save(place / PLAN)
        if plain and masks is not None:
            (place / MASKS).write_text(masks.facts())
        if verify:
            _check(slim, place, plain)
    return plain


def _mark(path: Path) -> None:
    """Let a config that says the old sizes say how the model is read."""
    config = json.loads(path.read_text())
    config[MARK] = "the sizes here are those before pruning; read this folder with graphprune.from_pretrained"
    path.write_text(json.dumps(config, indent=2) + "\n")


def _check(slim: Any, folder: Path, plain: bool) -> None:
    """Read what was written, and compare: weights to the last bit, outputs within rounding. Raises `VerifyError`.

    Where weights lie in memory decides which kernels some processors take, so that outputs differ by their rounding.
    """
    options = {"attn_implementation": getattr(slim.config, "_attn_implementation", None)}
    kind = type(slim)
    read = [load(folder, kind, options)]
    if plain:
        read.append(kind.from_pretrained(folder, dtype="auto", **options))
    for model in read:
        own, other = _tensors(slim), _tensors(model)
        for name in own.keys() | other.keys():
            if name not in own or name not in other or not _same(own[name], other[name]):
                raise VerifyError(f"{name} is not what it was when the saved model is read: nothing was written")
        inputs = _inputs(slim)
        if inputs is not None and not all(map(_agree, _outputs(slim, inputs), _outputs(model, inputs))):
            raise VerifyError("the saved model computes something else when it is read: nothing was written")


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor, _ in stored_tensors(model)}


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and torch.equal(left.cpu(), right.cpu())


def _agree(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether outputs differ by no more than the rounding of their type, which grows over the layers of a model."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if not (left.is_floating_point() or left.is_complex()) or left.numel() == 0:
        return _same(left, right)
    exact = torch.promote_types(left.dtype, torch.float64)
    one, other = left.cpu().to(exact), right.cpu().to(exact)
    allowed = torch.finfo(left.dtype).eps ** 0.5 * one.abs().max().item()
    return torch.allclose(one, other, rtol=0.0, atol=allowed)


def _inputs(slim: torch.nn.Module) -> Inputs | None:
    """Random inputs of the form that the model was pruned with; None where they cannot be made."""
    plan = modules.plan_of(slim)
    try:
        return rebuild(own_form(plan.inputs, slim)) if plan is not None else None
    except ExampleInputsError:
        return None


def _outputs(model: torch.nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    modes = [(part, part.training) for part in model.modules()]
    device = next((tensor.device for _, tensor, _ in stored_tensors(model)), torch.device("cpu"))
    there = torch.utils._pytree.tree_map(
        lambda item: item.to(device) if isinstance(item, torch.Tensor) else item, inputs
    )
    try:
        with torch.no_grad():
            found = model.eval()(*there.args, **there.kwargs)
    finally:
        for part, mode in modes:
            part.training = mode
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]


def load(folder: "str | os.PathLike[str]", model_class: Any, options: dict[str, Any]) -> Any:
    """See `graphprune.from_pretrained`."""
    place = Path(folder)
    kind = model_class or _class_of(place)
    if not _holds_plan(place / WEIGHTS):
        return _remembering(kind.from_pretrained(place, **{"dtype": "auto", **options}), place)
    config = kind.config_class.from_pretrained(place, **options)
    vars(config).pop(MARK, None)
    wide = skeleton(kind, config)
    if wide is None:
        raise FileFormatError(f"{place / CONFIG} is not the config of a {kind.__name__}, or is damaged")
    slim = load_weights(wide, place / WEIGHTS)
    _take_types(slim, place / WEIGHTS)
    if (place / "generation_config.json").is_file() and hasattr(slim, "generation_config"):
        generation: Any = slim.generation_config
        slim.generation_config = type(generation).from_pretrained(place)
    return slim.eval()


def _remembering(model: torch.nn.Module, place: Path) -> torch.nn.Module:
    """The model of an ordinary folder, with the plan and the masks that made it."""
    if (place / PLAN).is_file():
        setattr(model, modules.PLAN, Plan.load(place / PLAN))
    if (place / MASKS).is_file():
        text, tensors = (place / MASKS).read_text(), _tensors(model)
        remember(model, Masks.of_facts(text, {name: (tensors[name] != 0).numpy() for name in masked_names(text)}))
    return model


def _class_of(folder: Path) -> Any:
    """The class that a config names."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        name = (config.get("architectures") or [""])[0]
    except (OSError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{folder} holds no config of transformers that can be read: {error}") from error
    try:
        found = getattr(importlib.import_module("transformers"), name, None)
    except ImportError as error:
        raise UnsupportedModelError(f"transformers is not installed here, or does not load: {error}") from error
    if found is None:
        raise UnsupportedModelError(f"transformers has no class {name!r}: pass model_class=, the class of the model")
    return found


def _holds_plan(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path} cannot be read, or is damaged: {error}. Save it again.") from error


def _take_types(slim: torch.nn.Module, path: Path) -> None:
    """Let tensors, which were built in the type that is the default here, have the types that they were saved in."""
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name, tensor, kind in list(stored_tensors(slim)):
            saved = file.get_tensor(name) if name in names else tensor
            if saved.dtype == tensor.dtype:
                continue
            if kind == "parameter":
                tensor.data = saved  # which may have several names
            else:
                prefix, _, leaf = name.rpartition(".")
                setattr(slim.get_submodule(prefix), leaf, saved)
