"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

import pytest
import torch

# The networks here are tiny: threads that wait for each other cost more than they bring.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers in every run: what is compared within a tolerance is either always right or never."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with trained weights and images; tests that need it skip without it."""
    named = os.environ.get("GRAPHPRUNE_DATA")
    if not named:
        pytest.skip("GRAPHPRUNE_DATA does not name a folder with trained weights and data")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"GRAPHPRUNE_DATA names {folder}, which is not a folder")
    return folder
