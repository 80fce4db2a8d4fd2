"""Join what every run measured with what it is, and every job with what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from tensorpress.checkpoints.rows import (
    EvalRow,
    JobRow,
    RecipeRow,
    ResultRow,
    StorageRow,
    read_rows,
)
from tensorpress.planning.compression import Compression
from tensorpress.planning.jobs import Job
from tensorpress.running.records import Record


@dataclass(frozen=True)
class TaskResult:
    """Where the metrics of one task on one run lie."""

    task: str
    kind: str
    rows: Path


@dataclass(frozen=True)
class RunResult:
    """One recipe on one model and layer set: what it is and where its numbers lie."""

    recipe: RecipeRow
    compression: Compression
    storage: Path
    tasks: tuple[TaskResult, ...]


def result_rows(runs: Iterable[RunResult]) -> list[ResultRow]:
    """One row per metric of every listed run."""
    return [row for run in runs for row in _rows(run)]


def _rows(run: RunResult) -> Iterable[ResultRow]:
    (storage,) = read_rows([run.storage], StorageRow)
    known = {**asdict(run.recipe), **asdict(run.compression), **asdict(storage)}
    for task in run.tasks:
        for measured in read_rows([task.rows], EvalRow):
            yield ResultRow(task=task.task, kind=task.kind, **known, **asdict(measured))


def job_rows(jobs: Iterable[Job], records: Iterable[Record], this_run: str) -> list[JobRow]:
    """One row per job: what it cost, by its record, and whether this run made it."""
    known = {(record.rule, record.name): record for record in records if record.state == "done"}
    found = [(job, known.get((job.rule, job.name))) for job in jobs]
    began: dict[str, datetime] = {}
    for _, record in found:
        if record:
            began[record.driver] = min(record.started, began.get(record.driver, record.started))
    return [_job_row(job, record, this_run, began) for job, record in found]


def _job_row(job: Job, record: Record | None, this_run: str, began: dict[str, datetime]) -> JobRow:
    row = JobRow(job.model, job.stage, job.rule, job.name, made="elsewhere")
    if record is None:
        return row
    return replace(
        row,
        made="this run" if record.driver == this_run else "earlier run",
        driver=record.driver,
        attempts=record.attempt,
        host=record.host,
        devices=",".join(record.devices),
        gpus=record.gpus,
        gpu=record.gpu,
        started=record.started.isoformat(timespec="seconds"),
        started_seconds=(record.started - began[record.driver]).total_seconds(),
        wall_seconds=record.wall_seconds,
        peak_rss_mb=record.peak_rss_mb,
    )
