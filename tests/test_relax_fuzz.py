"""Random networks in TVM: whatever is pruned equals the masked original."""

import pytest

from examine_relax import examine
from random_networks import Choices, trial


def test_a_few_random_networks() -> None:
    statuses = [examine(*trial(Choices(seed))).status for seed in (3, 8)]
    assert statuses.count("proved") >= 1, "refusals alone would pass this test"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(9, 112))
def test_random_networks(seed: int) -> None:
    examine(*trial(Choices(seed)))
