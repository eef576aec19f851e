"""What a report says of a model, as plain data: the page and the plots are drawn from it and know nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..cost import CostModel
from ..explain import GroupRow, rows_by_family, units_of
from .blocks import Block, blocks_of
from .layers import Alive, Layer, Pair, alive_after, elements_left, layers_of
from .measured import Times
from .rails import Map, lay_out

if TYPE_CHECKING:
    from ..analysis import Analysis
    from ..masks import Masks
    from ..plan import Plan
    from ..sweep_results import Sweep
    from .status import Status


class Group(NamedTuple):
    """All groups of one width: what `explain` says of it, and how many of them stay."""

    row: GroupRow
    kept: int


@dataclass(frozen=True)
class Contents:
    """All that a report shows.

    `costs` are those of `graphprune.cost.Cost` before and after; `groups` are by the families that `map` and the layers
    speak of; `masked` tells that single weights are zero, which do not count as parameters then; `details` are what was
    asked for and where.
    """

    title: str
    status: "Status"
    costs: dict[str, Pair]
    layers: list[Layer]
    blocks: list[Block]
    groups: dict[int, Group]
    map: Map
    pruned: bool
    masked: bool = False
    times: Times | None = None
    sweep: "Sweep | None" = None
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def widths(self) -> list[tuple[str, Pair]]:
        """The layers that have output channels, with how many."""
        return [(layer.name, layer.width) for layer in self.layers if layer.width is not None]


def contents_of(
    analysis: "Analysis", plan: "Plan | None", masks: "Masks | None", title: str, status: "Status"
) -> Contents:
    """Everything that follows from an analysis of the original and the decision what stays.

    Raises `PlanError` where the plan was made for another model.
    """
    alive = alive_after(analysis, plan)
    units = units_of(analysis)
    family_of = np.where(analysis.stored, units.family[units.of_class], -1)
    layers = layers_of(analysis, alive, family_of, elements_left(analysis, alive, masks))
    rows = rows_by_family(analysis)
    return Contents(
        title=title,
        status=status,
        costs=_costs(analysis, alive, sum(layer.params.after for layer in layers)),
        layers=layers,
        blocks=blocks_of(layers),
        groups={family: Group(row, _kept(row, alive[family_of == family])) for family, row in rows.items()},
        map=lay_out([(layer.reads, layer.writes) for layer in layers]),
        pruned=plan is not None or masks is not None,
        masked=masks is not None,
        details=_decided(masks or plan),
    )


def _kept(row: GroupRow, alive: Alive) -> int:
    """How many groups of a width stay: all of them have equally many members."""
    return round(row.count * float(alive.mean())) if alive.size else row.count


def _costs(analysis: "Analysis", alive: Alive, params: int) -> dict[str, Pair]:
    """Every quantity before and after; of masked weights those count that may differ from zero."""
    model = CostModel.of(analysis)
    before, after = model.cost(np.ones_like(alive)), model.cost(alive)
    pairs = {name: Pair(getattr(before, name), getattr(after, name)) for name in before._fields}
    return pairs | {"params": Pair(before.params, params)}


def _decided(decision: "Plan | Masks | None") -> dict[str, str]:
    """The options that a decision was made with, but those that say nothing."""
    options = {} if decision is None else decision.options
    return {name: _word(value) for name, value in options.items() if value not in (None, "", [], {}, ())}


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_word(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_word, value))
    return str(value)
