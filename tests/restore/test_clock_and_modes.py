"""Times that lie, and results that cannot be written."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from support.faults import (
    assert_completes,
    assert_same,
    bound_by_modes,
    finished,
    one_line,
    plant_killer,
    run_until_killed,
)
from support.workspace import Workspace


def date_all(folder: Path, moment: float) -> None:
    """Set the time of every file and folder, Snakemake's own included."""
    for path in folder.rglob("*"):
        os.utime(path, (moment, moment), follow_symlinks=False)


def test_a_clock_an_hour_back(done: Workspace, reference: Path) -> None:
    """All that exists is from the future, as after the clock was put back; then a kill."""
    shutil.rmtree(done.folder / "results/aggregate")
    shutil.rmtree(done.folder / "results/reports")
    plant_killer(done)
    date_all(done.folder, time.time() + 3600)
    finished(done)
    killed = run_until_killed(done, "report", "results/reports/*", with_driver=True)
    assert killed.returncode != 0
    assert finished(done) == Counter(aggregate=1)
    date_all(done.folder, time.time() + 3600)
    done.snakemake("--unlock")
    assert_completes(done, reference, Counter(report=1, site=1))
    for moment in (0.0, time.time() + 3600):
        date_all(done.folder, moment)
        assert done.nothing_to_do()


@pytest.mark.skipif(
    bool(bound_by_modes()) and shutil.which("setpriv") is None, reason="root, and no setpriv"
)
def test_read_only_results(done: Workspace, reference: Path) -> None:
    for stage in ("reports", "site"):  # a folder that nobody may write is refused by Snakemake
        shutil.rmtree(done.folder / "results" / stage)
    folders = [p for p in (done.folder / "results").rglob("*") if p.is_dir()]
    for folder in (*folders, done.folder / "results"):
        folder.chmod(0o555)
    run = [*bound_by_modes(), "snakemake", "--cores", "1"]
    said = one_line(done.run(*run, check=False))
    assert ": a read-only folder is not allowed" in said
    assert not finished(done)
    planned = done.run(*run, "-n")
    assert "report" in planned.stdout + planned.stderr
    for folder in (done.folder / "results", *folders):
        folder.chmod(0o755)
    done.run(*run)
    assert_same(done, reference)
