"""Rule aggregate: the results tables out of the listed artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorpress.checkpoints.rows import (
    DecompositionRow,
    JobRow,
    ResultRow,
    read_rows,
    write_rows,
)
from tensorpress.methods.advised import Advice
from tensorpress.planning.artifacts import RecipeRun
from tensorpress.planning.compression import compression_of
from tensorpress.planning.jobs import Job
from tensorpress.running.records import read_all, this_run
from tensorpress.stages.aggregation import (
    RunResult,
    TaskResult,
    job_rows,
    model_row,
    recipe_row,
    result_rows,
)


def run(
    recipe_runs: Sequence[RecipeRun],
    jobs: Sequence[Job],
    advices: Mapping[str, Path],
    evaluations: Sequence[Path],
    storage: Sequence[Path],
    decompositions: Sequence[Path],
    results_table: Path,
    decompositions_table: Path,
    jobs_table: Path,
) -> None:
    """Write the three tables; each evaluation and checkpoint once, in the order of the runs.

    ``advices`` by id.
    """
    known = {name: Advice.model_validate_json(f.read_text("utf-8")) for name, f in advices.items()}
    measured = dict.fromkeys(e.id for each in recipe_runs for e in each.evaluations)
    rows_of = dict(zip(measured, evaluations, strict=True))
    bits_of = dict(zip(dict.fromkeys(each.run.id for each in recipe_runs), storage, strict=True))
    runs = [
        RunResult(
            recipe=recipe_row(each),
            model=model_row(each.run),
            compression=compression_of(each.run, known),
            storage=bits_of[each.run.id],
            tasks=tuple(
                TaskResult(e.task_name, e.spec.kind, rows_of[e.id]) for e in each.evaluations
            ),
        )
        for each in recipe_runs
    ]
    write_rows(result_rows(runs), ResultRow, results_table)
    rows = read_rows(decompositions, DecompositionRow)
    write_rows(rows, DecompositionRow, decompositions_table)
    write_rows(job_rows(jobs, read_all(), this_run()), JobRow, jobs_table)
