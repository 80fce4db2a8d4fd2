"""Whole artifacts or none."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tensorpress.errors import TensorpressError
from tensorpress.files.atomic import is_partial, mark_partial, replacing


def test_replaces_files_and_folders(tmp_path: Path) -> None:
    with replacing(tmp_path / "a/x.txt") as temporary:
        temporary.write_text("1")
        assert not (tmp_path / "a/x.txt").exists()
        assert is_partial(temporary)
    assert (tmp_path / "a/x.txt").read_text() == "1"
    for content in ("old", "new"):
        with replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]


def test_failure_keeps_the_old_artifact_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def stop_half_way() -> None:
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        stop_half_way()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(TensorpressError, match="the disk is full"), replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "x").read_text() == "old"


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".partial-1-x").mkdir()
    (tmp_path / ".partial-2-other-x").mkdir()  # may be at work
    with replacing(tmp_path / "x") as temporary:
        temporary.write_text("1")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".partial-2-other-x", "x"]


def test_what_was_discarded_is_a_leftover(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("damaged")
    mark_partial(tmp_path / "x")
    (left,) = tmp_path.iterdir()
    assert is_partial(left)
    with replacing(tmp_path / "x") as temporary:
        temporary.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_file_size_limit_during_a_real_save(tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: safetensors reports both only as text."""
    code = """
import resource, signal, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from tensorpress.files.atomic import replacing
from tensorpress.errors import TensorpressError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with replacing(Path(sys.argv[1])) as temporary:
        save_file({"x": torch.zeros(100_000)}, temporary)
except TensorpressError as error:
    print(error)
"""
    target = tmp_path / "x.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True
    )
    assert "file-size limit" in done.stdout
    assert list(tmp_path.iterdir()) == []
