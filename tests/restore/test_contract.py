"""The seven points of docs/design.md, "Snakemake and DVC never disagree", as a user meets them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from support.faults import copy_of
from support.workspace import EVERYTHING, Workspace


def assert_settled(workspace: Workspace) -> None:
    """Neither tool finds anything to do, and asking DVC to run runs nothing."""
    assert workspace.nothing_to_do()
    assert workspace.dvc_clean()
    workspace.run("dvc", "repro", "-q")
    assert workspace.ran() == Counter()


@pytest.mark.parametrize("cache_type", ["copy", "hardlink", "symlink"])
def test_snakemake_and_dvc_agree(made: Path, tmp_path: Path, cache_type: str) -> None:
    workspace = copy_of(made, tmp_path / "project")
    workspace.run("dvc", "config", "cache.type", cache_type)

    # 1: snakemake, then nothing to do; handed to DVC, clean
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
    expected = Counter(evaluate=3, aggregate=1, report=1, site=1)
    assert workspace.planned() == expected
    workspace.run("dvc", "repro", "-q")
    assert workspace.ran() == expected
    workspace.edit("params.yaml", "rank: 8", "rank: 6")
    expected = Counter(decompose=1, assemble=1, evaluate=1, aggregate=1, report=1, site=1)
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
        "src/tensorpress/methods/svd.py", "BATCH_VALUES = 2**24\n", "BATCH_VALUES = 2**23\n"
    )  # fmt: skip
    assert clone.planned() == expected
    clone.run("dvc", "repro", "-q")
    assert clone.ran() == expected
    assert_settled(clone)

    # 7: comments and order of params, a comment in code
    clone.edit("params.yaml", "storage:", "# a comment\nstorage:")
    assert_settled(clone)
    clone.edit("src/tensorpress/methods/svd.py", "BATCH_VALUES =", "# why\nBATCH_VALUES =")
    assert clone.nothing_to_do()
    clone.run("dvc", "repro", "-q")
    assert clone.ran() == Counter()
    assert_settled(clone)
