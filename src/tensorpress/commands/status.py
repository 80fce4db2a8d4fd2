"""How far a study is: its jobs, what is done, running, failed and left, and the time they take.

Artifacts decide what is done; records (``records.py``) tell the rest. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Literal

from pydantic import BaseModel

from tensorpress.files import paths
from tensorpress.planning.jobs import Job
from tensorpress.running.records import Record, read_all

LOCKS = Path(".snakemake/locks")

State = Literal["done", "running", "failed", "left"]


class StageStatus(BaseModel):
    """Jobs of a stage by state. ``used_seconds`` are of its done jobs, as far as recorded.

    ``expected_seconds`` are of the others, each as long as the done ones of its rule took on
    average, of its model where there are some; ``None`` where nothing is known.
    """

    stage: str
    done: int
    running: int
    failed: int
    left: int
    used_seconds: float
    expected_seconds: float | None


class Status(BaseModel):
    """Every stage, their sum, and the records of what runs and what failed."""

    stages: list[StageStatus]
    total: StageStatus
    running: list[Record]
    failed: list[Record]


def status(jobs: Sequence[Job]) -> Status:
    """Where the jobs of a plan stand in the folder of this process."""
    records = {(record.rule, record.name): record for record in read_all()}
    is_driven = any(LOCKS.glob("*.lock"))
    states = {job: _state(job, records.get((job.rule, job.name)), is_driven) for job in jobs}

    @cache
    def usual_seconds(rule: str, model: str) -> float | None:
        took = {
            name: record.wall_seconds
            for (its_rule, name), record in records.items()
            if its_rule == rule and record.state == "done" and record.wall_seconds is not None
        }
        of_model = [seconds for name, seconds in took.items() if name.startswith(f"{model}-")]
        return mean(of_model or took.values()) if took else None

    def count(stage: str, of: Sequence[Job]) -> StageStatus:
        found = [states[job] for job in of]
        used = [records.get((job.rule, job.name)) for job in of if states[job] == "done"]
        expected = [usual_seconds(job.rule, job.model) for job in of if states[job] != "done"]
        known = [seconds for seconds in expected if seconds is not None]
        return StageStatus(
            stage=stage,
            done=found.count("done"),
            running=found.count("running"),
            failed=found.count("failed"),
            left=found.count("left"),
            used_seconds=sum(record.wall_seconds or 0 for record in used if record),
            expected_seconds=sum(known) if len(known) == len(expected) else None,
        )

    def those(state: State) -> list[Record]:
        return [records[job.rule, job.name] for job in jobs if states[job] == state]

    return Status(
        stages=[count(name, [j for j in jobs if j.stage == name]) for name in paths.STAGES],
        total=count("total", jobs),
        running=those("running"),
        failed=[_with_reason(record) for record in those("failed")],
    )


def _state(job: Job, record: Record | None, is_driven: bool) -> State:
    if all(path.exists() for path in job.outputs):
        return "done"
    if record is None or record.state == "done":
        return "left"
    return "running" if record.state == "running" and record.is_alive(is_driven) else "failed"


def _with_reason(record: Record) -> Record:
    if record.state == "failed":
        return record
    return record.model_copy(update={"state": "failed", "error": "killed: its process is gone"})


STAGE_COLUMNS = ("stage", "done", "running", "failed", "left", "time used", "expected for the rest")
RUNNING_COLUMNS = ("job", "for", "on", "devices", "attempt")
FAILED_COLUMNS = ("job", "why", "log")


def stage_rows(found: Status) -> list[tuple[object, ...]]:
    """What a table of the stages shows: stages with jobs, then the total."""
    return [
        (
            s.stage, s.done, s.running, s.failed, s.left,
            _duration(s.used_seconds), _duration(s.expected_seconds),
        )
        for s in (*found.stages, found.total)
        if s.done or s.running or s.failed or s.left
    ]  # fmt: skip


def running_rows(running: Iterable[Record]) -> list[tuple[object, ...]]:
    """What a table of the running jobs shows."""
    now = datetime.now(UTC)
    return [
        (
            f"{r.rule} {r.name}",
            _duration((now - r.started).total_seconds()),
            f"{r.host} (Slurm job {r.slurm_job})" if r.slurm_job else r.host,
            f"{','.join(r.devices)} {r.gpu or ''}".strip() or "waits for one",
            r.attempt,
        )
        for r in running
    ]


def failed_rows(failed: Iterable[Record]) -> list[tuple[object, ...]]:
    """What a table of the failed jobs shows."""
    return [(f"{r.rule} {r.name}", r.error, r.log) for r in failed]


def _duration(seconds: float | None) -> str:
    return "unknown" if seconds is None else str(timedelta(seconds=round(max(seconds, 0))))
