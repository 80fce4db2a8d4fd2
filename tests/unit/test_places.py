"""Folders of all names, no git, other working directories: it works, or one line says why not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.workspace import ROOT, tiny_params

from tensorpress.commands import advise, checkpoints, tracking
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.planning.plan import Plan
from tensorpress.running import guards


@pytest.mark.parametrize(
    ("folder", "inside"),
    [
        ("plain-1.2_b", True), ("with space", False), ("a{b}c", False), ("it's", False),
        ("größe 模型", False), ("a$HOME;b", False), ("q*?", False), ("a(b)&c", False),
        ('a"b', False), ("a`b", False), ("a%b#c", False),
    ],
)  # fmt: skip
def test_make_puts_the_environment_where_no_sign_needs_quotes(
    tmp_path: Path, folder: str, inside: bool
) -> None:
    project = tmp_path / folder
    project.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copyfile(ROOT / name, project / name)
    done = make(project, tmp_path / "cache")
    last = done.stdout.splitlines()[-1]
    if inside:
        assert last == ". .venv/bin/activate && snakemake"
    else:
        assert last.startswith(f". {tmp_path}/cache/tensorpress/venv-")
        assert last.endswith("/bin/activate && snakemake")
        assert not guards._SPLIT.search(last.removesuffix(" && snakemake")[2:])


def make(project: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``make run`` would do."""
    environment = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(cache), "HOME": "/proc/no"}
    command = ["make", "-n", "run", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def test_folders_of_the_same_name_have_environments_of_their_own(tmp_path: Path) -> None:
    lines = set()
    for parent in ("one", "two"):
        (tmp_path / parent / "my study").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copyfile(ROOT / name, tmp_path / parent / "my study" / name)
        lines.add(make(tmp_path / parent / "my study", tmp_path / "cache").stdout)
    assert len(lines) == 2


def test_a_cache_with_a_space_is_refused_and_a_named_environment_taken(tmp_path: Path) -> None:
    project = tmp_path / "my study"
    project.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copyfile(ROOT / name, project / name)
    done = make(project, tmp_path / "my cache")
    assert done.returncode
    assert "a path with a space is not allowed; allowed: any other, as make VENV=" in done.stderr
    done = make(project, tmp_path / "my cache", "VENV=/opt/venv")
    assert done.stdout.splitlines()[-1] == ". /opt/venv/bin/activate && snakemake"


def test_what_snakemake_fails_on_is_refused() -> None:
    guards.check_place(Path("/home/größe 模型/it's [1]"), "/opt/größe/bin/python3.11")
    with pytest.raises(TensorpressError, match=r"a project in a folder with { or } in its name"):
        guards.check_place(Path("/home/a{b}c"), "/usr/bin/python")
    with pytest.raises(TensorpressError, match="an environment elsewhere"):
        guards.check_place(Path("/home/a b"), "/home/a b/.venv/bin/python")


def test_the_workflow_is_the_project_s_wherever_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkout, of an installed package, or the working directory's where it is a project."""
    monkeypatch.chdir(tmp_path)
    Path("queries").mkdir()  # a user's, of which no project is made
    assert paths.project() == ROOT
    assert (paths.queries(), paths.notebooks()) == (ROOT / "queries", ROOT / "notebooks")
    package = tmp_path / "site/tensorpress"
    monkeypatch.setattr(paths, "__file__", str(package / "files/paths.py"))
    with pytest.raises(TensorpressError, match="a package without its workflow is not allowed"):
        paths.project()
    for folder in (package / "workflow", Path()):
        for part in ("rules", "queries", "notebooks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "Snakefile").touch()
        assert paths.project() == folder


def test_what_dvc_says_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpacked archive has .dvc and no .git."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    with pytest.raises(TensorpressError) as caught:
        tracking.commit()
    assert str(caught.value) == (
        f"record: dvc commit failed: {tmp_path} is not a git repository; run 'git init' first"
    )
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: 'true', outs: [nothing]}}\n")
    with pytest.raises(TensorpressError) as caught:
        tracking.commit()
    assert "record: dvc commit failed: " in str(caught.value)
    assert "nothing" in str(caught.value)
    assert "git init" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("inputs/my model (v2)", "my-model-v2"), ("inputs/größe 模型", "groe"), ("模型", "model"),
        ("inputs/links/", "links"), ("inputs/links/.", "links"), ("../-x-", "x"), ("/", "model"),
        ("m" * 300, "m" * 60), ("a[b]*?", "a-b"), ("Llama-2-7b_hf.v1", "Llama-2-7b_hf.v1"),
    ],
)  # fmt: skip
def test_models_of_folders_get_names_that_params_may_have(folder: str, name: str) -> None:
    assert checkpoints.name_of(Path(folder)) == name


def test_advice_on_a_folder_of_any_name(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = parse(tiny_params())
    found = []
    for folder in ("inputs/my model (v2)", "inputs/my model v2"):
        shutil.copytree("inputs/tiny", folder)
        (Path(folder) / "chat_template.jinja").write_text(folder)
        (model,) = Plan(advise._study(folder, params, 0.2, True)).models.values()
        found.append(model.id)
    assert all(each.startswith("my-model-v2-") for each in found)
    assert len(set(found)) == 2
    shutil.copytree("inputs", "inputs/tiny/inputs", ignore=shutil.ignore_patterns("tiny", "my*"))
    monkeypatch.chdir(inputs / "inputs/tiny")
    (model,) = Plan(advise._study(".", params, 0.2, True)).models.values()
    assert model.name == "tiny"
