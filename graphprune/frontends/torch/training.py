"""Prune a module between the steps of its training, in place, with all that belongs to it."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...errors import PlanError, TrainingError, WeightsError
from ...plan import Plan, fingerprint
from ...schedule import Schedule, relative_goals
from .agreement import attempt, from_first, is_first, numbers_of_first, retire_wrappers, same, together, unwrapped
from .averages import Averages, average_changes, averages_of, check_average
from .copying import without_caches
from .inplace import Change, changes_of, commit, own_forwards, set_attribute
from .optimizers import Optimizers, check_held, check_state, optimizers_of, state_changes
from .read import refuse
from .slicing import canonical_names, shapes_of
from .twins import stored_tensors

_FORMAT = "graphprune-pruner-1"


class Pruner:
    """Prunes a module as a schedule says; made by `Schedule.attach`.

    `step()` goes after every step of the optimizer. `plan` is what was dropped so far, `count` the number of steps.
    `state_dict()` belongs into checkpoints, `load_state_dict()` before the state of the model and the optimizer.

    When a pruning fails or is interrupted, the module, the optimizer and all else are as they were before.
    """

    def __init__(self, schedule: Schedule, module: torch.nn.Module, inputs: Any) -> None:
        self.schedule, self.module, self.inputs = schedule, module, inputs
        self.optimizers: Optimizers = ()
        self.averages: Averages = ()
        self.scaler: Any = None
        self.count = 0
        self.since: Plan | None = None
        self.finished = False
        self.shapes = shapes_of(module)
        self.origin = fingerprint(self.shapes)

    @property
    def plan(self) -> Plan | None:
        """The plan from the model before its first pruning to now; None before that."""
        from .modules import plan_of

        return plan_of(self.module)

    def hold(self, optimizer: Any, scaler: Any = None) -> None:
        """Tell what trains the module. Raises `TrainingError` where it does not, or has state that cannot be sliced."""
        optimizers = optimizers_of(optimizer)
        check_held(self.module, optimizers)
        check_state(optimizers, canonical_names(self.module))
        self.optimizers, self.scaler = optimizers, scaler

    def step(self) -> bool:
        """Count one step of the optimizer, and prune where the schedule says so.

        **Returns:** True where the sizes of the model have changed. A `DistributedDataParallel` was built for the sizes
        before and has to be built again then; what `torch.compile` made compiles itself anew.

        **Raises:** `WeightsError` for weights, gradients or optimizer state that are not finite; `TrainingError` where
        the model or the optimizer were changed by others, or after `finish()`; what `optimize` raises. Nothing has
        changed then, and the next call tries again.
        """
        if self.finished:
            raise TrainingError("step() after finish(): this schedule is over. Attach another one to prune on.")
        count = self.count + 1
        if count == 1:
            check_state(self.optimizers, canonical_names(self.module))
        changed = self.schedule.is_due(count) and self._prune(count)
        self.count = count
        return changed

    def finish(self) -> Plan | None:
        """End the schedule: the plan of all that was dropped.

        **Raises:** `TrainingError` where the last pruning has not happened yet.
        """
        if self.count < self.schedule.end:
            raise TrainingError(
                f"finish() after {self.count} steps, but the schedule prunes until step {self.schedule.end}: train on, "
                "or attach a shorter schedule"
            )
        self.finished = True
        return self.plan

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, as plain data: how many steps were done, and what was dropped."""
        return {
            "format": _FORMAT,
            "count": self.count,
            "plan": None if self.since is None else self.since.to_json(),
            "origin": self.origin,
            "schedule": self.schedule.as_json(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: give the module, as it was when it was first attached, the sizes of that time.

        The state of the model and the optimizer are loaded after this.

        **Raises:** `TrainingError` for the state of another model or schedule; nothing has changed then.
        """
        if not isinstance(state, dict) or state.get("format") != _FORMAT or state.keys() != self.state_dict().keys():
            raise TrainingError("this is not what Pruner.state_dict() gave")
        if state["schedule"] != self.schedule.as_json():
            raise TrainingError(f"the checkpoint belongs to another schedule: {state['schedule']}")
        if state["origin"] != fingerprint(shapes_of(self.module)):
            raise TrainingError(
                "the checkpoint belongs to another model, or this one is pruned already: build the model as it was "
                "before the first pruning, attach the schedule, and load the state of the pruner first"
            )
        if state["plan"] is not None:
            plan = Plan.from_json(state["plan"])
            with own_forwards(self.module):
                self._adopt(self._changes(plan, self._applied(plan)(self.module)))
        self.count = state["count"]

    # ---- one pruning ----------------------------------------------------------------------------------------

    def _prune(self, count: int) -> bool:
        attempt(self._check)
        same(fingerprint(self.shapes), "the sizes of the model")
        goals = self.schedule.goals_at(count)
        goals = {name: goal for name, goal in goals.items() if goal > 0}
        if self.since is not None:
            goals = relative_goals(goals, self.since.report)
        if not goals:
            return False
        with own_forwards(self.module):
            slim, plan = self._decide(goals)
            self._adopt(attempt(lambda: self._changes(plan, slim)))
        return True

    def _decide(self, goals: dict[str, float]) -> tuple[torch.nn.Module, Plan]:
        """A slim copy and the plan that made it from the module as it is, the same in all processes."""
        if not together():
            return slim_of(self.schedule.options, self.module, self.inputs, goals)
        made = attempt(lambda: slim_of(self.schedule.options, self.module, self.inputs, goals) if is_first() else None)
        plan = Plan.from_json(from_first("" if made is None else made[1].to_json()))
        slim = attempt(lambda: self._applied(plan)(self.module) if made is None else made[0])
        same(fingerprint(shapes_of(slim)), "the pruned model")
        numbers_of_first(tensor for _, tensor, _ in stored_tensors(slim))
        return slim, plan

    def _applied(self, plan: Plan) -> Callable[[torch.nn.Module], torch.nn.Module]:
        from .modules import apply

        return lambda module: apply(module, plan, self.inputs)

    def _changes(self, plan: Plan, slim: torch.nn.Module) -> list[Change]:
        """What makes the module the same as the slim copy that a plan gave, and brings everything in line."""
        since = plan if self.since is None else self.since.then(plan)
        return [
            *state_changes(self.optimizers, canonical_names(self.module), plan),
            *average_changes(self.averages, self.module, plan, self._applied(plan)),
            *changes_of(self.module, slim, plan),
            set_attribute(self, "since", since),
            set_attribute(self, "shapes", shapes_of(slim)),
        ]

    def _adopt(self, changes: list[Change]) -> None:
        """Do all of it, or nothing."""
        commit(changes)
        without_caches(self.module)
        retire_wrappers(self.module)

    def _check(self) -> None:
        """Raise unless the module, the optimizers and the averages are in a state to be pruned."""
        if shapes_of(self.module) != self.shapes:
            odd = dict(set(shapes_of(self.module).items()) ^ set(self.shapes.items()))
            raise TrainingError(
                f"the sizes of the model were changed behind the schedule's back (first: {sorted(odd)[0]}): attach a "
                "new schedule to the model as it is"
            )
        check_held(self.module, self.optimizers)
        check_state(self.optimizers, canonical_names(self.module))
        for average in self.averages:
            check_average(average, self.module)
        if self.scaler is None or not self.scaler.is_enabled():
            _check_gradients(self.module)


def attach(
    schedule: Schedule, model: torch.nn.Module, optimizer: Any, example_inputs: Any, scaler: Any, ema: Any
) -> Pruner:
    """See `Schedule.attach`."""
    pruner = prepare(schedule, model, example_inputs, ema)
    pruner.hold(optimizer, scaler)
    rehearse(pruner)
    return pruner


def prepare(schedule: Schedule, model: torch.nn.Module, example_inputs: Any, ema: Any) -> Pruner:
    """A pruner that does not know the optimizer yet."""
    module = unwrapped(model)
    refuse(module)
    _refuse_more(module)
    pruner = Pruner(schedule, module, example_inputs)
    pruner.averages = averages_of(ema, module)
    return pruner


def slim_of(
    options: Mapping[str, Any], module: torch.nn.Module, inputs: Any, goals: dict[str, float]
) -> tuple[torch.nn.Module, Plan]:
    """A slim copy of a module that meets goals for its own quantities, and the plan that made it."""
    from ...api import optimize
    from .modules import last_plan_of

    sparsity, budget = max(goals.values()), options.get("budget", "params")
    options = {**options, "budget": budget if isinstance(budget, str) else goals}
    slim = optimize(module, sparsity, example_inputs=inputs, **options)
    plan = last_plan_of(slim)
    if plan is None or slim is module:
        raise PlanError("this budget left the model as it is")
    return slim, plan


def rehearse(pruner: Pruner) -> None:
    """Prune a copy as far as the schedule goes: what cannot work is to be known before the training."""
    schedule, module = pruner.schedule, pruner.module
    goals = schedule.goals_at(schedule.end)
    options = {name: value for name, value in schedule.options.items() if name != "recover"} | {"verify": False}
    with own_forwards(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the prunings themselves will say it
        slim, plan = slim_of(options, module, pruner.inputs, goals)
    changes_of(module, slim, plan)
    relative_goals(goals, plan.report)  # the prunings to come need to know how far this one has got


def _refuse_more(module: torch.nn.Module) -> None:
    kind = type(module).__name__
    if isinstance(module, torch.fx.GraphModule):
        raise TrainingError(
            f"{kind} has its sizes in its code: attach the schedule to the module that it was made from"
        )
    for name, parameter in module.named_parameters():
        if type(parameter.data) is not torch.Tensor or hasattr(parameter, "_fsdp_flattened"):
            raise TrainingError(
                f"{name} is a {type(parameter.data).__name__}, of which this process may hold a part only: prune "
                "before the model is sharded"
            )


def _check_gradients(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        if gradient is not None and gradient.layout == torch.strided and not torch.isfinite(gradient).all():
            raise WeightsError(
                f"the gradient of {name} is NaN or infinite at a pruning step: the training has diverged. Lower the "
                "learning rate, or pass scaler= where a GradScaler skips such steps."
            )
