"""How many samples of calibration data are enough, and not too many: bounds that all frontends share."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .analysis import Analysis

WORK = 2 * 10**10
"""Multiply-accumulates that one trial of other weights may take, about: it decides how many samples are tried."""

MEMORY = 2 * 1024**3
"""Bytes of activations that the calibration batches may take together, about; it decides how many samples are used."""


def samples_to_try(analysis: "Analysis", samples: int) -> int:
    """How many samples a trial runs, where the cost of the analysis is that of so many samples."""
    return max(8, min(256, WORK * samples // max(analysis.cost().macs, 1)))


def samples_at_once(analysis: "Analysis", samples: int) -> int:
    """How many samples may stand in memory, twice each, where the memory of the analysis is that of so many samples."""
    per_sample = max(analysis.cost().memory // max(samples, 1), 1)
    return max(int(MEMORY // (2 * per_sample)), 8)
