"""Rule aggregate: the results tables out of the listed artifacts."""

from pathlib import Path

from tensorpress import paths
from tensorpress.job import job

with job(snakemake):
    from tensorpress.aggregation import RunResult, TaskResult, job_rows, result_rows
    from tensorpress.records import read_all, this_run
    from tensorpress.rows import DecompositionRow, JobRow, ResultRow, read_rows, write_rows

    runs = [
        RunResult(
            model=each.run.model.name,
            recipe=each.recipe,
            layer_set=each.layer_set,
            layers=each.layers,
            methods=each.run.methods,
            seed=each.seed,
            run=each.run.checkpoint.relative_to(paths.RESULTS).as_posix(),
            storage=each.run.storage,
            tasks=tuple(
                TaskResult(e.task_name, e.spec.kind, paths.evaluation_rows(e.id))
                for e in each.evaluations
            ),
        )
        for each in snakemake.params.recipe_runs
    ]
    write_rows(result_rows(runs), ResultRow, Path(snakemake.output.results))
    decompositions = read_rows([Path(p) for p in snakemake.input.decompositions], DecompositionRow)
    write_rows(decompositions, DecompositionRow, Path(snakemake.output.decompositions))
    jobs = job_rows(snakemake.params.jobs, read_all(), this_run())
    write_rows(jobs, JobRow, Path(snakemake.output.jobs))
