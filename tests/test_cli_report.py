"""`graphprune report`, run in this process."""

import json
from pathlib import Path

import pytest
import torch

import graphprune
from test_cli import SHAPE, SMALL, _fails, _small, folder, graphprune_  # noqa: F401  (fixtures)
