"""Join what every run measured with what it is, and every job with what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from tensorpress.checkpoints.rows import (
    EvalRow,
    JobRow,
    ModelRow,
    RecipeRow,
    ResultRow,
    StorageRow,
    read_rows,
)
from tensorpress.config.params import BASELINE
from tensorpress.files import paths
from tensorpress.files.storage import VALUE_BITS
from tensorpress.planning.artifacts import AnyCheckpoint, RecipeRun
from tensorpress.planning.compression import Compression
from tensorpress.planning.jobs import Job
from tensorpress.running.records import Record
from tensorpress.sources.embedded.specs import spec_of
from tensorpress.sources.inputs import EmbeddedModel


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
    model: ModelRow
    compression: Compression
    storage: Path
    tasks: tuple[TaskResult, ...]


def recipe_row(run: RecipeRun) -> RecipeRow:
    """Which recipe on which model, as tables name them."""
    model = run.run.model
    derived = model.name if model.derived_by else None
    entry = run.recipe if run.recipe != BASELINE else None

    def named(recipe: str | None) -> str | None:
        return "/".join(filter(None, (derived, recipe))) or None

    return RecipeRow(
        model=model.compared_model,
        derived=derived,
        recipe=named(entry) or BASELINE,
        recipe_entry=entry,
        compared_with=run.compared_with and named(run.compared_with),
        layer_set=run.layer_set,
        layers=run.layers,
        layer_count=len(run.layers),
        seed=run.seed,
        run=run.run.checkpoint.relative_to(paths.RESULTS).as_posix(),
    )


def model_row(run: AnyCheckpoint) -> ModelRow:
    """What the model of a checkpoint is."""
    model, source = run.model, run.model.spec
    row = partial(
        ModelRow,
        objective=model.architecture.family.objective,
        hidden_size=model.architecture.shape(0).hidden_size,
        value_bits=VALUE_BITS[run.assembled.dtype],
    )
    if len(model.lineage) > 1 or not isinstance(source, EmbeddedModel):  # no such model itself
        return row()
    spec = spec_of(f"models.{model.name}", source.name, source.width)
    return row(
        trained_as=source.name,
        training_seed=source.seed,
        training_tokens=spec.steps(source.progress) * spec.batch_tokens,
        training_progress=source.progress,
    )


def result_rows(runs: Iterable[RunResult]) -> list[ResultRow]:
    """One row per metric of every listed run."""
    return [row for run in runs for row in _rows(run)]


def _rows(run: RunResult) -> Iterable[ResultRow]:
    (storage,) = read_rows([run.storage], StorageRow)
    parts = (run.recipe, run.model, run.compression, storage)
    known = {name: value for part in parts for name, value in asdict(part).items()}
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
