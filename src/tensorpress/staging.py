"""Inputs that a storage provider keeps: Snakemake copies them elsewhere. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tensorpress import paths


def lead_to(inputs: Iterable[Path]) -> None:
    """Link the plan's paths, which scripts follow, to copies that lie elsewhere.

    ``.snakemake/storage/s3/bucket/project/results/fetch/…`` becomes ``results/fetch/…``; inputs
    that lie where the plan says are left alone.
    """
    for copy in inputs:
        if paths.RESULTS.name not in copy.parts[1:]:
            continue
        below = copy.parts[::-1].index(paths.RESULTS.name)
        own = paths.RESULTS.joinpath(*copy.parts[len(copy.parts) - below :])
        own.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            own.symlink_to(copy.absolute())
