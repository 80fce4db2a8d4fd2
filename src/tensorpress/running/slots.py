"""Local GPU slots: each job gets devices of its own out of those that are visible.

Snakemake limits how many GPU jobs run but hands out no ids. A lock file per id does; the lock
dies with its process, so a killed job frees its device. Under a scheduler (Slurm, Kubernetes)
the ids it set are taken as they are. Torch-free.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
_SCHEDULERS = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST", "LSB_JOBID", "PBS_JOBID")


def visible_ids(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Device ids a job may use: ``CUDA_VISIBLE_DEVICES``, or all that the driver lists."""
    listed = environment.get(VISIBLE)
    if listed is not None:
        return [part.strip() for part in listed.split(",") if part.strip() not in ("", "-1")]
    if "SLURM_JOB_ID" in environment:
        return []  # Slurm lists what it grants; the driver may list the devices of others
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        output = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return output.split()


@contextmanager
def gpu_slot(
    folder: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    poll_seconds: float = 0.2,
    count: int = 1,
) -> Iterator[str | None]:
    """Hold ``count`` device ids for the duration of the block, waiting until so many are free.

    Yields them joined by commas (all there are, where there are fewer), ``None`` where there is
    no GPU, and the scheduler's own list under a scheduler.
    """
    ids = visible_ids(environment)
    if not ids:
        yield None
        return
    if any(name in environment for name in _SCHEDULERS):
        yield ",".join(ids)
        return
    folder = folder or Path(tempfile.gettempdir()) / f"tensorpress-gpu-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    held = _acquire(folder, ids, min(count, len(ids)), poll_seconds)
    try:
        yield ",".join(held)
    finally:
        _release(held)


def _acquire(folder: Path, ids: list[str], count: int, poll_seconds: float) -> dict[str, FileLock]:
    """Locks of ``count`` ids: all of them or, for the time being, none."""
    while True:
        held: dict[str, FileLock] = {}
        for each in ids:
            lock = FileLock(folder / f"gpu-{each}.lock")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                held[each] = lock
            if len(held) == count:
                return held
        # two jobs that each hold what the other lacks would wait for ever
        _release(held)
        time.sleep(poll_seconds * random.uniform(0.5, 1.5))


def _release(held: Mapping[str, FileLock]) -> None:
    for lock in held.values():
        lock.release()
