"""What jobs guard against: folders that cannot be written, clocks moved back, damaged artifacts.

Torch-free.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.atomic import mark_partial

_SPLIT = re.compile(r"[\s&;<>()$`\"'\\|*?{}]")
"""What a shell does not take as part of a word."""
_STAMP = ".snakemake_timestamp"
"""What holds the time of a folder that Snakemake made."""


def check_place(project: Path, python: str) -> None:
    """Refuse folders whose names Snakemake takes for something else, before it fails on them."""
    if set("{}") & set(str(project)):
        raise TensorpressError(
            f"{project}: a project in a folder with {{ or }} in its name is not allowed; allowed: "
            "any other name (Snakemake takes these for wildcards)"
        )
    if _SPLIT.search(python):
        raise TensorpressError(
            f"{python}: a Python in a folder with a space or a sign of the shell in its name is "
            "not allowed; allowed: an environment elsewhere, as 'make run' makes one (Snakemake "
            "starts jobs by its unquoted path)"
        )


def check_environments(project: Path, here: Path) -> None:
    """Refuse environments of conda in a folder of params and inputs alone.

    They install the project by paths that Snakemake takes from the working directory
    (``envs/tensorpress.yaml``).
    """
    if project.resolve() != here.resolve():
        raise TensorpressError(
            f"{here}: --software-deployment-method conda outside of the project's folder is not "
            "allowed; allowed: in the folder of a checkout, or without it the environment that "
            "Snakemake runs in"
        )


def check_writable(artifacts: Iterable[str]) -> None:
    """Refuse to begin where what is missing could not be saved in the end."""
    missing = {path.parent for path in map(Path, artifacts) if not path.exists()}
    for folder in sorted({*missing, paths.LOGS}):
        while not folder.exists():
            folder = folder.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise TensorpressError(
                f"{folder}: a read-only folder is not allowed; allowed: one that can be written"
            )


def clamp_future_times(inputs: Iterable[Path]) -> None:
    """Date inputs from the future to now, as a clock that was moved back leaves them behind.

    Snakemake fails a job whose output is older than its inputs, ancient or not.
    """
    for path in inputs:
        dated = path / _STAMP if (path / _STAMP).exists() else path
        # not through links: Snakemake looks at the link, and what it leads to may be DVC's
        if dated.lstat().st_mtime > time.time():
            with suppress(PermissionError):  # another user's
                os.utime(dated, follow_symlinks=False)


def quarantine(damaged: Path, inputs: Iterable[Path]) -> Path | None:
    """Discard the input that ``damaged`` is (part of), so that the next run makes it anew.

    What its job made beside it goes too: Snakemake would not write over a read-only file of DVC's.
    Returns the input. A file that is none of them is left alone: it is the user's.
    """
    artifact = next((path for path in inputs if path in (damaged, *damaged.parents)), None)
    if artifact is None:
        return None
    for made in paths.made_with(artifact):
        with suppress(FileNotFoundError):  # there is none, or another job was faster
            mark_partial(made)
    return artifact
