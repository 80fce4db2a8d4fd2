"""Where commands run: folders of odd names, a HOME that cannot be written, other folders."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.workspace import Workspace


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace.create(tmp_path_factory.mktemp("places") / "größe 模型 it's")


def ran(
    workspace: Workspace, *command: str, folder: Path | None = None, **environment: str
) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=folder or workspace.folder, env={**workspace.environment(), **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text[-3000:]
    return done.returncode, text


def test_a_home_that_cannot_be_written(project: Workspace) -> None:
    """The fetch of the text is a whole job of its own."""
    code, text = ran(project, "snakemake", "--cores", "1", "stage_fetch", HOME="/proc/nohome")
    assert code == 0, text[-2000:]
    assert list((project.folder / "results/fetch").glob("text-*.txt"))


def test_braces_are_refused_in_one_line(project: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "a{b}c"
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    code, text = ran(project, "snakemake", "-n", folder=folder)
    assert code
    assert f"{folder}: a project in a folder with {{ or }} in its name is not allowed" in text


def test_another_working_directory(project: Workspace, tmp_path: Path) -> None:
    """Params and inputs are its own, rules, queries and notebooks the project's."""
    snakefile = str(project.folder / "Snakefile")
    code, text = ran(project, "snakemake", "-n", "-s", snakefile, "-d", str(tmp_path))
    assert code
    assert "params.yaml" in text
    shutil.copyfile(project.folder / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(project.folder / "inputs", tmp_path / "inputs")
    code, text = ran(project, "snakemake", "-n", "-s", snakefile, "-d", str(tmp_path))
    assert code == 0, text[-2000:]
    assert "report" in text
    code, text = ran(project, "tensorpress", "query", "perplexities", folder=tmp_path)
    assert code
    assert "results.parquet is missing; run tensorpress run or dvc pull first" in text
    code, text = ran(project, "tensorpress", "query", "nope", folder=tmp_path)
    assert "query: 'nope' is not allowed; allowed: ahead, allocation, baseline" in text
    (tmp_path / "inputs/text.txt").write_text("Too short a text.")
    code, text = ran(project, "tensorpress", "advise", "tiny", "--saved", "0.2", folder=tmp_path)
    assert "tensorpress: calibrate tiny-" in text, text[-2000:]  # so the rules were found


def test_a_study_of_another_file_says_how_to_run_it(project: Workspace) -> None:
    shutil.copyfile(project.folder / "params.yaml", project.folder / "studies/b.yaml")
    code, text = ran(project, "tensorpress", "--params", "studies/b.yaml", "query", "verdict")
    assert code
    assert "missing; run snakemake --configfile studies/b.yaml or dvc pull first" in text
