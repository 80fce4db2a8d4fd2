"""Models that come from elsewhere: of a folder or a hub, fetched or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU
from tensorpress.sources.contents import model_source
from tensorpress.sources.inputs import HubModel, LocalModel
from tensorpress.stages.fetching import fetch_model

REVISION = "0123456789" * 4


def update(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def local(directory: Path, **settings: object) -> LocalModel:
    return LocalModel(source="local", path=str(directory), **settings)


def fetch(model: LocalModel | HubModel, target: Path) -> Path:
    model_source("m", model)  # as planning does
    fetch_model("m", model, target, CPU)
    return target


def refusal(model: LocalModel | HubModel) -> str:
    with pytest.raises(TensorpressError) as caught:
        model_source("m", model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def hub(folder: Path, repository: str, monkeypatch: pytest.MonkeyPatch, **settings: object):
    """A model of the hub whose cache holds what is in a folder, and no connection."""
    import huggingface_hub.constants

    cache = folder.parent / "cache"
    snapshot = cache / f"models--{repository.replace('/', '--')}/snapshots/{REVISION}"
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return HubModel(source="hub", repository=repository, revision=REVISION, **settings)
