"""What each job says of itself: when, where, on which device, how much memory, how it ended.

Records lie beside the logs and are part of no stage: Snakemake and DVC know nothing of them, and a
job that cannot write its record runs all the same. Torch-free.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, computed_field

from tensorpress.errors import TensorpressError
from tensorpress.files import paths, stopwatch
from tensorpress.files.atomic import is_partial, replacing
from tensorpress.files.resident import peak_resident_bytes

UNKEYED = "what jobs cost is part of no key"

RUN = "TENSORPRESS_RUN"
"""Environment variable by which a driver names itself to its jobs."""

NO_GPU = ("cpu",)
"""Devices of a job that was granted no GPU."""


def this_run(driver: int | None = None) -> str:
    """Identity of the driver at work: the first process that asks, for all that it starts.

    Several processes that one ``driver`` starts may name it by its process id.
    """
    process = psutil.Process(driver)
    began = datetime.fromtimestamp(process.create_time(), UTC)
    return os.environ.setdefault(RUN, f"{began:%Y%m%dT%H%M%SZ}-{process.pid}")


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class Record(BaseModel):
    """The last attempt at one job.

    ``name`` identifies the job within its rule, as in the name of its log. ``attempt`` counts from
    one since the job last succeeded. ``devices`` are the ids granted (``cpu`` where there is none,
    nothing while the job waits for one), ``gpu`` is what CUDA calls the first, ``dtype`` the
    precision in which the job ran models; ``driver`` is what ``this_run`` calls the driver that
    started it. Times are UTC; ``start_seconds`` is from the start of its script to the grant:
    Python, imports, the wait for a device. ``wall_seconds`` runs from the grant and is not taken
    from the clock, which may be set; ``load_seconds`` of them it read models. ``cpu_seconds`` are
    those of its process and of what that started. ``peak_rss_mb`` is of the job's own process, in
    10^6 bytes.
    """

    model_config = ConfigDict(frozen=True)

    rule: str
    name: str
    state: Literal["running", "done", "failed"] = "running"
    driver: str
    attempt: int
    host: str
    pid: int
    slurm_job: str | None = None
    devices: tuple[str, ...] = ()
    gpu: str | None = None
    dtype: str | None = None
    started: datetime
    ended: datetime | None = None
    start_seconds: float | None = None
    wall_seconds: float | None = None
    load_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_rss_mb: float | None = None
    error: str | None = None
    _began: float = PrivateAttr(default_factory=time.monotonic)

    @classmethod
    def begin(cls, rule: str, name: str) -> Record:
        """A job of this process that begins now."""
        earlier = read(rule, name)
        return cls(
            rule=rule,
            name=name,
            driver=this_run(),
            attempt=earlier.attempt + 1 if earlier and earlier.state != "done" else 1,
            host=_host(),
            pid=os.getpid(),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            started=datetime.now(UTC),
        )

    def granted(self, slot: str | None, gpu: str | None, dtype: str | None, began: float) -> Record:
        """The same job at work on the devices of a slot; ``began``: when its script did."""
        devices = tuple(slot.split(",")) if slot else NO_GPU
        at_work = self.model_copy(
            update={
                "devices": devices,
                "gpu": gpu,
                "dtype": dtype,
                "started": datetime.now(UTC),
                "start_seconds": round(time.time() - began, 3),
            }
        )
        at_work._began = time.monotonic()
        return at_work

    def finished(self, error: str | None = None) -> Record:
        """The same job at its end."""
        return self.model_copy(
            update={
                "state": "failed" if error else "done",
                "ended": datetime.now(UTC),
                "wall_seconds": round(time.monotonic() - self._began, 3),
                "load_seconds": round(stopwatch.seconds(stopwatch.LOAD), 3),
                "cpu_seconds": round(sum(os.times()[:4]), 3),
                "peak_rss_mb": round(peak_resident_bytes() / 1e6, 1),
                "error": error,
            }
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def log(self) -> Path:
        """Where a traceback is, if it failed."""
        return paths.LOGS / self.rule / f"{self.name}.log"

    @property
    def gpus(self) -> int:
        """How many devices it holds that are no CPU."""
        return 0 if self.devices == NO_GPU else len(self.devices)

    def write(self) -> None:
        """Save, replacing that of an earlier attempt; nothing happens where that is impossible."""
        with (
            suppress(OSError, TensorpressError),
            replacing(paths.record(self.rule, self.name)) as temporary,
        ):
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def is_alive(self, is_driven: bool) -> bool:
        """Whether its process is there; on another host, whether a driver is at work."""
        return psutil.pid_exists(self.pid) if self.host == _host() else is_driven


def read(rule: str, name: str) -> Record | None:
    """The record of a job, ``None`` where there is none that can be read."""
    return _read(paths.record(rule, name))


def read_all() -> list[Record]:
    """Every record of the project, superseded artifacts' included."""
    files = (path for path in paths.RECORDS.glob("*/*.json") if not is_partial(path))
    return [record for record in map(_read, files) if record]


def _read(path: Path) -> Record | None:
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def run_line(records: Iterable[Record], run: str) -> str:
    """One line on what a driver's jobs came to."""
    mine = [record for record in records if record.driver == run and record.ended]
    if not mine:
        return "this run: no jobs"
    began, ended = min(r.started for r in mine), max(r.ended for r in mine if r.ended)
    failed = sum(record.state == "failed" for record in mine)
    most = max(mine, key=lambda record: record.peak_rss_mb or 0)
    return (
        f"this run: {len(mine) - failed} jobs done, {failed} failed, "
        f"{sum(r.wall_seconds or 0 for r in mine):.0f} s of jobs "
        f"in {(ended - began).total_seconds():.0f} s, "
        f"peak memory {most.peak_rss_mb or 0:.0f} MB ({most.rule})"
    )
