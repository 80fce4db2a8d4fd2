"""The seven points of docs/design.md, "Snakemake and DVC never disagree", as a user meets them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from workspace import Workspace

EVERYTHING = Counter(
    fetch_model=1,
    fetch_corpus=1,
    calibrate=1,
    decompose=2,
    assemble=3,
    evaluate=3,
    aggregate=1,
    report=1,
)


def with_dvc(folder: Path, cache_type: str = "copy") -> Workspace:
    """A workspace under DVC with a local-directory remote."""
    workspace = Workspace.create(folder / "project")
    shutil.rmtree(workspace.folder / ".dvc", ignore_errors=True)
    workspace.run("dvc", "init", "-q", "-f")
    workspace.run("dvc", "config", "core.analytics", "false")
    workspace.run("dvc", "config", "cache.type", cache_type)
    workspace.run("dvc", "remote", "add", "-q", "-d", "local", str(folder / "remote"))
    workspace.commit("dvc")
    return workspace


def assert_settled(workspace: Workspace) -> None:
    """Neither tool finds anything to do, and asking DVC to run runs nothing."""
    assert workspace.nothing_to_do()
    assert workspace.dvc_clean()
    workspace.run("dvc", "repro", "-q")
    assert workspace.ran() == Counter()


@pytest.mark.parametrize("cache_type", ["copy", "hardlink", "symlink"])
def test_snakemake_and_dvc_agree(tmp_path: Path, cache_type: str) -> None:
    workspace = with_dvc(tmp_path, cache_type)

    # 1: snakemake, then nothing to do; handed to DVC, clean
    workspace.snakemake()
    assert workspace.ran() == EVERYTHING
    workspace.run("tensorpress", "record")
    assert_settled(workspace)
    workspace.commit("X")

    # 2: from scratch by DVC
    for name in ("results", ".snakemake", ".dvc/cache"):
        shutil.rmtree(workspace.folder / name, ignore_errors=True)
    (workspace.folder / "dvc.lock").unlink()
    workspace.git("checkout", "-q", "--", "results")
    workspace.run("dvc", "repro", "-q")
    assert workspace.ran() == EVERYTHING
    assert_settled(workspace)
    workspace.commit("X by dvc")
    workspace.run("dvc", "push", "-q")

    # 3: an evaluate parameter, then one method's rank; both tools select the same jobs
    workspace.edit("params.yaml", "max_windows: 4", "max_windows: 3")
    expected = Counter(evaluate=3, aggregate=1, report=1)
    assert workspace.planned() == expected
    workspace.run("dvc", "repro", "-q")
    assert workspace.ran() == expected
    workspace.edit("params.yaml", "rank: 8", "rank: 6")
    expected = Counter(decompose=1, assemble=1, evaluate=1, aggregate=1, report=1)
    assert workspace.planned() == expected
    workspace.run("dvc", "repro", "-q")
    assert workspace.ran() == expected
    assert_settled(workspace)
    workspace.commit("Y")
    workspace.run("dvc", "push", "-q")

    # 4: back to X, forth to Y
    for revision in ("HEAD~1", "main"):
        workspace.git("checkout", "-q", revision)
        workspace.run("dvc", "checkout", "-q")
        assert_settled(workspace)

    # 5: a fresh clone, pulled; then an edit of a method's code
    clone = Workspace(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", workspace.folder, clone.folder], check=True)
    clone.run("dvc", "config", "--local", "cache.type", cache_type)
    clone.run("dvc", "pull", "-q")
    for path in list((clone.folder / "results").rglob("*.parquet"))[:3]:
        os.utime(path, (0, 0))
    assert_settled(clone)
    clone.edit(
        "src/tensorpress/methods/svd.py", "from __future__ import annotations\n",
        "from __future__ import annotations\n\nMARK = 1\n",
    )  # fmt: skip
    assert clone.planned() == expected
    clone.run("dvc", "repro", "-q")
    assert clone.ran() == expected
    assert_settled(clone)

    # 7: comments and order of params, a comment in code
    clone.edit("params.yaml", "storage:", "# a comment\nstorage:")
    assert_settled(clone)
    clone.edit("src/tensorpress/methods/svd.py", "MARK = 1\n", "# why\nMARK = 1\n")
    assert clone.nothing_to_do()
    clone.run("dvc", "repro", "-q")
    assert clone.ran() == Counter()
    assert_settled(clone)


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
