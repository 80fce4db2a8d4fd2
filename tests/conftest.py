"""Fixtures: the shared folder, tiny models, and workspaces that commands run in."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from support.planted import at, planted
from support.study import whole_study
from support.workspace import ROOT, SHARED, Workspace, save_tiny, tiny_llama, tiny_moe, tiny_text

from tensorpress.checkpoints.loading import load_model
from tensorpress.evaluation import job as evaluation_job

# several processes share the cores, and OpenMP threads that wait for each other starve
torch.set_num_threads(1)

BEGUN_FIRST = ("cluster/test_slurm.py", "workflow/test_pipeline.py", "restore/test_contract.py")
"""The longest files: what is short fills up the processes at the end. Slurm's mostly waits."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of ``BEGUN_FIRST``, then the others as they are."""
    folder = Path(__file__).parent
    place = {folder / name: number for number, name in enumerate(BEGUN_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


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


@pytest.fixture(scope="session")
def planted_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose layer 1 has a super weight."""
    return save_tiny(planted(at(1, 7, 30)), tmp_path_factory.mktemp("planted") / "model")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tables of the study with every kind of row."""
    return whole_study(lead=0.1).written(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copy(llama_directory: Path, tmp_path: Path) -> Path:
    """A tiny Llama to change."""
    return shutil.copytree(llama_directory, tmp_path / "model")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What code that may not run would write."""
    return tmp_path / "marker"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "project")


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``tiny_params`` names, in a folder of its own that is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("queries", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    save_tiny(tiny_llama(), tmp_path / "inputs/tiny")
    (tmp_path / "inputs/text.txt").write_text(tiny_text())
    return tmp_path


@pytest.fixture
def loaded_models(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[torch.nn.Module]]:
    """Models that an evaluation has loaded; it fails where an earlier one still lives."""
    models: list[weakref.ref[torch.nn.Module]] = []

    def load_alone(*arguments: Any) -> torch.nn.Module:
        assert not any(ref() is not None for ref in models), "two models at a time"
        model = load_model(*arguments)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(evaluation_job, "load_model", load_alone)
    return models
