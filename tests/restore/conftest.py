"""An undisturbed run for all test processes, and copies of it to do harm to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults import copy_of, make_reference
from filelock import FileLock
from workspace import Workspace


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of ``faults.every_stage`` after an undisturbed run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reference"
    with FileLock(folder.with_suffix(".lock")):
        done = folder.with_suffix(".done")
        if not done.exists():
            make_reference(folder)
            done.touch()
    return folder


@pytest.fixture
def bare(reference: Path, tmp_path: Path) -> Workspace:
    """The project before its first run."""
    return copy_of(reference, tmp_path / "project", "results", ".snakemake")


@pytest.fixture
def done(reference: Path, tmp_path: Path) -> Workspace:
    """The project after its run."""
    return copy_of(reference, tmp_path / "project")
