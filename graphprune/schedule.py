"""When and how much: a schedule of sparsities over the steps of a training. Knows no framework."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import BudgetError, OptionError, UnsupportedModelError
from .frontends import frontend_of

if TYPE_CHECKING:
    from .frontends.torch.training import Pruner

Curve = Callable[[float], float]

CURVES: dict[str, Curve] = {
    "one-shot": lambda share: 1.0,
    "linear": lambda share: share,
    "cubic": lambda share: 1 - (1 - share) ** 3,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
}
"""How much of the way to the final sparsity is gone (0 to 1), once a share of the steps is (0 to 1).

"cubic" prunes much at first and little at the end: Zhu and Gupta, "To prune, or not to prune", 2017 (AGP).
"""

_NOT_OPTIONS = ("model", "sparsity", "example_inputs", "latency", "threads", "insist", "structure", "block", "recover")
"""Of `optimize`: given otherwise, or not what grows along a curve."""

_WIDTHS = ("widths", "min_width")
"""Options that may be shares of what there is, which is less at every pruning."""


@dataclass(frozen=True, init=False)
class Schedule:
    """Prune a model bit by bit between the steps of its training.

    **Arguments:**

    - `sparsity`: the share of the budgeted quantity that is gone at the end, as in `optimize`.
    - `begin`, `end`: the steps (counted from 1) after which the first and the last pruning happen. `end` may be left
      out for "one-shot".
    - `every`: prune after every so many steps from `begin` on, and after `end`.
    - `kind`: how the sparsity grows from `start` to `sparsity`: "one-shot", "linear", "cubic" (Zhu and Gupta, 2017),
      "cosine", or a function from the share of steps done to the share of the way gone, both between 0 and 1.
    - `start`: the sparsity at `begin`, for all kinds but "one-shot".
    - all other options of `optimize`, such as `budget`, `criterion`, `scope`, `keep`, `multiple_of`, `exact`. `data`
      has to be something that can be gone through again, not an iterator.

    **Raises:** `OptionError` and `BudgetError` for values that cannot be meant.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = graphprune.Schedule(sparsity=0.5, begin=2, end=10, every=2, kind="cubic", budget="macs")
    pruner = schedule.attach(net, optimizer, torch.randn(1, 4))
    for _ in range(12):
        net(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    ```
    """

    sparsity: float
    begin: int
    end: int
    every: int
    kind: "str | Curve"
    start: float
    options: Mapping[str, Any]

    def __init__(
        self,
        sparsity: float = 0.5,
        *,
        begin: int = 1,
        end: int | None = None,
        every: int = 1,
        kind: "str | Curve" = "cubic",
        start: float = 0.0,
        **options: Any,
    ) -> None:
        end = begin if end is None and kind == "one-shot" else end
        given = {"sparsity": sparsity, "begin": begin, "end": end, "every": every, "kind": kind, "start": start}
        for name, value in (given | {"options": _checked_options(options)}).items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        for name in ("begin", "end", "every"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise OptionError(f"{name}={number!r} must be a whole number of steps from 1 on")
        if self.end < self.begin:
            raise OptionError(f"end={self.end} lies before begin={self.begin}: pruning cannot end before it begins")
        if not callable(self.kind) and self.kind not in CURVES:
            raise OptionError(f"kind={self.kind!r}: choose one of {', '.join(CURVES)}, or pass a function")
        if "latency" in self._final():
            raise OptionError("a schedule cannot follow budget='latency', which is measured: take 'macs', and a target")
        for name, goal in self._final().items():
            numbers = all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in (self.start, goal))
            if not numbers or not 0 <= self.start < goal < 1:
                raise BudgetError(
                    f"a schedule from sparsity {self.start!r} to {goal!r} of the {name}: the first must be at least 0, "
                    "the second larger, and below 1"
                )

    def is_due(self, step: int) -> bool:
        """Whether the model is pruned after so many steps."""
        within = self.begin <= step <= self.end
        return within and (step == self.end or (step - self.begin) % self.every == 0)

    def sparsity_at(self, step: int) -> float:
        """The share of the budgeted quantity (the first one, of several) that is to be gone after so many steps."""
        latest = min(step, self.end)
        if latest < self.begin:
            return 0.0
        if latest < self.end:
            latest -= (latest - self.begin) % self.every
        return next(iter(self.goals_at(latest).values()))

    def goals_at(self, step: int) -> dict[str, float]:
        """The sparsity of every budgeted quantity that a pruning after so many steps aims at."""
        return self.goals(self._progress(step))

    @property
    def budget(self) -> Any:
        """What is limited, as it was given."""
        return self.options.get("budget", "params")

    def goals(self, progress: float) -> dict[str, float]:
        """The sparsity of every budgeted quantity at a share of the way."""
        return {name: self.start + (goal - self.start) * progress for name, goal in self._final().items()}

    def _final(self) -> dict[str, float]:
        budget = self.budget
        if isinstance(budget, Mapping):
            return dict(budget)
        return dict.fromkeys([budget] if isinstance(budget, str) else budget, self.sparsity)

    def _progress(self, step: int) -> float:
        curve = self.kind if callable(self.kind) else CURVES[self.kind]
        share = (step - self.begin) / (self.end - self.begin) if self.end > self.begin else 1.0
        progress = curve(share)
        if not 0 <= progress <= 1:
            raise OptionError(f"kind: the function gives {progress!r} for {share}; it has to lie between 0 and 1")
        return progress

    def attach(
        self, model: Any, optimizer: Any, example_inputs: Any = None, *, scaler: Any = None, ema: Any = None
    ) -> "Pruner":
        """Get ready to prune a module in place, between the steps of its training.

        **Arguments:**

        - `model`: an `nn.Module`, also inside a `DistributedDataParallel`. It stays the same object; nothing is changed
          before the first pruning.
        - `optimizer`: what trains it, or a list of all that do. Their state is sliced along.
        - `example_inputs`: as in `optimize`.
        - `scaler`: the `GradScaler` where one is used. Gradients may then be infinite: it skips such steps.
        - `ema`: running averages of the weights, which are sliced along: an `AveragedModel`, a module of the same form,
          a dict of tensors by parameter name, or a list of these.

        **Returns:** a `Pruner`; call its `step()` after every step of the optimizer.

        **Raises:** here already, not in the middle of the training: `BudgetError` where the final budget is out of
        reach; `TrainingError` where the optimizer does not hold the parameters of the model, has state that cannot be
        sliced, or where the model would not stay a module of its class; and what `optimize` raises.
        """
        frontend = frontend_of(model)
        if not hasattr(frontend, "attach"):
            raise UnsupportedModelError(f"a {type(model).__name__} is not trained: attach a schedule to a module")
        pruner: Pruner = frontend.attach(self, model, optimizer, example_inputs, scaler, ema)
        return pruner

    def lightning(self, module: str, example_inputs: Any = None, *, ema: Any = None) -> Any:
        """A callback for Lightning's `Trainer` that prunes `module`, the name of a part of the LightningModule.

        Steps are those of the optimizer (`trainer.global_step`). Checkpoints of the trainer hold what is needed to go
        on from them. `ema`: the name of a part that averages the weights.

        **Raises:** `UnsupportedModelError` where Lightning is not installed; in training what `attach` and `step`
        raise.
        """
        from .frontends.torch.callbacks import lightning_callback

        return lightning_callback(self, module, example_inputs, ema)

    def transformers(self, example_inputs: Any = None) -> Any:
        """A callback for the `Trainer` of transformers. Raises `UnsupportedModelError` where that is not installed."""
        from .frontends.torch.callbacks import transformers_callback

        return transformers_callback(self, example_inputs)

    def as_json(self) -> dict[str, Any]:
        """When and how much as plain data, for checkpoints."""
        kind = getattr(self.kind, "__name__", "function") if callable(self.kind) else self.kind
        return {"goals": self._final(), "kind": kind} | {
            name: getattr(self, name) for name in ("begin", "end", "every", "start")
        }


def relative_goals(goals: Mapping[str, float], report: Mapping[str, Any]) -> dict[str, float]:
    """Sparsities of a model as it is now, from those of the model as it was; what is met already is left out.

    `report` gives [then, now] of every quantity, as plans do. What is left is then * (1 - sparsity), of whole units
    rounded down, as if it had been pruned at once. Raises `OptionError` for quantities that it lacks.
    """
    found = {}
    for name, goal in goals.items():
        if name not in report:
            raise OptionError(f"a schedule cannot follow budget={name!r}: plans do not report it")
        then, now = report[name]
        limit = then * (1 - goal)
        if isinstance(then, int):  # half a unit above the limit: it will be rounded down to it
            limit = math.floor(limit + 1e-9) + 0.5
        if now > limit:
            found[name] = 1 - limit / now
    return found


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with iterables kept as tuples, to be read again and again. Raises `OptionError` for unknown ones."""
    from .api import optimize

    known = [name for name in inspect.signature(optimize).parameters if name not in _NOT_OPTIONS]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise OptionError(f"{unknown[0]!r} is no option of a schedule: choose from {', '.join(known)}")
    for name in _WIDTHS:
        if any(isinstance(bound, float) for bound in _bounds(options.get(name))):
            raise OptionError(
                f"{name} as a share would be a share of what is left at every pruning: give numbers of channels"
            )
    data = options.get("data")
    if data is not None and iter(data) is data:
        raise OptionError("data is an iterator and can be gone through once only: pass a list or a DataLoader")
    again = {
        name: tuple(value)
        for name, value in options.items()
        if name in ("keep", "policy") and isinstance(value, Iterable) and not isinstance(value, str)
    }
    return {**options, **again}


def _bounds(given: Any) -> list[Any]:
    if isinstance(given, Mapping):
        return [bound for pair in given.values() for bound in _bounds(pair)]
    return list(given) if isinstance(given, (list, tuple)) else [given]
