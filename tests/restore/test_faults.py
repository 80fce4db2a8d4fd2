"""Kills, a second driver, and DVC's offline commands: what a user meets besides plain runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from workspace import EVERYTHING, Workspace, with_dvc


def test_killed_job_resumes_and_leaves_nothing_partial(workspace: Workspace) -> None:
    """Point 6: kill -9 of a running job; the rerun does the rest, and only the rest."""
    driver = subprocess.Popen(
        ["snakemake", "--cores", "1"], cwd=workspace.folder, env=workspace.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    killed = kill_job_of(workspace, "calibrate", driver)
    assert driver.wait(timeout=120) != 0
    assert killed
    finished = workspace.ran()
    assert finished["fetch_model"] == 1
    finished.pop("calibrate", None)  # its log may have begun before the kill
    workspace.snakemake()
    assert finished + workspace.ran() == EVERYTHING
    assert not list((workspace.folder / "results").rglob(".partial-*"))
    assert workspace.nothing_to_do()


def kill_job_of(workspace: Workspace, rule: str, driver: subprocess.Popen) -> bool:
    """Send SIGKILL to the first process that runs the script of ``rule``."""
    while driver.poll() is None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
                    inside = (entry / "cwd").resolve() == workspace.folder
                except OSError:
                    continue
                if inside and f"{rule}.py" in command and "snakemake --cores" not in command:
                    os.kill(int(entry.name), signal.SIGKILL)
                    return True
        time.sleep(0.02)
    return False


def test_second_run_is_refused_while_one_is_going(workspace: Workspace) -> None:
    """Point 6: two drivers at once."""
    driver = subprocess.Popen(
        ["snakemake", "--cores", "1"], cwd=workspace.folder, env=workspace.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    lock = workspace.folder / ".snakemake/locks"
    while driver.poll() is None and not list(lock.glob("*.lock")):
        time.sleep(0.05)
    second = workspace.snakemake(check=False)
    assert second.returncode != 0
    assert "cannot be locked" in second.stderr
    assert "Traceback" not in second.stderr
    assert driver.wait(timeout=300) == 0
    assert workspace.nothing_to_do()


def test_dvc_commands_work_offline(tmp_path: Path) -> None:
    workspace = with_dvc(tmp_path)
    workspace.run("dvc", "repro", "-q")
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
    assert workspace.ran() == Counter(decompose=1, assemble=1, evaluate=1, aggregate=1, report=1)
    assert workspace.nothing_to_do()
