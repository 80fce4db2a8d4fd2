"""Undisturbed runs for all test processes, and copies of one to do harm to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from support.faults import copy_of, make_reference, make_under_dvc
from support.workspace import Workspace


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """A folder that the first of all test processes makes, and the others find."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(folder.with_suffix(".lock")):
        done = folder.with_suffix(".done")
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of ``faults.every_stage`` after an undisturbed run."""
    return made_once(tmp_path_factory, "reference", make_reference)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project under DVC that Snakemake has run, and of whose results DVC knows nothing."""
    return made_once(tmp_path_factory, "made", make_under_dvc)


@pytest.fixture
def bare(reference: Path, tmp_path: Path) -> Workspace:
    """The project before its first run."""
    return copy_of(reference, tmp_path / "project", "results", ".snakemake")


@pytest.fixture
def done(reference: Path, tmp_path: Path) -> Workspace:
    """The project after its run."""
    return copy_of(reference, tmp_path / "project")
