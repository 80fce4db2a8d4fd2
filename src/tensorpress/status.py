"""How far a study is: its jobs, what is done, running, failed and left, and the time they take.

Artifacts decide what is done; records (``records.py``) tell the rest. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Literal

from pydantic import BaseModel

from tensorpress import paths
from tensorpress.plan import Plan
from tensorpress.records import Record, read_all

LOCKS = Path(".snakemake/locks")

_STAGES = {"fetch_model": "fetch", "fetch_corpus": "fetch", "report": "reports"}
"""Stages that are not named as their rule."""

State = Literal["done", "running", "failed", "left"]


@dataclass(frozen=True)
class Job:
    """One job of a plan; ``model`` is empty where it serves several."""

    rule: str
    name: str
    model: str
    outputs: tuple[Path, ...]

    @property
    def stage(self) -> str:
        return _STAGES.get(self.rule, self.rule)


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


def live_jobs(plan: Plan) -> list[Job]:
    """The jobs that make a plan's live artifacts, in the order of the pipeline."""
    live = plan.live()
    tables = tuple(Path(table) for table in live["aggregate"])
    jobs = [
        *(Job("fetch_model", m.id, m.name, (m.checkpoint,)) for m in plan.fetched.values()),
        *(Job("fetch_corpus", c.id, "", (paths.corpus(c.id),)) for c in plan.corpora.values()),
        *(Job("transform", m.id, m.name, (m.checkpoint,)) for m in plan.transformed.values()),
        *(Job("calibrate", c.id, c.model.name, (paths.calibration(c.id),))
          for c in plan.calibrations.values()),
        *(Job("advise", a.id, a.calibration.model.name, (paths.advice(a.id),))
          for a in plan.advices.values()),
        *(Job("decompose", p.job_name, p.decomposition.model.name, (p.factors, p.rows))
          for p in plan.used_decompositions),
        *(Job("assemble", r.id, r.model.name, (r.checkpoint, r.storage))
          for r in plan.runs.values()),
        *(Job("recover", r.id, r.model.name, (r.checkpoint, r.storage))
          for r in plan.recoveries.values()),
        *(Job("evaluate", e.id, e.run.model.name, (paths.evaluation_rows(e.id),))
          for e in plan.evaluations.values()),
        Job("aggregate", plan.table_id, "", tables),
        *(Job("report", r.id, r.spec.model, (paths.report(r.id),)) for r in plan.reports.values()),
    ]  # fmt: skip
    wanted = {path for stage in live.values() for path in stage}
    return [job for job in jobs if str(job.outputs[0]) in wanted]


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
