"""A full disk: earlier artifacts stay, the error is one line, and with space the run goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults import assert_completes, copy_of, one_line
from support.workspace import Workspace


def without_baseline(workspace: Workspace) -> None:
    """Let there be a checkpoint of 110 kB to assemble."""
    for path in (workspace.folder / "results/assemble").glob("tiny-baseline-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def assert_nothing_half(workspace: Workspace) -> None:
    assert not list((workspace.folder / "results").rglob(".partial-*"))
    assert not list((workspace.folder / "results/assemble").glob("tiny-baseline-*"))


def test_a_file_size_limit(done: Workspace, reference: Path) -> None:
    without_baseline(done)
    command = "ulimit -f 60 && exec snakemake --cores 1 -- stage_assemble"
    said = one_line(done.run("bash", "-c", command, check=False))
    assert "the file-size limit is reached; nothing was changed" in said
    assert_nothing_half(done)
    assert_completes(done, reference, Counter(assemble=1), "stage_assemble")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tensorpress-test", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes on the disk; returns the file that takes the rest."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    return ballast


def test_results_on_a_full_disk(done: Workspace, reference: Path, small_disk: Path) -> None:
    without_baseline(done)
    shutil.move(done.folder / "results", small_disk / "results")
    (done.folder / "results").symlink_to(small_disk / "results")
    ballast = fill(small_disk, 64_000)
    said = one_line(done.snakemake("--", "stage_assemble", check=False))
    assert "the disk is full; nothing was changed" in said
    assert_nothing_half(done)
    ballast.unlink()
    assert_completes(done, reference, Counter(assemble=1), "stage_assemble")


def test_snakemakes_own_files_on_a_full_disk(reference: Path, small_disk: Path) -> None:
    """Nothing at all can be saved, with the project, and Snakemake's memory, on that disk."""
    project = copy_of(reference, small_disk / "project")
    without_baseline(project)
    ballast = fill(small_disk, 0)
    assert project.snakemake("--", "stage_assemble", check=False).returncode != 0
    assert_nothing_half(project)
    ballast.unlink()
    assert_completes(project, reference, Counter(assemble=1), "stage_assemble")
