"""Whole artifacts or none: write under a temporary name in the same folder, then rename."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorpress.errors import TensorpressError

UNKEYED = "files have the same content however they are put in place"

_MARK = ".partial-"
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_FULL[errno.EFBIG] = "the file-size limit is reached"


def is_partial(path: Path) -> bool:
    """Whether ``path`` is (inside) what a killed job left behind."""
    return any(part.startswith(_MARK) for part in path.parts)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``target``; on success it becomes ``target``, else vanishes.

    Works for files and directories. Leftovers of killed writers of the same target are removed.
    ``OSError`` for a full disk turns into a ``TensorpressError``; earlier artifacts stay.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f"{_MARK}*-{target.name}"):
        # another target's name may end like this one's
        if leftover.name.removeprefix(_MARK).partition("-")[2] == target.name:
            _remove(leftover)
    temporary = _temporary(target)
    try:
        yield temporary
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except Exception as error:
        _remove(temporary)
        reason = _full_reason(error)
        if reason is None:
            raise
        raise TensorpressError(
            f"cannot save {target}: {reason}; nothing was changed, free space and run again"
        ) from error


def mark_partial(artifact: Path) -> None:
    """Make an artifact a leftover: its next writer removes it, or ``tracking.move_to_attic``.

    One rename, so that nothing is changed through a link.
    """
    os.replace(artifact, _temporary(artifact))


def _temporary(target: Path) -> Path:
    return target.parent / f"{_MARK}{os.getpid()}-{target.name}"


def _full_reason(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.errno in _FULL:
        return _FULL[error.errno]
    # safetensors reports the operating system's error only in its text
    codes = (code for code in _FULL if f"(os error {code})" in str(error))
    return next((_FULL[code] for code in codes), None)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
