"""What is installed: the package and its workflow, which runs anywhere under the same keys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from support.workspace import ROOT, Workspace, save_tiny, tiny_llama, tiny_params, tiny_text

from tensorpress.commands import cli
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.running import guards


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built out of the source archive, which therefore holds all that it takes."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def study(tmp_path: Path) -> Workspace:
    """A folder that has a study and its inputs, and nothing of the project."""
    folder = tmp_path / "study"
    save_tiny(tiny_llama(), folder / "inputs/tiny")
    (folder / "inputs/text.txt").write_text(tiny_text(), encoding="utf-8")
    (folder / "study.yaml").write_text(yaml.safe_dump(tiny_params()), encoding="utf-8")
    return Workspace(folder)


@pytest.fixture
def installed(study: Workspace, wheel: Path, tmp_path: Path) -> Workspace:
    """The study's folder, where commands are those of the unpacked wheel."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    study.variables["PYTHONPATH"] = str(tmp_path / "site")
    return study


def files(*folders: str) -> dict[str, Path]:
    """Files of the checkout in some of its folders, by name."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *folders]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name: ROOT / name for name in listed.splitlines()}


def test_a_wheel_holds_the_package_and_its_workflow(wheel: Path) -> None:
    package = {name.removeprefix("src/"): path for name, path in files("src").items()}
    workflow = files(
        "Snakefile", "envs", "notebooks", "params.yaml", "profiles", "queries", "rules", "studies",
        "workflow_scripts",
    )  # fmt: skip
    expected = package | {f"tensorpress/workflow/{name}": path for name, path in workflow.items()}
    with zipfile.ZipFile(wheel) as archive:
        held = {each.filename: each for each in archive.infolist()}
        assert {name for name in held if ".dist-info/" not in name} == set(expected)
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name
            is_program = bool(held[name].external_attr >> 16 & 0o100)
            assert is_program == os.access(path, os.X_OK), name


def test_an_installed_workflow_has_the_keys_of_the_checkout(
    installed: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.run("tensorpress", "--params", "study.yaml", "plan-keys")
    plan = installed.folder / paths.PLAN
    keys = {path.name: path.read_text() for path in plan.iterdir()}
    assert sorted(keys) == sorted(f"{stage}.json" for stage in paths.STAGES)
    shutil.rmtree(plan)
    monkeypatch.chdir(installed.folder)
    assert cli.main(["--params", "study.yaml", "plan-keys"]) == 0
    assert {path.name: path.read_text() for path in plan.iterdir()} == keys


def test_an_installed_workflow_runs_in_the_working_directory(installed: Workspace) -> None:
    run = ["tensorpress", "--params", "study.yaml", "run", "-n"]
    done = installed.run(*run, "--cores", "1", "--", "stage_fetch")
    said = done.stdout + done.stderr
    assert "fetch_model" in said
    assert "decompose" not in said
    assert "site/tensorpress/workflow/profiles/default" in said
    refused = installed.run(*run, "--software-deployment-method", "conda", check=False)
    assert refused.returncode == 1
    assert "conda outside of the project's folder is not allowed" in refused.stdout
    assert not list(installed.folder.parent.glob("site/**/.snakemake"))


def test_parts_to_edit_are_copied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["copy", "params.yaml"]) == cli.main(["copy", "profiles"]) == 0
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert os.access("profiles/cluster-generic/submit.py", os.X_OK)
    Path("params.yaml").write_text("mine")
    assert cli.main(["copy", "params.yaml"]) == 1
    assert capsys.readouterr().err == (
        "tensorpress: copy: params.yaml, which exists, is not allowed; "
        "allowed: a folder without it\n"
    )
    assert Path("params.yaml").read_text() == "mine"


def test_params_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--params", "a.yaml", "run", "--configfile=b.yaml"]) == 1
    assert capsys.readouterr().err == (
        "tensorpress: --params: a.yaml beside --configfile is not allowed; "
        "allowed: one of the two\n"
    )


def test_environments_of_conda_are_those_of_a_checkout(tmp_path: Path) -> None:
    guards.check_environments(tmp_path, tmp_path / "." / ".." / tmp_path.name)
    with pytest.raises(TensorpressError, match=f"^{tmp_path}: --software-deployment-method conda"):
        guards.check_environments(ROOT, tmp_path)


def test_images_are_built_of_what_a_wheel_is_built_of(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        parts = [Path(name).parts for name in archive.namelist()]
    workflow = {part[2] for part in parts if part[:2] == ("tensorpress", "workflow")}
    project = {"src", "LICENSE", "README.md", "hatch_build.py", "pyproject.toml"}
    needed = workflow | project | {"requirements.lock"}
    ignored = (ROOT / "envs/Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == needed
    definition = (ROOT / "envs/tensorpress.def").read_text().splitlines()
    copied = [line.split() for line in definition if line.endswith(" /build/")]
    assert {source for source, _ in copied} == needed


@pytest.mark.slow
def test_a_fresh_environment_runs_a_study(wheel: Path, study: Workspace, tmp_path: Path) -> None:
    """As README.md installs it: the build of torch first, then the wheel."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    scripts = tmp_path / "venv/bin"
    pip = [scripts / "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock"]
    if subprocess.run([*pip, "torch"], cwd=tmp_path, check=False).returncode:
        pytest.skip("no package index can be reached")
    subprocess.run([*pip, wheel], cwd=tmp_path, check=True)
    environment = study.environment() | {"PATH": "/usr/bin:/bin"}
    del environment["PYTHONPATH"]
    command = [scripts / "tensorpress", "run", "--cores", "1", "--configfile", "study.yaml"]
    subprocess.run(command, cwd=study.folder, env=environment, check=True)
    (page,) = (study.folder / "results/reports").glob("pareto-*.html")
    assert "svd" in page.read_text(encoding="utf-8")
    command = [scripts / "tensorpress", "--params", "study.yaml", "query", "perplexities", "--json"]
    done = subprocess.run(
        command, cwd=study.folder, env=environment, check=True, capture_output=True, text=True
    )
    assert {row["recipe"] for row in yaml.safe_load(done.stdout)} == {"baseline", "svd", "drop"}
