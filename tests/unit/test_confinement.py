"""Paths and names in params stay inside of the project and of the folders that it names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.untrusted import REVISION, fetch, local
from support.workspace import broken, tiny_params

from tensorpress.commands import advise
from tensorpress.config.params import Params, parse
from tensorpress.errors import TensorpressError


@pytest.mark.parametrize("value", ["../model", "/etc/passwd", "inputs/../../model"])
@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("models.tiny", {"source": "local"}),
        ("models.tiny", {"source": "config"}),
        ("corpora.text", {"source": "file"}),
        ("corpora.text", {"source": "wikitext2"}),
        ("corpora.text", {"source": "c4"}),
        ("tasks.heldout", {"kind": "hotpotqa"}),
        ("tasks.heldout", {"kind": "zero_shot", "task": "piqa"}),
    ],
)
def test_paths_stay_inside(place: str, entry: dict, value: str) -> None:
    params = {**broken(place, entry | {"path": value}), "reports": {}}
    with pytest.raises(TensorpressError) as caught:
        parse(params, "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: {place}.path: {value!r} leads to ")
    assert "allowed: paths inside of the project, or of the folders that external lists (none" in (
        str(caught.value)
    )
    parse({**params, "external": ["..", "/etc"]})


def test_every_path_of_the_schema_is_confined() -> None:
    """A new setting that names a file belongs into the list above and into ``Params._paths``."""
    schema = Params.model_json_schema()
    named = {
        (title, field)
        for title, model in schema["$defs"].items()
        for field in model.get("properties", {})
        if any(word in field for word in ("path", "file", "folder", "directory"))
    }
    kinds = ("LocalModel", "ConfigModel", "FileCorpus", "Wikitext2Corpus", "C4Corpus")
    tasks = (f"tensorpress__config__tasks__{kind}__Spec" for kind in ("hotpotqa", "zero_shot"))
    of_a_repository = {("HubModel", "file")}  # a name without folders
    assert named == {(kind, "path") for kind in (*kinds, *tasks)} | of_a_repository


def test_links_are_followed(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "inputs").mkdir(parents=True)
    monkeypatch.chdir(project)
    (project / "inputs/tiny").symlink_to(copy)
    with pytest.raises(TensorpressError, match=r"models\.tiny\.path: 'inputs/tiny' leads to"):
        parse(tiny_params())
    (project / "inputs/tiny").unlink()
    shutil.copytree(copy, project / "inputs/tiny")
    parse(tiny_params())
    (project / "inputs/tiny/model.safetensors").unlink()
    (project / "inputs/tiny/model.safetensors").symlink_to(copy / "model.safetensors")
    with pytest.raises(TensorpressError, match=r"'model\.safetensors' of 'inputs/tiny' leads to"):
        parse(tiny_params())
    (project / "inputs/tiny/config.json").unlink()
    (project / "inputs/tiny/config.json").symlink_to("config.json")  # to itself
    parse(tiny_params() | {"external": [str(copy)]})


def test_a_snapshot_of_the_hub_cache_is_as_good_as_its_blobs(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    copy.rename(repository / "blobs")
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    params = broken("models.tiny.path", str(snapshot)) | {"external": [str(snapshot)]}
    parse(params)
    fetched = fetch(local(snapshot), tmp_path / "fetched")
    assert not any(path.is_symlink() for path in fetched.iterdir())
    (snapshot / "extra.json").symlink_to("/etc/passwd")
    with pytest.raises(TensorpressError, match=r"'extra\.json' of .* leads to /etc/passwd"):
        parse(params)


def test_a_folder_on_the_command_line_needs_no_declaration(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(study: Params) -> None:
        assert study.models["model"].path == str(copy)
        raise TensorpressError("planned")

    monkeypatch.setattr(advise, "Plan", plan)
    with pytest.raises(TensorpressError, match=r"^planned$"):
        advise.advise(str(copy), parse(tiny_params()), 0.2, quantise=True)


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "", "-", "a\n"])
def test_names_that_become_paths(name: str) -> None:
    params = tiny_params()
    params["models"][name] = params["models"]["tiny"]
    with pytest.raises(TensorpressError):
        parse(params)
    with pytest.raises(TensorpressError, match="repository"):
        parse(broken("models.tiny", {
            "source": "hub", "repository": f"{name}/..", "revision": REVISION,
        }))  # fmt: skip
