"""Join what every run measured with what it is, into the results tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tensorpress.rows import EvalRow, ResultRow, StorageRow, read_rows


@dataclass(frozen=True)
class TaskResult:
    """Where the metrics of one task on one run lie."""

    task: str
    kind: str
    rows: Path


@dataclass(frozen=True)
class RunResult:
    """One recipe on one model and layer set: what it is and where its numbers lie."""

    model: str
    recipe: str
    layer_set: str
    layers: tuple[int, ...]
    methods: tuple[str, ...]
    seed: int | None
    run: str
    storage: Path
    tasks: tuple[TaskResult, ...]


def result_rows(runs: Iterable[RunResult]) -> list[ResultRow]:
    """One row per metric of every listed run."""
    return [row for run in runs for row in _rows(run)]


def _rows(run: RunResult) -> Iterable[ResultRow]:
    (storage,) = read_rows([run.storage], StorageRow)
    for task in run.tasks:
        for measured in read_rows([task.rows], EvalRow):
            yield ResultRow(
                model=run.model,
                recipe=run.recipe,
                layer_set=run.layer_set,
                layers=",".join(map(str, run.layers)),
                layer_count=len(run.layers),
                methods="+".join(run.methods),
                seed=run.seed,
                run=run.run,
                task=task.task,
                kind=task.kind,
                **dataclasses.asdict(storage),
                **dataclasses.asdict(measured),
            )
