"""A second driver, and DVC's offline commands: what a user meets besides plain runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

from support.faults import copy_of
from support.workspace import Workspace


def test_second_run_is_refused_while_one_is_going(workspace: Workspace) -> None:
    """Two drivers at once."""
    driver = subprocess.Popen(
        ["snakemake", "--cores", "1", "--", "stage_decompose"], cwd=workspace.folder,
        env=workspace.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    lock = workspace.folder / ".snakemake/locks"
    while driver.poll() is None and not list(lock.glob("*.lock")):
        time.sleep(0.05)
    second = workspace.snakemake(check=False)
    assert second.returncode != 0
    assert "cannot be locked" in second.stderr
    assert "Traceback" not in second.stderr
    assert driver.wait(timeout=300) == 0
    assert workspace.ran() == Counter(fetch_model=1, fetch_corpus=1, calibrate=1, decompose=2)


def test_dvc_commands_work_offline(made: Path, tmp_path: Path) -> None:
    workspace = copy_of(made, tmp_path / "project")
    workspace.run("tensorpress", "record")
    workspace.commit("X")
    shown = workspace.run("dvc", "metrics", "show").stdout
    assert "heldout_perplexity" in shown
    workspace.edit("params.yaml", "rank: 8", "rank: 4")
    assert "methods.svd.rank" in workspace.run("dvc", "params", "diff").stdout
    workspace.run("dvc", "repro", "-q")
    assert "heldout_perplexity" in workspace.run("dvc", "metrics", "diff").stdout
    workspace.run("dvc", "plots", "show")
    assert (workspace.folder / "dvc_plots/index.html").is_file()
    shutil.rmtree(workspace.folder / "dvc_plots")
    workspace.commit("Y")
    workspace.ran()
    workspace.run("dvc", "exp", "run", "-q", "-S", "methods.svd.rank=5")
    assert workspace.ran() == Counter(
        decompose=1, assemble=1, evaluate=1, aggregate=1, report=1, site=1
    )
    assert workspace.nothing_to_do()
