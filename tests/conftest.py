"""Fixtures: the shared folder, tiny models, and workspaces that commands run in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import torch
from workspace import SHARED, Workspace, save_tiny, tiny_llama, tiny_moe

# several processes share the cores, and OpenMP threads that wait for each other starve
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is missing")
    return SHARED


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tiny_llama(), tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def moe_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tiny_moe(), tmp_path_factory.mktemp("models") / "moe")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "project")
