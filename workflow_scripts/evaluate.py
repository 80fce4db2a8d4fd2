"""Rule evaluate: metrics of one task on one compressed checkpoint."""

from importlib import import_module
from pathlib import Path

from tensorpress import paths
from tensorpress.job import job

with job(snakemake) as device:
    from tensorpress.evaluation.job import EvaluationJob
    from tensorpress.rows import EvalRow, write_rows

    made = snakemake.params.evaluation
    task = EvaluationJob(
        run_directory=Path(snakemake.input.run),
        dense_directory=made.dense.checkpoint if made.dense else None,
        corpora={role: paths.corpus(corpus.id) for role, corpus in made.corpora.items()},
        device=device,
        moments_directory=made.moments[0] if made.moments else None,
        dtype=made.dtype,
        joined={role: corpus.spec.joined for role, corpus in made.corpora.items()},
    )
    rows = import_module(made.spec.entry).evaluate(task, made.spec)
    write_rows(task.noted(rows), EvalRow, Path(snakemake.output[0]))
