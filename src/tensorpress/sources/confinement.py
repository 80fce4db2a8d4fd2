"""Paths in params stay inside of the project, or of folders that ``external`` declares.

Torch-free.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tensorpress.errors import TensorpressError
from tensorpress.sources.companions import TEMPLATES

SNAPSHOTS = "snapshots"
"""Folder of a hub cache whose folders hold links into ``blobs``, two levels up."""


def check_inside(value: str, where: str, external: Sequence[str]) -> None:
    """Refuse a path that leads out, itself or by a link among a folder's files.

    ``where`` begins the error. Links are followed: a folder of links (DVC, a hub cache) is as good
    as what they lead to, so the repository that a hub snapshot belongs to counts as its folder.
    """
    if not value or "\0" in value:
        raise TensorpressError(f"{where}: {value!r} is not allowed; allowed: a path")
    path = Path(value)
    roots = [_real(Path.cwd()), *(_real(Path(folder)) for folder in external)]
    _check(path, roots, f"{where}: {value!r}", external)
    if path.is_dir():
        folder = _real(path)
        if folder.parent.name == SNAPSHOTS:
            roots.append(folder.parents[1])
        files = [each for each in path.iterdir() if not each.is_dir()]
        for file in sorted([*files, *(path / TEMPLATES).glob("*")]):
            name = str(file.relative_to(path))
            _check(file, roots, f"{where}: {name!r} of {value!r}", external)


def _check(path: Path, roots: Sequence[Path], what: str, external: Sequence[str]) -> None:
    real = _real(path)
    if not any(real.is_relative_to(root) for root in roots):
        declared = ", ".join(external) or "none yet"
        raise TensorpressError(
            f"{what} leads to {real} and is not allowed; allowed: paths inside of the project, or "
            f"of the folders that external lists ({declared})"
        )


def _real(path: Path) -> Path:
    # Path.resolve raises on a link that leads to itself
    return Path(os.path.realpath(path))
