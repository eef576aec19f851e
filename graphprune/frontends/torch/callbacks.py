"""Hooks for trainers of others: they count the steps of the optimizer and let a pruner do the rest."""

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

import torch

from ...errors import TrainingError, UnsupportedModelError
from .training import Pruner, attach, prepare, rehearse

if TYPE_CHECKING:
    from ...schedule import Schedule


def lightning_callback(schedule: "Schedule", module: str, example_inputs: Any, ema: "str | None") -> Any:
    """See `Schedule.lightning`."""
    callback = _lightning_class()()
    callback.schedule, callback.module, callback.inputs, callback.ema = schedule, module, example_inputs, ema
    return callback


def transformers_callback(schedule: "Schedule", example_inputs: Any) -> Any:
    """See `Schedule.transformers`."""
    callback = _transformers_class()()
    callback.schedule, callback.inputs = schedule, example_inputs
    return callback


def _base(package: str, path: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(path), name)
    except ImportError as error:
        raise UnsupportedModelError(f"{package} is not installed here, or does not load: {error}") from error


def _part(owner: torch.nn.Module, name: str) -> torch.nn.Module:
    found = getattr(owner, name, None)
    if not isinstance(found, torch.nn.Module):
        parts = ", ".join(part for part, _ in owner.named_children())
        raise TrainingError(f"{type(owner).__name__} has no module {name!r} to prune; it has {parts}")
    return found


@functools.cache
def _lightning_class() -> Any:
    """The class of the callback; of the package that is used, `lightning` or `pytorch_lightning`."""
    package = "lightning.pytorch" if "lightning.pytorch" in sys.modules else "pytorch_lightning"
    base = _base("Lightning", f"{package}.callbacks", "Callback")

    class LightningPruning(base):  # type: ignore[misc, valid-type]
        """Prunes a part of a LightningModule as a schedule says; `pruner` is there once the training has begun."""

        schedule: "Schedule"
        module: str
        inputs: Any
        ema: "str | None"
        pruner: Pruner | None = None

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            """Get ready; the sizes of a checkpoint are taken before its weights are loaded."""
            if stage != "fit":
                return
            if trainer.world_size > 1 and not hasattr(trainer.strategy, "configure_ddp"):
                kind = type(trainer.strategy).__name__
                raise TrainingError(f"the callback for Lightning does not know {kind}: use DDPStrategy, or one process")
            module = _part(pl_module, self.module)
            if self.pruner is None or self.pruner.module is not module:
                average = None if self.ema is None else _part(pl_module, self.ema)
                self.pruner = prepare(self.schedule, module, self.inputs, average)
                rehearse(self.pruner)
            load = pl_module.on_load_checkpoint

            def take_sizes(checkpoint: dict[str, Any]) -> None:
                saved = checkpoint.get("callbacks", {}).get(self.state_key)
                if saved is not None and self.pruner is not None and saved["count"] != self.pruner.count:
                    self.pruner.load_state_dict(saved)
                load(checkpoint)

            pl_module.on_load_checkpoint = take_sizes  # the hook of callbacks comes when the weights are loaded already

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """The optimizers are there by now."""
            assert self.pruner is not None
            vars(pl_module).pop("on_load_checkpoint", None)
            self.pruner.hold(trainer.optimizers, getattr(trainer.precision_plugin, "scaler", None))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Count the steps that the optimizers have done."""
            changed = False
            while self.pruner is not None and self.pruner.count < trainer.global_step:
                changed |= self.pruner.step()
            if changed and trainer.world_size > 1:
                trainer.strategy.model = pl_module
                trainer.strategy.configure_ddp()  # its buckets have the sizes of before

        def state_dict(self) -> dict[str, Any]:
            """For the checkpoints of the trainer."""
            return {} if self.pruner is None else self.pruner.state_dict()

    return LightningPruning


@functools.cache
def _transformers_class() -> Any:
    base = _base("transformers", "transformers", "TrainerCallback")

    class TransformersPruning(base):  # type: ignore[misc, valid-type]
        """Prunes the model of a `Trainer` as a schedule says; `pruner` is there once the training has begun."""

        schedule: "Schedule"
        inputs: Any
        pruner: Pruner | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Attach the schedule."""
            if args.world_size > 1:
                raise TrainingError(
                    "the callback for transformers works in one process only: with several, use a plain loop that "
                    "wraps the model again where step() returns True"
                )
            if state.global_step:
                raise TrainingError(
                    "the callback for transformers cannot go on from a checkpoint: use a plain loop with "
                    "Pruner.state_dict()"
                )
            self.pruner = attach(self.schedule, given["model"], given["optimizer"], self.inputs, None, None)

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Count the steps that the optimizer has done."""
            while self.pruner is not None and self.pruner.count < state.global_step:
                self.pruner.step()

    return TransformersPruning
