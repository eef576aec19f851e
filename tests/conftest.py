"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

import pytest
import torch

from command_line import folder as folder
from command_line import graphprune_ as graphprune_

# The networks here are tiny: threads that wait for each other cost more than they bring.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> None:
    """Compiled models meet the same numbers in every run: within a tolerance they are right always or never."""
    if request.path.name.startswith("test_backend"):
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
